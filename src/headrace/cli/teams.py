"""`headrace teams add-org|add|add-user|list`: who there is."""

import time
from typing import Annotated, Any

import typer
from rich.table import Table
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.cli.report import console, emit_json
from headrace.cli.stored import run
from headrace.store import identity

teams = typer.Typer(no_args_is_help=True, help="Organizations, teams and users.")


@teams.callback()
def group() -> None:
    """Organizations, teams and users."""


@teams.command("add-org")
def add_org(
    ctx: typer.Context, id: Annotated[str, typer.Argument(help="Its name, for good.")]
) -> None:
    """Make an organization."""
    run(ctx, lambda c: identity.add_org(c, id, now_s=int(time.time())))
    typer.echo(f"organization {id}")


@teams.command()
def add(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="Its name, for good.")],
    org: Annotated[str, typer.Option(help="Organization.")] = identity.DEFAULT,
) -> None:
    """Make a team."""
    now_s = int(time.time())

    async def work(connection: AsyncConnection) -> None:
        await identity.ensure_default(connection, now_s=now_s)
        await identity.add_team(connection, id, org=org, now_s=now_s)

    run(ctx, work)
    typer.echo(f"team {id} of {org}")


@teams.command("add-user")
def add_user(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="A name or an e-mail address, for good.")],
    team: Annotated[str, typer.Option(help="Team.")] = identity.DEFAULT,
) -> None:
    """Make a user of a team."""
    now_s = int(time.time())

    async def work(connection: AsyncConnection) -> None:
        await identity.ensure_default(connection, now_s=now_s)
        await identity.add_user(connection, id, team=team, now_s=now_s)

    run(ctx, work)
    typer.echo(f"user {id} of team {team}")


@teams.command("list")
def list_(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """List teams and their users."""

    async def work(connection: AsyncConnection) -> tuple[list[Row[Any]], list[Row[Any]]]:
        return await identity.team_rows(connection), await identity.user_rows(connection)

    found, users = run(ctx, work)
    members = {team.id: [user.id for user in users if user.team == team.id] for team in found}
    if as_json:
        emit_json([{"org": team.org, "team": team.id, "users": members[team.id]} for team in found])
        return
    table = Table("org", "team", "users")
    for team in found:
        table.add_row(team.org, team.id, ", ".join(members[team.id]))
    console().print(table)
