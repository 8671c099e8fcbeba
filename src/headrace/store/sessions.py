"""Log-ins under way and sessions of people: a cookie's token → whose it is.

A token is 256 random bits, kept as its SHA-256. A log-in's row is taken by the first callback that
names its state and is gone then, in every replica; so a state answers once.
"""

import secrets
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import NotFound
from headrace.store.database import bump
from headrace.store.identity import digest
from headrace.store.people import Person, person_of
from headrace.store.tables import logins, sessions, users

_MOST_LOGINS = 10_000
"""Whoever asks may begin one: past this the oldest are dropped."""


class Session(NamedTuple):
    """A session as it is kept, everything but the token, and its user as it is now."""

    id: str
    person: Person
    created_s: int
    expires_s: int
    revoked_s: int | None


class MadeSession(NamedTuple):
    session: Session
    token: str
    """For the cookie; shown now and never again."""


async def begin_login(
    connection: AsyncConnection, state: str, *, next: str, lasts_s: int, now_s: int
) -> None:
    """Remember that a log-in began."""
    await connection.execute(delete(logins).where(logins.c.expires_s <= now_s))
    excess = (await connection.scalar(select(func.count()).select_from(logins)) or 0) + 1
    if excess > _MOST_LOGINS:
        oldest = select(logins.c.state_sha256).order_by(logins.c.expires_s)
        oldest = oldest.limit(excess - _MOST_LOGINS)
        await connection.execute(delete(logins).where(logins.c.state_sha256.in_(oldest)))
    await connection.execute(
        insert(logins).values(state_sha256=digest(state), next=next, expires_s=now_s + lasts_s)
    )


async def take_login(connection: AsyncConnection, state: str, *, now_s: int) -> str | None:
    """Where to go after the log-in of that state; None where there is none, or not any more."""
    taken = await connection.execute(
        delete(logins)
        .where(logins.c.state_sha256 == digest(state))
        .returning(logins.c.next, logins.c.expires_s)
    )
    row = taken.one_or_none()
    return row.next if row is not None and row.expires_s > now_s else None


async def make_session(
    connection: AsyncConnection, person: Person, *, lasts_s: int, now_s: int
) -> MadeSession:
    """Begin a session; those that ended a month ago are forgotten."""
    await connection.execute(delete(sessions).where(sessions.c.expires_s < now_s - 30 * 86_400))
    token = secrets.token_urlsafe(32)
    id = f"ses_{secrets.token_hex(8)}"
    await connection.execute(
        insert(sessions).values(
            id=id,
            sha256=digest(token),
            user=person.id,
            created_s=now_s,
            expires_s=now_s + lasts_s,
        )
    )
    return MadeSession(await get_session(connection, id), token)


async def find_session(connection: AsyncConnection, sha256: str) -> Session | None:
    """The session of that token's digest, live or not."""
    found = await _sessions(connection, sessions.c.sha256 == sha256)
    return found[0] if found else None


async def get_session(connection: AsyncConnection, id: str) -> Session:
    """Raises: NotFound."""
    found = await _sessions(connection, sessions.c.id == id)
    if not found:
        raise NotFound(f"there is no session {id[:80]!r}")
    return found[0]


async def list_sessions(
    connection: AsyncConnection,
    *,
    org: str | None = None,
    team: str | None = None,
    user: str | None = None,
    now_s: int,
) -> list[Session]:
    """Live sessions, of everybody or of an organization, a team, a user; the newest first."""
    where = [sessions.c.expires_s > now_s, sessions.c.revoked_s.is_(None)]
    for column, value in ((users.c.org, org), (users.c.team, team), (users.c.id, user)):
        if value is not None:
            where.append(column == value)
    return await _sessions(connection, *where)


async def end_session(connection: AsyncConnection, id: str, *, now_s: int) -> None:
    """End a session now. Raises: NotFound."""
    changed = await connection.execute(
        update(sessions)
        .where(sessions.c.id == id)
        .values(revoked_s=func.coalesce(sessions.c.revoked_s, now_s))
    )
    if not changed.rowcount:
        raise NotFound(f"there is no session {id[:80]!r}")
    await bump(connection)


async def _sessions(connection: AsyncConnection, *where: ColumnElement[bool]) -> list[Session]:
    own = (
        sessions.c.id.label("session"),
        sessions.c.created_s.label("since_s"),
        sessions.c.expires_s,
        sessions.c.revoked_s,
    )
    query = select(users, *own).join(sessions, users.c.id == sessions.c.user).where(*where)
    query = query.order_by(sessions.c.created_s.desc(), sessions.c.id)
    return [
        Session(row.session, person_of(row), row.since_s, row.expires_s, row.revoked_s)
        for row in await connection.execute(query)
    ]
