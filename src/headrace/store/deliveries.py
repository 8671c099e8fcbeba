"""Deliveries of webhooks: taken once each, worked off by whichever replica claims them.

Invariants: a delivery that was taken is there until its sync has ended, whatever dies; of one id of
one source there is one, for `KEPT_S` after it ended.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import LimitExceeded
from headrace.store.tables import deliveries
from headrace.store.upsert import upsert

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
KEPT_S = 7 * 86_400
MOST_WAITING = 10_000
"""Of one team."""
_TOGETHER = 100
"""Of one source in one sync."""


class Delivery(NamedTuple):
    """One that was taken."""

    org: str
    team: str
    name: str
    """Of the index."""
    source: str
    id: str
    key: str
    """Of the API key that brought it, which pays for its sync."""
    feature: str = ""
    items: tuple[str, ...] = ()
    failures: int = 0


async def take(connection: AsyncConnection, new: Delivery, *, now_s: int) -> str:
    """Keep one. Returns: Its state; of one that is there already, how far that is.

    Raises: LimitExceeded: The team has too many that wait.
    """
    c = deliveries.c
    there = await connection.scalar(select(c.state).where(*_same(new)))
    if there is not None:
        return there
    waiting = select(func.count()).where(c.org == new.org, c.team == new.team, c.state == QUEUED)
    if (await connection.scalar(waiting) or 0) >= MOST_WAITING:
        raise LimitExceeded(
            f"{MOST_WAITING} deliveries wait already; send it again later, or sync the source",
            details={"unit": "deliveries", "limit": MOST_WAITING, "left": 0},
        )
    add = upsert(deliveries, postgres=connection.dialect.name == "postgresql")
    values = new._asdict() | {"items": json.dumps(new.items), "state": QUEUED, "at_s": now_s}
    await connection.execute(add.values(**values).on_conflict_do_nothing())
    return QUEUED


async def claim(
    connection: AsyncConnection, worker: str, *, now_s: int, lease_s: int
) -> list[Delivery]:
    """The oldest that is due, with the others of its source and key: they are one sync."""
    c = deliveries.c
    due = or_(
        and_(c.state == QUEUED, c.not_before_s <= now_s),
        and_(c.state == RUNNING, c.lease_until_s < now_s),
    )
    query = select(deliveries).where(due).order_by(c.at_s, c.id).limit(1)
    first = (await connection.execute(query)).one_or_none()
    if first is None:
        return []
    alike = [c[name] == getattr(first, name) for name in ("org", "team", "name", "source", "key")]
    some = select(c.id).where(due, *alike).order_by(c.at_s, c.id).limit(_TOGETHER)
    taken = await connection.execute(
        update(deliveries)
        .where(due, *alike, c.id.in_(some.scalar_subquery()))
        .values(state=RUNNING, owner=worker, lease_until_s=now_s + lease_s)
        .returning(deliveries)
    )
    return [_delivery(row) for row in taken]


async def renew(
    connection: AsyncConnection, worker: str, mine: Sequence[Delivery], *, until_s: int
) -> None:
    """They are still being worked on."""
    for one in mine:
        await connection.execute(
            update(deliveries).where(*_ours(worker, one)).values(lease_until_s=until_s)
        )


async def end(
    connection: AsyncConnection,
    worker: str,
    mine: Sequence[Delivery],
    state: str,
    *,
    why: str = "",
    not_before_s: int = 0,
) -> None:
    """They are done, have failed, or wait again."""
    for one in mine:
        failed = state == QUEUED and bool(why)
        await connection.execute(
            update(deliveries)
            .where(*_ours(worker, one))
            .values(
                state=state,
                why=why[:1000],
                owner="",
                not_before_s=not_before_s,
                failures=deliveries.c.failures + (1 if failed else 0),
            )
        )


async def sweep(connection: AsyncConnection, *, now_s: int) -> None:
    """Forget those that ended long ago."""
    c = deliveries.c
    await connection.execute(
        delete(deliveries).where(c.at_s < now_s - KEPT_S, c.state.in_((DONE, FAILED)))
    )


def _same(one: Delivery) -> list[ColumnElement[bool]]:
    c: Any = deliveries.c
    return [c[name] == getattr(one, name) for name in ("org", "team", "name", "source", "id")]


def _ours(worker: str, one: Delivery) -> list[ColumnElement[bool]]:
    return [*_same(one), deliveries.c.owner == worker, deliveries.c.state == RUNNING]


def _delivery(row: Any) -> Delivery:
    return Delivery(
        org=row.org,
        team=row.team,
        name=row.name,
        source=row.source,
        id=row.id,
        key=row.key,
        feature=row.feature,
        items=tuple(json.loads(row.items)),
        failures=row.failures,
    )
