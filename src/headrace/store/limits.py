"""Limits: who may use how much of what, in which window.

Who is an organization, a team, a user, a key or a feature. One table for money and rates alike: a
limit is an amount of a unit. All limits that name a caller
apply at once.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Row, Table, and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter, NotFound
from headrace.store.database import bump
from headrace.store.tables import keys, limits, orgs, teams, users
from headrace.store.windows import FOREVER_S, check
from headrace.types import Caller

_FEATURE = "feature"
_SUBJECTS: dict[str, Table] = {"org": orgs, "team": teams, "user": users, "key": keys}


class Unit(StrEnum):
    MONEY = "nanousd"
    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    CONCURRENCY = "concurrency"  # requests at one time; nothing of it is ever spent


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """One row."""

    id: int
    scope: str
    subject: str
    unit: Unit
    window: str
    zone: str
    amount: int


def subjects(caller: Caller) -> list[tuple[str, str]]:
    """Scope and subject of every limit that can apply; a feature is its organization's."""
    found = [
        ("org", caller.org),
        ("team", caller.team),
        ("user", caller.user),
        ("key", caller.key_id),
        (_FEATURE, f"{caller.org}/{caller.feature}" if caller.feature else ""),
    ]
    return [(scope, subject) for scope, subject in found if subject]


async def for_caller(connection: AsyncConnection, caller: Caller) -> tuple[Limit, ...]:
    """The limits of a caller, in the order in which everybody locks them."""
    names = subjects(caller)
    if not names:
        return ()
    wanted = or_(*(and_(limits.c.scope == s, limits.c.subject == name) for s, name in names))
    rows = await connection.execute(select(limits).where(wanted).order_by(limits.c.id))
    return tuple(limit_of(row) for row in rows)


class Owner(NamedTuple):
    """Whose a limit's subject is; empty = nobody's alone."""

    org: str
    team: str


async def owner(connection: AsyncConnection, limit: Limit) -> Owner:
    """The organization and the team that a limit's subject is in."""
    if limit.scope == _FEATURE:
        return Owner(limit.subject.partition("/")[0], "")
    if limit.scope == "org":
        return Owner(limit.subject, "")
    table = _SUBJECTS[limit.scope]
    team = table.c.id if limit.scope == "team" else table.c.team
    query = select(table.c.org, team).where(table.c.id == limit.subject)
    row = (await connection.execute(query)).one_or_none()
    return Owner("", "") if row is None else Owner(*row)


async def all_limits(connection: AsyncConnection) -> list[Limit]:
    rows = await connection.execute(select(limits).order_by(limits.c.id))
    return [limit_of(row) for row in rows]


async def set_limit(
    connection: AsyncConnection,
    *,
    scope: str,
    subject: str,
    unit: Unit,
    window: str,
    amount: int,
    zone: str = "",
    now_s: int,
) -> Limit:
    """Make a limit, or change the amount of the one for that scope, unit and window.

    Raises:
        InvalidParameter: A scope, window, zone or amount that cannot be.
        NotFound: No such organization, team, user or key.
    """
    check(window, zone)
    if not 0 <= amount < FOREVER_S:
        raise InvalidParameter(f"amount {amount} is not in 0 to {FOREVER_S - 1}", param="amount")
    if unit is Unit.CONCURRENCY and window != "total":
        raise InvalidParameter("concurrency has no window but total", param="window")
    await _check_subject(connection, scope, subject)
    same = and_(
        limits.c.scope == scope,
        limits.c.subject == subject,
        limits.c.unit == unit.value,
        limits.c.window == window,
    )
    changed = await connection.execute(update(limits).where(same).values(amount=amount, zone=zone))
    if not changed.rowcount:
        await connection.execute(
            insert(limits).values(
                scope=scope,
                subject=subject,
                unit=unit.value,
                window=window,
                zone=zone,
                amount=amount,
                created_s=now_s,
            )
        )
    await bump(connection)
    return limit_of((await connection.execute(select(limits).where(same))).one())


async def remove_limit(connection: AsyncConnection, id: int) -> None:
    """Raises: NotFound."""
    if not (await connection.execute(delete(limits).where(limits.c.id == id))).rowcount:
        raise NotFound(f"there is no limit {id}")
    await bump(connection)


def limit_of(row: Row[Any]) -> Limit:
    """A row as a `Limit`."""
    return Limit(
        id=row.id,
        scope=row.scope,
        subject=row.subject,
        unit=Unit(row.unit),
        window=row.window,
        zone=row.zone,
        amount=row.amount,
    )


async def _check_subject(connection: AsyncConnection, scope: str, subject: str) -> None:
    if scope == _FEATURE:
        org, slash, feature = subject.partition("/")
        if not slash or not feature:
            raise InvalidParameter(
                f"a feature's subject is ORG/FEATURE, not {subject[:80]!r}", param="subject"
            )
        scope, subject = "org", org
    table = _SUBJECTS.get(scope)
    if table is None:
        known = ", ".join([*_SUBJECTS, _FEATURE])
        raise InvalidParameter(f"scope {scope[:40]!r}: there are {known}", param="scope")
    if await connection.scalar(select(table.c.id).where(table.c.id == subject)) is None:
        raise NotFound(f"there is no {scope} {subject[:80]!r}", param="subject")
