"""People: users with a role, an account at an issuer, and an end; who logs in becomes one.

Invariants: an account (issuer and subject) is one user's for good, whatever its e-mail address
becomes; a user that an administrator made by name is taken over only by a name the issuer has
verified; who moves to another team leaves its keys behind.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import NotFound, PermissionDenied
from headrace.store.database import bump
from headrace.store.identity import RoleName, add_user, org_of
from headrace.store.tables import keys, users


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A user as it is kept."""

    id: str
    org: str
    team: str
    role: RoleName
    name: str
    account: str | None
    """Issuer and subject; None = nobody has logged in under this name."""
    disabled_s: int | None
    created_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """What an issuer says of who logs in, in our words."""

    account: str
    id: str
    name: str = ""
    verified: bool = False
    """Whether the issuer vouches that `id` is this account's, so that it may take a user over."""
    team: str | None = None
    """None = it does not say; the user stays where it is."""
    org: str | None = None
    """The team must be this organization's; None = any."""
    role: RoleName | None = None
    """None = it does not say; the user keeps its role."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What to change of a user; None = leave it."""

    role: RoleName | None = None
    team: str | None = None
    name: str | None = None
    disabled: bool | None = None


class Admitted(NamedTuple):
    """Who logged in, and what that user was before; None = it was made now."""

    person: Person
    before: Person | None


async def get_person(connection: AsyncConnection, id: str) -> Person:
    """Raises: NotFound."""
    found = await _one(connection, users.c.id == id)
    if found is None:
        raise NotFound(f"there is no user {id[:80]!r}")
    return found


async def people(
    connection: AsyncConnection, *, org: str | None = None, team: str | None = None
) -> list[Person]:
    """All users, an organization's or a team's, by name."""
    query = select(users).order_by(users.c.id)
    if org is not None:
        query = query.where(users.c.org == org)
    if team is not None:
        query = query.where(users.c.team == team)
    return [person_of(row) for row in await connection.execute(query)]


async def change_person(
    connection: AsyncConnection, id: str, change: Change, *, now_s: int
) -> Person:
    """Change a user; whoever is moved loses the keys of its old team.

    Raises: NotFound for the user or the team.
    """
    person = await get_person(connection, id)
    values: dict[str, Any] = {}
    if change.role is not None:
        values["role"] = change.role.value
    if change.name is not None:
        values["name"] = change.name[:200]
    if change.disabled is not None:
        values["disabled_s"] = (person.disabled_s or now_s) if change.disabled else None
    if change.team is not None and change.team != person.team:
        values |= {"team": change.team, "org": await org_of(connection, change.team)}
        await connection.execute(
            update(keys)
            .where(keys.c.user == id, keys.c.team != change.team)
            .values(revoked_s=func.coalesce(keys.c.revoked_s, now_s))
        )
    if values:
        await connection.execute(update(users).where(users.c.id == id).values(**values))
        await bump(connection)
    return await get_person(connection, id)


async def admit(
    connection: AsyncConnection, claimed: Claimed, *, default_team: str, now_s: int
) -> Admitted:
    """The user of an account, made at its first log-in and brought to what its claims say.

    Raises:
        PermissionDenied: It is disabled, its name is another account's, its claims name no team
            and there is no default, or the team is another organization's or is not there.
    """
    before = person = await _one(connection, users.c.account == claimed.account)
    if person is None:
        before = await _one(connection, users.c.id == claimed.id)
        person = await _first_log_in(connection, claimed, before, default_team, now_s)
    if person.disabled_s is not None:
        raise PermissionDenied(f"the user {person.id} is disabled; an administrator can enable it")
    team = person.team if claimed.team is None else claimed.team
    await _team_of(connection, claimed, team)
    wanted = Change(role=claimed.role, team=claimed.team, name=claimed.name or None)
    same = (
        wanted.role in (None, person.role)
        and wanted.team in (None, person.team)
        and wanted.name in (None, person.name)
    )
    if not same:
        person = await change_person(connection, person.id, wanted, now_s=now_s)
    return Admitted(person, before)


async def _first_log_in(
    connection: AsyncConnection,
    claimed: Claimed,
    known: Person | None,
    default_team: str,
    now_s: int,
) -> Person:
    if known is None:
        team = claimed.team or default_team
        if not team:
            raise PermissionDenied(
                f"{claimed.id} may log in, but its claims name no team; map one with oidc.teams, "
                "set oidc.default_team, or make the user: headrace teams add-user"
            )
        await _team_of(connection, claimed, team)
        await add_user(connection, claimed.id, team=team, now_s=now_s)
    elif known.account is not None:
        raise PermissionDenied(
            f"the user {claimed.id} belongs to another account of the issuer; an administrator "
            "must make this one another name"
        )
    elif not claimed.verified:
        raise PermissionDenied(
            f"there is a user {claimed.id}, and the issuer does not say that this address is "
            "verified; verify it there"
        )
    await connection.execute(
        update(users).where(users.c.id == claimed.id).values(account=claimed.account)
    )
    await bump(connection)
    return await get_person(connection, claimed.id)


async def _team_of(connection: AsyncConnection, claimed: Claimed, team: str) -> None:
    try:
        org = await org_of(connection, team)
    except NotFound:
        raise PermissionDenied(
            f"the claims of {claimed.id} name the team {team[:80]!r}, which there is not; make it: "
            "headrace teams add"
        ) from None
    if claimed.org is not None and org != claimed.org:
        raise PermissionDenied(
            f"the claims of {claimed.id} name the organization {claimed.org[:80]!r}, and the team "
            f"{team[:80]!r} is not its"
        )


def person_of(row: Row[Any]) -> Person:
    """A row as a `Person`."""
    return Person(
        id=row.id,
        org=row.org,
        team=row.team,
        role=RoleName(row.role),
        name=row.name,
        account=row.account,
        disabled_s=row.disabled_s,
        created_s=row.created_s,
    )


async def _one(connection: AsyncConnection, where: ColumnElement[bool]) -> Person | None:
    row = (await connection.execute(select(users).where(where))).one_or_none()
    return None if row is None else person_of(row)
