"""Purging and checking an index in PostgreSQL.

A deleted row stays in its table's file until VACUUM, whose pages keep stale bytes even then. So a
purge rewrites each table (VACUUM FULL), and with it its indexes and its TOAST table: the old files
are gone from the data directory. Readers wait meanwhile. What PostgreSQL keeps elsewhere, its
write-ahead log, replicas and backups, is its operator's to expire.
"""

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

from headrace.errors import StoreUnavailable
from headrace.retrieval.stores.postgres import single
from headrace.retrieval.stores.postgres.generations import count_missing
from headrace.retrieval.stores.postgres.rows import decode
from headrace.retrieval.stores.postgres.schema import graph, vectors_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Connection

_PAUSES_S = (0.05, 0.2, 0.5, 1.0, 2.0)
_DEAD = re.compile(r"\d+")


async def purge(connection: "Connection") -> None:
    """Rewrite all that holds deleted rows. Not in a transaction.

    Raises: StoreUnavailable where some transaction still sees them.
    """
    import asyncpg

    deleted, purged = await single.row(connection, "SELECT deleted, purged FROM state")
    if deleted <= purged:
        return
    await connection.execute(
        "DELETE FROM audiences a WHERE readers IS NOT NULL AND chunks = 0 AND NOT EXISTS "
        "(SELECT FROM documents d WHERE d.audience = a.number)"
    )
    generations = [row[0] for row in await connection.fetch("SELECT number FROM generations")]
    tables = ["documents", "texts", "chunks", "words", "terms", "audiences"]
    for table in (*tables, *map(vectors_table, generations)):
        try:
            await _rewrite(connection, table)
        except asyncpg.UndefinedTableError:
            if not table.startswith("vectors_"):
                raise  # a generation may be dropped meanwhile
    # Pages that were written before go to the new files by then. Whoever may not ask for one waits
    # for the next, within the server's checkpoint_timeout.
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        await connection.execute("CHECKPOINT")
    await connection.execute("UPDATE state SET purged = greatest(purged, $1)", deleted)


async def _rewrite(connection: "Connection", table: str) -> None:
    dead: list[int] = []

    def listen(_: Any, message: Any) -> None:
        found = _DEAD.search(message.detail or "")
        if found is not None:
            dead.append(int(found[0]))

    connection.add_log_listener(listen)
    try:
        for pause_s in (*_PAUSES_S, None):
            dead.clear()
            await connection.execute(f"VACUUM (FULL, VERBOSE, ANALYZE) {table}")
            if not any(dead):
                return
            if pause_s is not None:
                await asyncio.sleep(pause_s)
    finally:
        connection.remove_log_listener(listen)
    raise StoreUnavailable(
        f"{max(dead)} deleted rows of {table} are still seen by an open transaction or a "
        "replication slot; end it (pg_stat_activity, pg_replication_slots) and purge again"
    )


_COUNTS = {
    "chunks that no document has": (
        "SELECT count(*) FROM chunks c WHERE NOT EXISTS "
        "(SELECT FROM documents d WHERE d.number = c.document)"
    ),
    "documents without their text": (
        "SELECT count(*) FROM documents d WHERE NOT EXISTS "
        "(SELECT FROM texts t WHERE t.document = d.number)"
    ),
    "texts that are not what their document's digest says": (
        "SELECT count(*) FROM documents d JOIN texts t ON t.document = d.number "
        "WHERE sha256(t.text) <> d.sha256"
    ),
    "texts that no document has": (
        "SELECT count(*) FROM texts t WHERE NOT EXISTS "
        "(SELECT FROM documents d WHERE d.number = t.document)"
    ),
    "documents that lack chunks, or have too many": (
        "SELECT count(*) FROM documents d WHERE d.chunks <> "
        "(SELECT count(*) FROM chunks c WHERE c.document = d.number)"
    ),
    "chunks without their words, or words without their chunk": (
        "SELECT count(*) FROM chunks c FULL JOIN words w ON w.chunk = c.number "
        "WHERE c.number IS NULL OR w.chunk IS NULL OR c.document <> w.document"
    ),
    "words that are counted wrongly": (
        "SELECT count(*) FROM terms t FULL JOIN (SELECT u.lexeme, d.audience, count(*) AS n "
        "FROM words w JOIN documents d ON d.number = w.document, unnest(w.words) u GROUP BY 1, 2) "
        "c ON c.lexeme = t.word AND c.audience = t.audience WHERE t.chunks IS DISTINCT FROM c.n"
    ),
    "audiences that are counted wrongly": (
        "SELECT count(*) FROM audiences a LEFT JOIN (SELECT d.audience, count(*) AS chunks, "
        "sum(w.length) AS length FROM documents d JOIN words w ON w.document = d.number GROUP BY 1)"
        " c ON c.audience = a.number WHERE a.chunks <> coalesce(c.chunks, 0) "
        "OR a.length <> coalesce(c.length, 0)"
    ),
}


async def check(connection: "Connection") -> "Sequence[str]":
    """What is wrong, in sentences."""
    wrong: list[str] = []
    for what, statement in _COUNTS.items():
        if count := await single.value(connection, statement):
            wrong.append(f"{count} {what}")
    active = await single.value(connection, "SELECT active FROM state")
    for (number,) in await connection.fetch("SELECT number FROM generations"):
        wrong += await _check_generation(connection, number, active=number == active)
    wrong += await _check_spans(connection)
    return wrong


async def _check_generation(connection: "Connection", number: int, *, active: bool) -> list[str]:
    wrong: list[str] = []
    if active and (lacking := await count_missing(connection, number)):
        wrong.append(f"{lacking} chunks have no vector of the active generation {number}")
    astray = await single.value(
        connection,
        f"SELECT count(*) FROM {vectors_table(number)} v WHERE NOT EXISTS "
        "(SELECT FROM chunks c WHERE c.number = v.chunk AND c.document = v.document)",
    )
    if astray:
        wrong.append(f"{astray} vectors of generation {number} belong to no chunk")
    if await connection.fetchval(
        "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", graph(number)
    ):
        wrong.append(
            f"the graph of generation {number} was not finished; the next change builds it anew"
        )
    return wrong


async def _check_spans(connection: "Connection") -> list[str]:
    """Chunks that are not what their spans say, document by document."""
    wrong = 0
    last = -1
    while True:
        row = await connection.fetchrow(
            "SELECT document, text FROM texts WHERE document > $1 ORDER BY document LIMIT 1", last
        )
        if row is None:
            break
        last, text = row[0], decode(row[1])
        for start, stop, words in await connection.fetch(
            "SELECT start, stop, text FROM chunks WHERE document = $1", last
        ):
            wrong += text[start:stop] != decode(words)
    return [f"{wrong} chunks do not say what their document does at their place"] if wrong else []
