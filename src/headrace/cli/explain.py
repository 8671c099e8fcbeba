"""`headrace explain ID`: what happened to one request, straight from the store."""

import asyncio
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace import app
from headrace.cli.report import console, emit_json, settings
from headrace.cli.sheet import show_rows
from headrace.cli.stored import dollars, when
from headrace.errors import NotFound
from headrace.gateway.explanation import explanation
from headrace.store import traces as store
from headrace.store.booked import booked
from headrace.store.traces import Content, TraceRow


def explain(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The request, as x-request-id named it.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """What happened to one request: parameters, decisions, calls, times, cost."""
    chosen = settings(ctx)

    async def work() -> dict[str, Any]:
        async with app.open_trace_stores(chosen) as stores:
            return await explain_stored(stores, id)

    show_explanation(asyncio.run(work()), as_json=as_json)


async def explain_stored(stores: app.TraceStores, id: str) -> dict[str, Any]:
    """As GET /v1/requests/{id}/explain answers an admin.

    Raises: NotFound.
    """

    async def work(connection: AsyncConnection) -> tuple[TraceRow | None, Content | None]:
        return await store.get(connection, id), await store.content(connection, id)

    row, content = await stores.traces.read(work)
    if row is None:
        raise NotFound(
            f"there is no trace of the request {id[:80]!r}: it is older than traces are kept, was "
            "sampled out, or ended less than a second ago"
        )
    ledger = await stores.main.read(lambda connection: booked(connection, id))
    return explanation(row, content, ledger)


def show_explanation(found: dict[str, Any], *, as_json: bool) -> None:
    """Print it."""
    if as_json:
        emit_json(found)
        return
    out = console()
    whose = f"{found['org']}/{found['team']} {found['key_id']}"
    out.print(f"{found['id']}  {when(int(found['started_s']))}  {whose}", markup=False)
    out.print(
        f"{found['route']} {found['model']}: {found['status']} {found['finish']} in "
        f"{found['timings']['duration_s']:.3f} s, {found['usage']['prompt_tokens']} + "
        f"{found['usage']['completion_tokens']} tokens",
        markup=False,
    )
    cost = found["cost"]["nanousd"]
    out.print("no ledger" if cost is None else f"cost {dollars(cost)}", markup=False)
    for columns, rows in (
        (
            ("decision", "why", "with"),
            [(n["hop"], n["text"], _facts(n["facts"])) for n in found["decisions"]],
        ),
        (
            ("call to", "model", "outcome"),
            [
                (
                    leg["provider"] or "local",
                    leg["model"],
                    f"{leg['outcome']} {leg['seconds']:.3f}s",
                )
                for leg in found["legs"]
            ],
        ),
        (
            ("parameter", "value", "from"),
            [
                (name, str(each["value"]), each["origin"])
                for name, each in found["parameters"].items()
                if each["origin"] != "default"
            ],
        ),
        (
            ("span", "from", "to"),
            [
                (s["name"], f"{s['start_s'] * 1e3:.2f} ms", f"{s['end_s'] * 1e3:.2f} ms")
                for s in found["spans"]
            ],
        ),
    ):
        if rows:
            out.print()
            show_rows(columns, rows)
    out.print()
    out.print(f"content: {found['content']}", markup=False)
    for name in ("prompt", "answer"):
        if found[name] is not None:
            out.print(f"{name}: {found[name]}", markup=False)


def _facts(facts: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in facts.items())
