"""`headrace teams add-org|add|add-user|set-user|end-sessions|list`: who there is."""

import time
from typing import Annotated, Any

import typer
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.cli.report import emit_json
from headrace.cli.sheet import show_rows
from headrace.cli.stored import note, run
from headrace.errors import UserError
from headrace.store import identity
from headrace.store.identity import RoleName
from headrace.store.people import Change, Person, change_person, get_person
from headrace.store.sessions import end_session, list_sessions

teams = typer.Typer(no_args_is_help=True, help="Organizations, teams and users.")


@teams.callback()
def group() -> None:
    """Organizations, teams and users."""


@teams.command("add-org")
def add_org(
    ctx: typer.Context, id: Annotated[str, typer.Argument(help="Its name, for good.")]
) -> None:
    """Make an organization."""

    async def work(connection: AsyncConnection) -> None:
        await identity.add_org(connection, id, now_s=int(time.time()))
        await note(connection, "org.add", id, org=id)

    run(ctx, work)
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
        await note(connection, "team.add", id, org=org, team=id)

    run(ctx, work)
    typer.echo(f"team {id} of {org}")


@teams.command("add-user")
def add_user(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="A name or an e-mail address, for good.")],
    team: Annotated[str, typer.Option(help="Team.")] = identity.DEFAULT,
    role: Annotated[
        RoleName, typer.Option(help="What they may administer when they log in.")
    ] = RoleName.MEMBER,
) -> None:
    """Make a user of a team."""
    now_s = int(time.time())

    async def work(connection: AsyncConnection) -> None:
        await identity.ensure_default(connection, now_s=now_s)
        await identity.add_user(connection, id, team=team, now_s=now_s)
        person = await change_person(connection, id, Change(role=role), now_s=now_s)
        detail = {"role": role.value}
        await note(connection, "user.add", id, org=person.org, team=team, detail=detail)

    run(ctx, work)
    typer.echo(f"user {id} of team {team}")


@teams.command("set-user")
def set_user(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The user.")],
    role: Annotated[RoleName | None, typer.Option(help="What they may administer.")] = None,
    team: Annotated[
        str | None, typer.Option(help="Move them there; their keys of the old team end.")
    ] = None,
    disable: Annotated[
        bool | None,
        typer.Option("--disable/--enable", help="Refuse their sessions, tokens and keys, or not."),
    ] = None,
) -> None:
    """Change a user's role or team, or end all they have."""
    change = Change(role=role, team=team, disabled=disable)
    if change == Change():
        raise UserError("nothing to change: give --role, --team, --disable or --enable")

    async def work(connection: AsyncConnection) -> Person:
        before = await get_person(connection, id)
        after = await change_person(connection, id, change, now_s=int(time.time()))
        to = {
            "role": after.role.value,
            "team": after.team,
            "disabled": after.disabled_s is not None,
        }
        await note(
            connection, "user.change", id, org=before.org, team=before.team, detail={"to": to}
        )
        return after

    after = run(ctx, work)
    state = ", disabled" if after.disabled_s is not None else ""
    typer.echo(f"user {id} of team {after.team}, {after.role.value}{state}")


@teams.command("end-sessions")
def end_sessions(ctx: typer.Context, id: Annotated[str, typer.Argument(help="The user.")]) -> None:
    """Log a user out everywhere."""

    async def work(connection: AsyncConnection) -> int:
        person = await get_person(connection, id)
        now_s = int(time.time())
        found = await list_sessions(connection, user=id, now_s=now_s)
        for session in found:
            await end_session(connection, session.id, now_s=now_s)
            await note(connection, "session.end", session.id, org=person.org, team=person.team)
        return len(found)

    typer.echo(f"{run(ctx, work)} sessions of {id} ended")


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
    show_rows(
        ("org", "team", "users"),
        [(team.org, team.id, ", ".join(members[team.id])) for team in found],
    )
