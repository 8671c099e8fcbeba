"""`headrace cache clear`: answers are forgotten, in the store and in every running gateway."""

from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.cli.report import console, emit_json
from headrace.cli.stored import note, run
from headrace.errors import UserError
from headrace.store import answers
from headrace.store.identity import must_be

cache = typer.Typer(no_args_is_help=True, help="Forget kept answers.")


@cache.callback()
def group() -> None:
    """Forget kept answers."""


@cache.command()
def clear(
    ctx: typer.Context,
    org: Annotated[str, typer.Option(help="Of this organization.")] = "",
    team: Annotated[str, typer.Option(help="Of this team.")] = "",
    route: Annotated[str, typer.Option(help="Of this route.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every kept answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Forget answers: a source was refreshed, or they should not be there. Gateways forget what
    they have in memory within about a second."""
    if not (org or team or route or everything):
        raise UserError("whose answers? name --org, --team or --route, or say --all")

    async def work(connection: AsyncConnection) -> int:
        await must_be(connection, org=org, team=team)
        gone = await answers.clear(connection, org=org, team=team, route=route)
        detail = {"route": route, "answers": gone}
        await note(connection, "cache.clear", route or "all", org=org, team=team, detail=detail)
        return gone

    gone = run(ctx, work)
    if as_json:
        emit_json({"forgotten": gone})
    else:
        console().print(f"{gone} answers forgotten")
