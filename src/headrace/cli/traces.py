"""`headrace traces list|show|delete|export|policy`: what became of requests, and whose is kept."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace import app
from headrace.cli.explain import explain_stored, show_explanation
from headrace.cli.report import emit_json, settings
from headrace.cli.sheet import show_rows
from headrace.cli.stored import dollars, instant, note, when
from headrace.errors import UserError
from headrace.store import traces as store
from headrace.store.database import Database, bump
from headrace.store.identity import must_be
from headrace.store.traces import MILLION, Policy, TraceRow, Which

traces = typer.Typer(no_args_is_help=True, help="What became of requests.")
policy = typer.Typer(no_args_is_help=True, help="Whose content is kept, and how long.")
traces.add_typer(policy, name="policy")

T = TypeVar("T")
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
IdOption = Annotated[str | None, typer.Option("--id", help="One request.")]
OrgOption = Annotated[str | None, typer.Option(help="Of this organization.")]
TeamOption = Annotated[str | None, typer.Option(help="Of this team.")]
KeyOption = Annotated[str | None, typer.Option(help="Of this key's id.")]
EndUserOption = Annotated[str | None, typer.Option(help="Of this end user.")]
ModelOption = Annotated[str | None, typer.Option(help="Of this model.")]
SinceOption = Annotated[str | None, typer.Option(help="A date, or 24h for the last 24 hours.")]
UntilOption = Annotated[str | None, typer.Option(help="A date, or 30d for 30 days ago.")]


@traces.callback()
def group() -> None:
    """What became of requests."""


@traces.command("list")
def list_(
    ctx: typer.Context,
    org: OrgOption = None,
    team: TeamOption = None,
    key: KeyOption = None,
    end_user: EndUserOption = None,
    model: ModelOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only errors.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """The newest requests."""
    which = Which(
        org=org,
        team=team,
        key=key,
        end_user=end_user,
        model=model,
        since_s=_back(since),
        until_s=_back(until),
        failed=failed,
    )
    rows = _run(ctx, lambda s: s.traces.read(lambda c: store.find(c, which, limit=limit)))
    if as_json:
        emit_json([_row(row) for row in rows])
        return
    show_rows(
        ("when", "id", "team", "model", "answer", "ms", "tokens", "cost"),
        [
            (
                when(row.created_s),
                row.id,
                row.team,
                row.model,
                f"{row.status} {row.finish}",
                f"{row.duration_us / 1000:.0f}",
                f"{row.prompt_tokens}+{row.completion_tokens}",
                dollars(row.cost_nanousd),
            )
            for row in rows
        ],
        whole=("id",),
    )


@traces.command()
def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The request, as x-request-id named it.")],
    as_json: JsonOption = False,
) -> None:
    """Everything about one request; `headrace explain` is the same."""
    show_explanation(_run(ctx, lambda s: explain_stored(s, id)), as_json=as_json)


@traces.command()
def delete(
    ctx: typer.Context,
    id: IdOption = None,
    org: OrgOption = None,
    team: TeamOption = None,
    key: KeyOption = None,
    end_user: EndUserOption = None,
    until: UntilOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete traces and their content for good: from the tables and from the files."""
    which = Which(id=id, org=org, team=team, key=key, end_user=end_user, until_s=_back(until))
    if which.empty:
        raise UserError("say which: --id, --org, --team, --key, --end-user or --until")
    if not yes and not typer.confirm("Delete these traces for good?"):
        raise typer.Exit(1)

    async def work(stores: app.TraceStores) -> tuple[int, bool]:
        removed = 0
        while found := await stores.traces.write(lambda c: store.remove(c, which)):
            removed += found

        async def audited(connection: AsyncConnection) -> None:
            await note(
                connection,
                "traces.delete",
                team or org or "all",
                org=org or "",
                team=team or "",
                detail={"removed": removed},
            )

        await stores.main.write(audited)
        return removed, await stores.traces.scrub(*store.TABLES)

    removed, scrubbed = _run(ctx, work)
    typer.echo(f"deleted {removed} traces")
    if not scrubbed:
        raise UserError(
            "somebody reads from the database just now, so its log could not be emptied: deleted "
            "text may still be in it; run this again"
        )


@traces.command()
def export(
    ctx: typer.Context,
    org: OrgOption = None,
    team: TeamOption = None,
    end_user: EndUserOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """Every trace as a line of JSON, with its content where that was kept; newest first."""
    which = Which(org=org, team=team, end_user=end_user, since_s=_back(since), until_s=_back(until))

    async def work(stores: app.TraceStores) -> None:
        async for row, said in _pages(stores.traces, which):
            line: dict[str, Any] = {**_row(row), "trace": json.loads(row.body)}
            if said is not None:
                line["prompt"] = json.loads(said.prompt)
                line["answer"] = json.loads(said.answer)
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")

    _run(ctx, work)


@policy.command("list")
def policy_list(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Organizations and teams that want other than the settings."""
    found = _run(ctx, lambda s: s.main.read(store.all_policies))
    if as_json:
        emit_json([each._asdict() for each in found])
        return
    show_rows(("whose", "content kept", "days"), [_policy(each) for each in found])


@policy.command("set")
def policy_set(
    ctx: typer.Context,
    subject: Annotated[str, typer.Argument(help="org:NAME or team:NAME.")],
    content_rate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Part of the requests whose content is kept."),
    ] = None,
    retention_days: Annotated[int | None, typer.Option(min=1, help="Days.")] = None,
) -> None:
    """Set both; what is left out is as above it: the organization's, or the settings'."""
    scope, separator, name = subject.partition(":")
    if not separator or scope not in store.SCOPES or not name:
        raise UserError(f"{subject!r} is neither org:NAME nor team:NAME")
    ppm = None if content_rate is None else round(content_rate * MILLION)
    wanted = Policy(scope, name, ppm, retention_days)

    async def work(connection: AsyncConnection) -> None:
        await must_be(connection, **{scope: name})
        await store.set_policy(connection, wanted)
        team = name if scope == "team" else ""
        await note(connection, "traces.policy", subject, team=team, detail=wanted._asdict())
        await bump(connection)

    _run(ctx, lambda s: s.main.write(work))
    whose, content, days = _policy(wanted)
    typer.echo(f"{whose}: content kept {content}, days {days}")


def _policy(policy: Policy) -> tuple[str, str, str]:
    ppm, days = policy.content_ppm, policy.retention_days
    return (
        f"{policy.scope}:{policy.subject}",
        "as above" if ppm is None else f"{ppm / 10_000:g} %",
        "as above" if days is None else str(days),
    )


def _run(ctx: typer.Context, work: Callable[[app.TraceStores], Awaitable[T]]) -> T:
    chosen = settings(ctx)

    async def whole() -> T:
        async with app.open_trace_stores(chosen) as stores:
            return await work(stores)

    return asyncio.run(whole())


async def _pages(
    database: Database, which: Which
) -> AsyncIterator[tuple[TraceRow, store.Content | None]]:
    before: tuple[int, str] | None = None
    while True:

        async def page(
            connection: AsyncConnection, before: tuple[int, str] | None = before
        ) -> list[tuple[TraceRow, store.Content | None]]:
            rows = await store.find(connection, which, limit=200, before=before)
            return [(row, await store.content(connection, row.id)) for row in rows]

        found = await database.read(page)
        for row, said in found:
            yield row, said
        if not found:
            return
        before = found[-1][0].created_s, found[-1][0].id


def _back(text: str | None) -> int | None:
    """A date, or so long ago."""
    if text is None:
        return None
    now_s = int(time.time())
    at = instant(text, now_s=now_s)
    return at if at <= now_s else 2 * now_s - at


def _row(row: TraceRow) -> dict[str, Any]:
    names = (name for name in store.COLUMNS if name != "body")
    return {name: getattr(row, name) for name in names}
