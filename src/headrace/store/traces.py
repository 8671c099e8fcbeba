"""Traces: one row a request, its content apart; written twice without harm, deleted for good.

`Database.scrub` after a deletion makes it one of bytes: SQLite's free pages, its unused parts of
pages and its log are gone then; of PostgreSQL the rows' versions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, and_, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter
from headrace.store.database import Database
from headrace.store.trace_tables import trace_contents, trace_policies, traces
from headrace.store.upsert import upsert

TABLES = ("traces", "trace_contents")
MILLION = 1_000_000
MAX_DAYS = 36_500
_DAY_S = 86_400
_CHUNK = 500
_EXACT = (
    "id",
    "org",
    "team",
    "key",
    "end_user",
    "model",
    "route",
    "status",
    "finish",
    "trace_id",
)
SCOPES = ("org", "team")


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceRow:
    """As in the table."""

    id: str
    org: str = ""
    team: str = ""
    key: str = ""
    feature: str = ""
    end_user: str = ""
    created_s: int = 0
    model: str = ""
    route: str = ""
    status: int = 0
    finish: str = ""
    trace_id: str = ""
    duration_us: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nanousd: int = 0
    body: str = ""
    """JSON; whoever writes it knows of what."""


COLUMNS = tuple(item.name for item in fields(TraceRow))
_values: Callable[[TraceRow], tuple[Any, ...]] = attrgetter(*COLUMNS)


_ADD = (
    f"INSERT INTO traces ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    "ON CONFLICT DO NOTHING"
)


class Content(NamedTuple):
    """What was said, redacted."""

    id: str
    org: str
    team: str
    key: str
    created_s: int
    prompt: str
    answer: str


class Policy(NamedTuple):
    """What an organization or a team wants other than the settings; None = as above it."""

    scope: str
    subject: str
    content_ppm: int | None
    """Of a million requests, how many have their content kept."""
    retention_days: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Which:
    """Traces by what they are of; everything given must hold."""

    id: str | None = None
    org: str | None = None
    team: str | None = None
    key: str | None = None
    end_user: str | None = None
    model: str | None = None
    route: str | None = None
    status: int | None = None
    finish: str | None = None
    trace_id: str | None = None
    since_s: int | None = None
    until_s: int | None = None
    failed: bool = False
    """Only those with a status of 400 or more."""

    @property
    def empty(self) -> bool:
        return self == Which()


async def write(
    connection: AsyncConnection,
    database: Database,
    rows: Sequence[TraceRow],
    contents: Sequence[Content],
) -> None:
    """Add traces; one that is there already stays as it is."""
    if rows:
        if database.postgres:
            found = [dict(zip(COLUMNS, _values(row), strict=True)) for row in rows]
            add = upsert(traces, postgres=True).on_conflict_do_nothing()
            await connection.execute(add, found)
        else:  # as the driver has it: spelling each row for SQLAlchemy takes as long as writing it
            await connection.exec_driver_sql(_ADD, [_values(row) for row in rows])
    if contents:
        said = [content._asdict() for content in contents]
        add = upsert(trace_contents, postgres=database.postgres).on_conflict_do_nothing()
        await connection.execute(add, said)


async def get(connection: AsyncConnection, id: str) -> TraceRow | None:
    """One trace; None where there is none."""
    row = (await connection.execute(select(traces).where(traces.c.id == id))).one_or_none()
    return None if row is None else _row(row)


async def content(connection: AsyncConnection, id: str) -> Content | None:
    """What was said; None where it was not sampled."""
    query = select(trace_contents).where(trace_contents.c.id == id)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Content(*row)


async def find(
    connection: AsyncConnection, which: Which, *, limit: int, before: tuple[int, str] | None = None
) -> list[TraceRow]:
    """The newest first, `before` (created_s, id) of the last page's last."""
    query = select(traces).where(*_conditions(which))
    if before is not None:
        at_s, id = before
        earlier = and_(traces.c.created_s == at_s, traces.c.id < id)
        query = query.where(or_(traces.c.created_s < at_s, earlier))
    query = query.order_by(traces.c.created_s.desc(), traces.c.id.desc()).limit(limit)
    return [_row(row) for row in await connection.execute(query)]


async def remove(connection: AsyncConnection, which: Which) -> int:
    """Delete some of the traces, and their content; how many. Ask again until it is none.

    Raises: InvalidParameter where nothing is said of which.
    """
    if which.empty:
        raise InvalidParameter("say which traces: by id, organization, team, key, end user or time")
    return await _remove(connection, select(traces.c.id).where(*_conditions(which)))


async def remove_ids(connection: AsyncConnection, ids: Sequence[str]) -> int:
    """Delete these traces, and their content; how many."""
    await connection.execute(delete(trace_contents).where(trace_contents.c.id.in_(ids)))
    return (await connection.execute(delete(traces).where(traces.c.id.in_(ids)))).rowcount


async def forget(connection: AsyncConnection, bodies: Mapping[str, str]) -> int:
    """Delete the content of these traces and replace what their rows say; how many there were.

    Args:
        connection: Of the traces.
        bodies: Id -> the new `body`.
    """
    ids = list(bodies)
    await connection.execute(delete(trace_contents).where(trace_contents.c.id.in_(ids)))
    changed = 0
    for id, body in bodies.items():
        statement = update(traces).where(traces.c.id == id).values(body=body)
        changed += (await connection.execute(statement)).rowcount
    return changed


async def get_some(connection: AsyncConnection, ids: Sequence[str]) -> list[TraceRow]:
    """Those that are there."""
    found = await connection.execute(select(traces).where(traces.c.id.in_(ids)))
    return [_row(row) for row in found]


async def expire(
    connection: AsyncConnection, policies: Sequence[Policy], *, default_days: int, now_s: int
) -> int:
    """Delete some of the traces whose time is over; how many. Ask again until it is none."""
    days = {(p.scope, p.subject): p.retention_days for p in policies if p.retention_days}
    teams = {subject: found for (scope, subject), found in days.items() if scope == "team"}
    orgs = {subject: found for (scope, subject), found in days.items() if scope == "org"}

    def over(found: int) -> ColumnElement[bool]:
        return traces.c.created_s < now_s - found * _DAY_S

    rules = [and_(traces.c.team == team, over(found)) for team, found in teams.items()]
    rest = traces.c.team.notin_(list(teams))
    rules += [and_(traces.c.org == org, rest, over(found)) for org, found in orgs.items()]
    rules.append(and_(rest, traces.c.org.notin_(list(orgs)), over(default_days)))
    return await _remove(connection, select(traces.c.id).where(or_(*rules)))


async def all_policies(connection: AsyncConnection) -> list[Policy]:
    """Every organization's and team's own."""
    query = select(trace_policies).order_by(trace_policies.c.scope, trace_policies.c.subject)
    return [Policy(*row) for row in await connection.execute(query)]


async def set_policy(connection: AsyncConnection, policy: Policy) -> None:
    """Replace a subject's policy; one that says nothing is removed. The caller `bump`s.

    Raises: InvalidParameter.
    """
    if policy.scope not in SCOPES:
        raise InvalidParameter(f"{policy.scope[:20]!r} has no trace policy; there are org and team")
    ppm, days = policy.content_ppm, policy.retention_days
    if ppm is not None and not 0 <= ppm <= MILLION:
        raise InvalidParameter(
            f"content_ppm is {ppm}; it takes 0 to {MILLION}", param="content_ppm"
        )
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise InvalidParameter(
            f"retention_days is {days}; it takes 1 to {MAX_DAYS}", param="retention_days"
        )
    table = trace_policies.c
    there = and_(table.scope == policy.scope, table.subject == policy.subject)
    await connection.execute(delete(trace_policies).where(there))
    if (ppm, days) != (None, None):
        await connection.execute(trace_policies.insert(), policy._asdict())


async def _remove(connection: AsyncConnection, query: Select[Any]) -> int:
    ids = list(await connection.scalars(query.limit(_CHUNK)))
    if ids:
        await remove_ids(connection, ids)
    return len(ids)


def _conditions(which: Which) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [
        traces.c[name] == value for name in _EXACT if (value := getattr(which, name)) is not None
    ]
    if which.since_s is not None:
        found.append(traces.c.created_s >= which.since_s)
    if which.until_s is not None:
        found.append(traces.c.created_s < which.until_s)
    if which.failed:
        found.append(traces.c.status >= 400)
    return found


def _row(row: Row[Any]) -> TraceRow:
    return TraceRow(**dict(zip(COLUMNS, row, strict=True)))
