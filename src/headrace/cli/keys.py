"""`headrace keys make|list|rotate|revoke`: service keys, straight in the store."""

import difflib
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace import app
from headrace.cli.report import emit_json, settings
from headrace.cli.sheet import show_rows
from headrace.cli.stored import instant, note, run, when
from headrace.errors import UserError
from headrace.store.identity import (
    DEFAULT,
    Key,
    MadeKey,
    NewKey,
    RoleName,
    ensure_default,
    get_key,
    list_keys,
    make_key,
    revoke_key,
    rotate_key,
)

keys = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke API keys.")
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@keys.callback()
def group() -> None:
    """Make, list, rotate and revoke API keys."""


@keys.command()
def make(
    ctx: typer.Context,
    name: Annotated[str, typer.Option(help="What it is for; shown in lists.")] = "",
    org: Annotated[str, typer.Option(help="Organization.")] = DEFAULT,
    team: Annotated[str, typer.Option(help="Team.")] = DEFAULT,
    user: Annotated[str | None, typer.Option(help="User of that team.")] = None,
    role: Annotated[RoleName, typer.Option(help="What it may administer.")] = RoleName.MEMBER,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; repeatable.")] = None,
    route: Annotated[list[str] | None, typer.Option(help="Only this path; repeatable.")] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="Only this feature tag; repeatable.")
    ] = None,
    data_class: Annotated[
        str, typer.Option(help="Class of the data in its requests: [data_classes.NAME].")
    ] = "",
    expires: Annotated[
        str | None, typer.Option(help="End: a date (2027-01-31) or a time from now (90d, 12h).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. Its token is shown once, here."""
    now_s = int(time.time())
    if route:
        # The table has every handler with it: a third of a second that other verbs need not wait.
        from headrace.gateway.data import check_scopes

        check_scopes(route)
    _warn_of_unserved(ctx, model or ())
    expires_s = None if expires is None else instant(expires, now_s=now_s)
    if expires_s is not None and expires_s <= now_s:
        raise UserError(f"--expires {expires!r} is past: write a date to come, or 90d from now")
    new = NewKey(
        name=name,
        org=org,
        team=team,
        user=user,
        role=role,
        models=model or (),
        routes=route or (),
        features=feature or (),
        data_class=data_class,
        expires_s=expires_s,
    )

    async def work(connection: AsyncConnection) -> MadeKey:
        await ensure_default(connection, now_s=now_s)
        made = await make_key(connection, new, now_s=now_s)
        detail = as_row(made.key)
        await note(connection, "key.make", made.key.id, org=org, team=team, detail=detail)
        return made

    _show_made(run(ctx, work), as_json=as_json)


def _warn_of_unserved(ctx: typer.Context, models: Sequence[str]) -> None:
    """Say which names nothing is served by: a running service may have other settings, so that
    these here are no reason to refuse."""
    there = app.named_models(settings(ctx)) if models else []
    for name in models:
        if name in there:
            continue
        near = difflib.get_close_matches(name, there, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        names = ", ".join(there) or "none"
        typer.echo(
            f"warning: these settings serve no model {name!r}{meant} (there are: {names}); the key "
            "is made and opens it once it is served",
            err=True,
        )


@keys.command("list")
def list_(
    ctx: typer.Context,
    org: Annotated[str | None, typer.Option(help="Of this organization.")] = None,
    team: Annotated[str | None, typer.Option(help="Of this team.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List keys, without their tokens."""
    found = run(ctx, lambda connection: list_keys(connection, org=org, team=team))
    if as_json:
        emit_json([as_row(key) for key in found])
        return
    rows: list[tuple[str, ...]] = []
    now_s = time.time()
    for key in found:
        only = sorted(key.models | key.routes | key.features)
        only += [f"data class {key.data_class}"] if key.data_class else []
        ends = [at for at in (key.expires_s, key.revoked_s) if at is not None]
        state = when(min(ends)) if ends else ""
        rows.append(
            (
                key.id,
                f"{key.prefix}…" if key.prefix else "",
                key.name,
                key.org,
                key.team,
                key.user or "",
                key.role.value,
                ", ".join(only),
                state if key.live(now_s) else f"ended {state}",
            )
        )
    columns = ("id", "token", "name", "org", "team", "user", "role", "only for", "ends")
    show_rows(columns, rows, whole=("id", "token"))


@keys.command()
def rotate(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The key's id.")],
    overlap: Annotated[str, typer.Option(help="How long the old token lives on: 0s, 1h, 7d.")] = (
        "24h"
    ),
    as_json: JsonOption = False,
) -> None:
    """Give a key a new token; limits and spend stay with the key."""
    now_s = int(time.time())
    overlap_s = instant(overlap, now_s=now_s) - now_s

    async def work(connection: AsyncConnection) -> MadeKey:
        made = await rotate_key(connection, id, overlap_s=overlap_s, now_s=now_s)
        detail = {"overlap_s": overlap_s}
        key = made.key
        await note(connection, "key.rotate", id, org=key.org, team=key.team, detail=detail)
        return made

    _show_made(run(ctx, work), as_json=as_json)


@keys.command()
def revoke(ctx: typer.Context, id: Annotated[str, typer.Argument(help="The key's id.")]) -> None:
    """End a key; running gateways know within half a second."""

    async def work(connection: AsyncConnection) -> None:
        await revoke_key(connection, id, now_s=int(time.time()))
        key = await get_key(connection, id)
        await note(connection, "key.revoke", id, org=key.org, team=key.team)

    run(ctx, work)
    typer.echo(f"{id} is revoked")


def as_row(key: Key) -> dict[str, object]:
    """A key for JSON."""
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "org": key.org,
        "team": key.team,
        "user": key.user,
        "role": key.role.value,
        "models": sorted(key.models),
        "routes": sorted(key.routes),
        "features": sorted(key.features),
        "data_class": key.data_class,
        "created_s": key.created_s,
        "expires_s": key.expires_s,
        "revoked_s": key.revoked_s,
    }


def _show_made(made: MadeKey, *, as_json: bool) -> None:
    if as_json:
        emit_json({**as_row(made.key), "token": made.token})
        return
    typer.echo(f"{made.key.id} of team {made.key.team}; its token, shown once:")
    typer.echo(made.token)
