"""Slices of limits, lent to workers: taken whole or not at all, returned, lost where a worker dies.

A worker holds an amount of each window that its callers need and spends from it without asking.
Invariants: spent + leased + lost of a limit's counting windows never exceeds its amount when a
slice is lent; everybody locks the worker, then limits, then windows, each in order;
what a worker says it holds is written as such, so saying it twice changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.database import Database
from headrace.store.limits import Unit
from headrace.store.tables import leases, limits, windows, workers
from headrace.store.upsert import upsert

LIVE = "live"
LOST = "lost"
BURIED = "buried"
_AHEAD = 1023
"""Requests like this one that a slice is for, beyond it; where the limit has so much left that"""
_SHARE = 16
"""no worker takes more than one part in sixteen of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What a worker needs more of one limit."""

    limit_id: int
    starts_s: int
    ends_s: int
    counts_from_s: int
    least: int
    """With less the request cannot run."""
    want: int
    usual: int
    """What a request like this one takes; slices are in advance of some of those."""


class Grant(NamedTuple):
    limit_id: int
    window_id: int
    amount: int


class Refusal(NamedTuple):
    limit_id: int
    left: int
    """What is neither spent nor lent."""
    limit: int


class _Lent(NamedTuple):
    window_id: int
    amount: int
    lost: bool
    unit: str


async def touch(
    connection: AsyncConnection, database: Database, worker: str, *, lease_s: int
) -> None:
    """Say that a worker lives; one that was given up gets back what it had."""
    statement = upsert(workers, postgres=connection.dialect.name == "postgresql").values(
        id=worker, state=LIVE, expires_s=database.now_s + lease_s
    )
    before = await connection.scalar(
        statement.on_conflict_do_update(
            index_elements=["id"], set_={"expires_s": statement.excluded.expires_s}
        ).returning(workers.c.state)
    )
    if before != LIVE:
        await _found(connection, worker)
        await set_state(connection, worker, LIVE)


async def take(
    connection: AsyncConnection, worker: str, asks: Sequence[Ask]
) -> list[Grant] | Refusal:
    """Lend slices of all these limits, or of none.

    Args:
        connection: In a write transaction in which the worker was touched.
        worker: To whom.
        asks: At most one a limit.
    """
    ordered = sorted(asks, key=lambda ask: ask.limit_id)
    ids = [ask.limit_id for ask in ordered]
    locked = await connection.execute(
        select(limits.c.id, limits.c.amount)
        .where(limits.c.id.in_(ids))
        .order_by(limits.c.id)
        .with_for_update()
    )
    amounts = {row.id: row.amount for row in locked}
    grants: list[Grant] = []
    for ask in ordered:
        limit = amounts.get(ask.limit_id, 0)  # removed a moment ago: nothing is lent of it
        used = await connection.scalar(
            select(func.coalesce(func.sum(windows.c.spent + windows.c.leased + windows.c.lost), 0))
            .where(windows.c.limit_id == ask.limit_id)
            .where(windows.c.ends_s > ask.counts_from_s)
        )
        left = limit - int(used or 0)
        if left < ask.least or ask.limit_id not in amounts:
            return Refusal(ask.limit_id, max(left, 0), limit)
        grants.append(Grant(ask.limit_id, 0, _slice(ask.want, ask.usual, max(left, 0))))
    return [
        await _lend(connection, worker, ask, grant.amount)
        for ask, grant in zip(ordered, grants, strict=True)
    ]


async def keep(
    connection: AsyncConnection, worker: str, targets: Mapping[int, int], spent: Mapping[int, int]
) -> None:
    """Write what a worker now holds of each window, and what was spent; the rest is free again.

    Args:
        connection: In a write transaction in which the worker was touched.
        worker: Whose.
        targets: Window -> amount it still holds; of windows that are absent it holds nothing.
        spent: Window -> amount to book as spent.
    """
    rows = await connection.execute(
        select(leases.c.window_id, leases.c.amount).where(leases.c.worker == worker)
    )
    before: dict[int, int] = {row.window_id: row.amount for row in rows}
    locked = await connection.scalars(
        select(windows.c.id)
        .where(windows.c.id.in_({*before, *targets, *spent}))
        .order_by(windows.c.id)
        .with_for_update()
    )
    there = set(locked)  # a window goes with its limit, whoever still holds some of it
    targets = {at: amount for at, amount in targets.items() if at in there}
    spent = {at: amount for at, amount in spent.items() if at in there}
    released = {at: before.get(at, 0) - targets.get(at, 0) for at in {*before, *targets}}
    touched = sorted(at for at in {*released, *spent} if released.get(at) or spent.get(at))
    if touched:
        await connection.execute(
            update(windows)
            .where(windows.c.id == bindparam("at"))
            .values(
                spent=windows.c.spent + bindparam("used"),
                leased=windows.c.leased - bindparam("released"),
            ),
            [
                {"at": at, "used": spent.get(at, 0), "released": released.get(at, 0)}
                for at in touched
            ],
        )
    gone = [at for at in before if not targets.get(at)]
    if gone:
        await connection.execute(
            delete(leases).where(leases.c.worker == worker, leases.c.window_id.in_(gone))
        )
    for at, amount in targets.items():
        if amount and before.get(at) != amount:
            await _set_lease(connection, worker, at, amount)


async def expired(connection: AsyncConnection, database: Database, *, grace_s: int) -> list[str]:
    """Live workers that were silent for longer than their lease, and locked now; those whose slices
    are lost for more than `grace_s` come too."""
    rows = await connection.execute(
        select(workers.c.id)
        .where(
            ((workers.c.state == LIVE) & (workers.c.expires_s < database.now_s))
            | ((workers.c.state == LOST) & (workers.c.expires_s < database.now_s - grace_s))
        )
        .order_by(workers.c.id)
        .limit(16)
        .with_for_update(skip_locked=True)
    )
    return [row.id for row in rows]


async def lose(connection: AsyncConnection, worker: str) -> None:
    """A worker was silent for too long: what it had may have been spent, so it stays taken.

    Slots of concurrency are free at once: a dead worker runs nothing.
    """
    rows = await _leases_with_units(connection, worker)
    for row in rows:
        slots = row.unit == Unit.CONCURRENCY.value
        await connection.execute(
            update(windows)
            .where(windows.c.id == row.window_id)
            .values(
                leased=windows.c.leased - row.amount,
                lost=windows.c.lost + (0 if slots else row.amount),
            )
        )
    free = [row.window_id for row in rows if row.unit == Unit.CONCURRENCY.value]
    await connection.execute(
        delete(leases).where(leases.c.worker == worker, leases.c.window_id.in_(free))
    )
    await connection.execute(update(leases).where(leases.c.worker == worker).values(lost=True))
    await set_state(connection, worker, LOST)


async def set_state(connection: AsyncConnection, worker: str, state: str) -> None:
    await connection.execute(update(workers).where(workers.c.id == worker).values(state=state))


async def state_of(connection: AsyncConnection, worker: str) -> str | None:
    """A worker's state, locked; None where it is not known."""
    query = select(workers.c.state).where(workers.c.id == worker).with_for_update()
    return await connection.scalar(query)


async def spend_lost(
    connection: AsyncConnection, worker: str, charges: Iterable[tuple[int, int, int]]
) -> None:
    """Book, out of a lost worker's slices, (window, held, used)."""
    for window_id, held, used in sorted(charges):
        amount = await connection.scalar(
            select(leases.c.amount).where(
                leases.c.worker == worker, leases.c.window_id == window_id
            )
        )
        taken = min(held, int(amount or 0))
        await connection.execute(
            update(windows)
            .where(windows.c.id == window_id)
            .values(spent=windows.c.spent + used, lost=windows.c.lost - taken)
        )
        await connection.execute(
            update(leases)
            .where(leases.c.worker == worker, leases.c.window_id == window_id)
            .values(amount=leases.c.amount - taken)
        )


async def _found(connection: AsyncConnection, worker: str) -> None:
    for row in await _leases_with_units(connection, worker):
        if row.lost:
            await connection.execute(
                update(windows)
                .where(windows.c.id == row.window_id)
                .values(leased=windows.c.leased + row.amount, lost=windows.c.lost - row.amount)
            )
    await connection.execute(update(leases).where(leases.c.worker == worker).values(lost=False))


async def _leases_with_units(connection: AsyncConnection, worker: str) -> list[_Lent]:
    query = (
        select(leases.c.window_id, leases.c.amount, leases.c.lost, limits.c.unit)
        .join(windows, windows.c.id == leases.c.window_id)
        .join(limits, limits.c.id == windows.c.limit_id)
        .where(leases.c.worker == worker)
        .order_by(leases.c.window_id)
    )
    return [_Lent(*row) for row in await connection.execute(query)]


def _slice(want: int, usual: int, left: int) -> int:
    if want >= left:
        return left
    return want + min(_AHEAD * usual, (left - want) // _SHARE)


async def _lend(connection: AsyncConnection, worker: str, ask: Ask, amount: int) -> Grant:
    same = (windows.c.limit_id == ask.limit_id) & (windows.c.starts_s == ask.starts_s)
    window_id = await connection.scalar(
        update(windows).where(same).values(leased=windows.c.leased + amount).returning(windows.c.id)
    )
    if window_id is None:  # nobody else can make it: the limit's row is locked
        window_id = await connection.scalar(
            insert(windows)
            .values(limit_id=ask.limit_id, starts_s=ask.starts_s, ends_s=ask.ends_s, leased=amount)
            .returning(windows.c.id)
        )
    statement = upsert(leases, postgres=connection.dialect.name == "postgresql").values(
        worker=worker, window_id=window_id, amount=amount, lost=False
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["worker", "window_id"],
            set_={"amount": leases.c.amount + statement.excluded.amount},
        )
    )
    return Grant(ask.limit_id, int(window_id or 0), amount)


async def _set_lease(connection: AsyncConnection, worker: str, window_id: int, amount: int) -> None:
    statement = upsert(leases, postgres=connection.dialect.name == "postgresql").values(
        worker=worker, window_id=window_id, amount=amount, lost=False
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["worker", "window_id"], set_={"amount": statement.excluded.amount}
        )
    )
