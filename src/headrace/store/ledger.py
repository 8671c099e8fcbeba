"""Settled requests → transactions, postings and spent windows; each once, however often it is said.

Double entry: a request that cost something debits its team's spend and credits what is owed for the
model; a reservation that outlived a flush debits `reserved` and credits `committed`, and settling
takes both back. Invariants: a transaction's id is the request's, so booking again does nothing;
its postings sum to zero; a batch is one database transaction with the slices it was paid from.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store import leases
from headrace.store.database import Database
from headrace.store.entries import (
    Entry,
    LegLine,
    decode,
    encode,
    reruns,
    spell_charges,
    unresolved,
)
from headrace.store.tables import holds, legs, transactions

_COLUMNS = (
    "id",
    "kind",
    "at_s",
    "org",
    "team",
    "user",
    "key",
    "feature",
    "model",
    "route",
    "finish",
    "batch",
    "prompt_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cost_nanousd",
    "held_nanousd",
    "price_hash",
    "provider",
    "upstream",
    "cache",
    "estimated",
    "compute_us",
    "kv_byte_s",
    "calls",
    "charges",
)
_values = operator.attrgetter(*_COLUMNS[:-1])
_IN_ONE_QUERY = 500


class Posting(NamedTuple):
    transaction_id: str
    account: str
    amount_nanousd: int


async def book(
    connection: AsyncConnection,
    database: Database,
    worker: str,
    *,
    entries: Sequence[Entry],
    noted: Sequence[str],
    running: Sequence[Entry],
    targets: Mapping[int, int],
) -> None:
    """Book a worker's ended requests, note its running ones, and write what it still holds.

    Args:
        connection: In a write transaction in which the worker was touched.
        database: Whose connection it is.
        worker: Whose requests.
        entries: Ended.
        noted: Ids of those that may have been among `running` before.
        running: Held and not ended; kept where other replicas see them.
        targets: As `leases.keep`.
    """
    fresh = await _insert(connection, database, entries)
    spent: dict[int, int] = {}
    for entry in fresh:
        for charge in entry.charges:
            spent[charge.window_id] = spent.get(charge.window_id, 0) + charge.used
    await leases.keep(connection, worker, targets, spent)
    made = [posting for entry in fresh for posting in _spent(entry)]
    made += await _release(connection, noted)
    made += await _reserve(connection, worker, running)
    await _post(connection, database, made)


async def bury(connection: AsyncConnection, database: Database, worker: str) -> int:
    """Settle the running requests of a worker that did not come back, at all that they held.

    Returns: How many those were.
    """
    rows = await connection.execute(select(holds.c.record).where(holds.c.worker == worker))
    entries = [unresolved(decode(row.record)) for row in rows]
    fresh = await _insert(connection, database, [e for e in entries if not reruns(e)])
    for entry in fresh:
        await leases.spend_lost(connection, worker, entry.charges)
    for entry in filter(reruns, entries):
        unspent = [charge._replace(used=0) for charge in entry.charges]
        await leases.spend_lost(connection, worker, unspent)
    made = [posting for entry in fresh for posting in _spent(entry)]
    made += await _release(connection, [entry.id for entry in entries])
    await _post(connection, database, made)
    await leases.set_state(connection, worker, leases.BURIED)
    return len(fresh)


async def sweep(connection: AsyncConnection, database: Database, *, grace_s: int) -> list[str]:
    """Deal with workers that were silent for longer than their lease: first their slices are lost,
    after the grace their running requests are settled. Returns: Which workers those were."""
    found = await leases.expired(connection, database, grace_s=grace_s)
    for worker in found:
        if await leases.state_of(connection, worker) == leases.LIVE:
            await leases.lose(connection, worker)
        else:
            await bury(connection, database, worker)
    return found


async def _insert(
    connection: AsyncConnection, database: Database, entries: Sequence[Entry]
) -> list[Entry]:
    """Insert those that are not there yet, and return them."""
    if not entries:
        return []
    rows = [_row(entry) for entry in entries]
    new: set[str]
    if database.postgres:
        new = await _copy(await _driver(connection), rows)
    else:
        known: set[str] = set()
        for start in range(0, len(entries), _IN_ONE_QUERY):
            ids = [entry.id for entry in entries[start : start + _IN_ONE_QUERY]]
            query = select(transactions.c.id).where(transactions.c.id.in_(ids))
            known.update(await connection.scalars(query))
        unique = {row[0]: row for row in rows if row[0] not in known}
        new = set(unique)
        if unique:
            marks = ", ".join("?" * len(_COLUMNS))
            columns = ", ".join(f'"{name}"' for name in _COLUMNS)
            await connection.exec_driver_sql(
                f"INSERT INTO transactions ({columns}) VALUES ({marks})", list(unique.values())
            )
    fresh: list[Entry] = []
    for entry in entries:
        if entry.id in new:
            new.discard(entry.id)
            fresh.append(entry)
    several = [
        {"transaction_id": entry.id, "position": at, **leg._asdict()}
        for entry in fresh
        for at, leg in enumerate(entry.legs)
    ]
    if several:
        await connection.execute(insert(legs), several)
    return fresh


async def _copy(driver: Any, rows: Sequence[tuple[Any, ...]]) -> set[str]:
    """Insert rows by PostgreSQL's COPY, which knows no ON CONFLICT: where one of them is there
    already (a batch is said again after its answer was lost) they go by way of a table beside."""
    import asyncpg  # here: a gateway on SQLite does without

    try:
        async with driver.transaction():  # a savepoint
            await driver.copy_records_to_table("transactions", records=rows, columns=_COLUMNS)
        return {row[0] for row in rows}
    except asyncpg.UniqueViolationError:
        pass
    columns = ", ".join(f'"{name}"' for name in _COLUMNS)
    await driver.execute(
        "CREATE TEMPORARY TABLE IF NOT EXISTS said_again (LIKE transactions INCLUDING DEFAULTS) "
        "ON COMMIT DELETE ROWS"
    )
    await driver.copy_records_to_table("said_again", records=rows, columns=_COLUMNS)
    returned = await driver.fetch(
        f"INSERT INTO transactions ({columns}) SELECT {columns} FROM said_again "
        "ON CONFLICT (id) DO NOTHING RETURNING id"
    )
    return {record["id"] for record in returned}


async def _reserve(
    connection: AsyncConnection, worker: str, running: Sequence[Entry]
) -> list[Posting]:
    if not running:
        return []
    ids = [entry.id for entry in running]
    known: set[str] = set()
    for start in range(0, len(ids), _IN_ONE_QUERY):
        chunk = ids[start : start + _IN_ONE_QUERY]
        known.update(await connection.scalars(select(holds.c.id).where(holds.c.id.in_(chunk))))
    new = [entry for entry in running if entry.id not in known]
    if new:
        rows = [{"id": e.id, "worker": worker, "record": encode(e).decode()} for e in new]
        await connection.execute(insert(holds), rows)
    return [posting for entry in new for posting in _reserved(entry, 1)]


async def _release(connection: AsyncConnection, ids: Sequence[str]) -> list[Posting]:
    made: list[Posting] = []
    for start in range(0, len(ids), _IN_ONE_QUERY):
        gone = delete(holds).where(holds.c.id.in_(ids[start : start + _IN_ONE_QUERY]))
        for row in await connection.execute(gone.returning(holds.c.record)):
            made += _reserved(decode(row.record), -1)
    return made


async def _post(connection: AsyncConnection, database: Database, made: list[Posting]) -> None:
    if not made:
        return
    if database.postgres:
        driver = await _driver(connection)
        await driver.copy_records_to_table("postings", records=made, columns=Posting._fields)
        return
    await connection.exec_driver_sql(
        "INSERT INTO postings (transaction_id, account, amount_nanousd) VALUES (?, ?, ?)",
        [tuple(posting) for posting in made],
    )


def _spent(entry: Entry) -> tuple[Posting, ...]:
    if not entry.cost_nanousd:
        return ()
    spend = Posting(entry.id, f"spend:{entry.team}", entry.cost_nanousd)
    if not entry.legs:
        return (spend, Posting(entry.id, owed_to(entry), -entry.cost_nanousd))
    owed = (Posting(entry.id, owed_to(leg), -leg.cost_nanousd) for leg in entry.legs)
    return (spend, *(posting for posting in owed if posting.amount_nanousd))


def owed_to(whose: Entry | LegLine) -> str:
    """The account of what is owed for a model: a provider's is `owed:PROVIDER/ITS NAME`."""
    if whose.provider:
        return f"owed:{whose.provider}/{whose.upstream}"
    return f"owed:{whose.model if isinstance(whose, Entry) else whose.upstream}"


def _reserved(entry: Entry, sign: int) -> tuple[Posting, ...]:
    if not entry.held_nanousd:
        return ()
    amount = sign * entry.held_nanousd
    return (
        Posting(entry.id, f"reserved:{entry.team}", amount),
        Posting(entry.id, f"committed:{entry.model}", -amount),
    )


def _row(entry: Entry) -> tuple[Any, ...]:
    return (*_values(entry), spell_charges(entry.charges))


async def _driver(connection: AsyncConnection) -> Any:
    """asyncpg's own connection, inside the same transaction."""
    raw = await connection.get_raw_connection()
    return raw.driver_connection
