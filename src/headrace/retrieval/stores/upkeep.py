"""What keeps a record clean and whole: purging what was deleted, checking what is there."""

import sqlite3
import time
from collections.abc import Sequence

from headrace.errors import StoreUnavailable
from headrace.retrieval.stores.schema import meta, vectors_table

_LOG_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def purge(connection: sqlite3.Connection) -> None:
    """Rewrite the file without what was deleted, and empty its log.

    `secure_delete` overwrites deleted rows, but not pages that became free, copies that the tree
    made when it grew, nor the log. Costs as much as copying the file; whoever writes waits
    meanwhile, readers do not.

    Raises: StoreUnavailable: Somebody reads from the log all the time.
    """
    (unpurged,) = meta(connection, "unpurged")
    if unpurged:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM removed")
        connection.execute(
            "UPDATE meta SET value = (SELECT value FROM meta WHERE name = 'seq') "
            "WHERE name = 'forgotten'"
        )
        connection.execute("COMMIT")
        connection.execute("VACUUM")
    empty_log(connection)
    if unpurged:
        connection.execute("UPDATE meta SET value = 0 WHERE name = 'unpurged'")
        empty_log(connection)


def empty_log(connection: sqlite3.Connection) -> None:
    """Move all of the log into the file.

    Raises: StoreUnavailable.
    """
    for pause_s in _LOG_PAUSES_S:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        time.sleep(pause_s)
    raise StoreUnavailable("the index is read all the time: its log cannot be emptied; try again")


def check(connection: sqlite3.Connection) -> Sequence[str]:
    """What is wrong with the record, in sentences."""
    wrong = [
        f"the file: {line}"
        for (line,) in connection.execute("PRAGMA integrity_check")
        if line != "ok"
    ]
    for what, sql in _COUNTS:
        (count,) = connection.execute(sql).fetchone()
        if count:
            wrong.append(f"{count} {what}")
    for number, dimensions in connection.execute(
        "SELECT number, dimensions FROM generations"
    ).fetchall():
        wrong += _check_vectors(connection, number, dimensions)
    return wrong


_COUNTS = (
    (
        "documents without their text",
        "SELECT count(*) FROM documents WHERE row NOT IN (SELECT document FROM texts)",
    ),
    (
        "texts without their document",
        "SELECT count(*) FROM texts WHERE document NOT IN (SELECT row FROM documents)",
    ),
    (
        "chunks without their document",
        "SELECT count(*) FROM chunks WHERE document NOT IN (SELECT row FROM documents)",
    ),
    (
        "documents that have more or fewer chunks than they say",
        "SELECT count(*) FROM documents d WHERE chunks != "
        "(SELECT count(*) FROM chunks c WHERE c.document = d.row)",
    ),
    (
        "attributes without their document",
        "SELECT count(*) FROM attributes WHERE document NOT IN (SELECT row FROM documents)",
    ),
    (
        "documents that nobody may read and that name no reader",
        "SELECT count(*) FROM documents d WHERE readers IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM attributes a WHERE a.key = 'p' AND a.document = d.row)",
    ),
    (
        "chunks whose words are cut short",
        "SELECT count(*) FROM chunks WHERE length(terms) % 10 != 0",
    ),
)


def _check_vectors(connection: sqlite3.Connection, number: int, dimensions: int) -> list[str]:
    table = vectors_table(number)
    wrong: list[str] = []
    (orphans,) = connection.execute(
        f"SELECT count(*) FROM {table} WHERE chunk NOT IN (SELECT row FROM chunks)"
    ).fetchone()
    if orphans:
        wrong.append(f"{orphans} vectors of generation {number} without their chunk")
    (short,) = connection.execute(
        f"SELECT count(*) FROM {table} WHERE length(data) != ?", (4 * dimensions,)
    ).fetchone()
    if short:
        wrong.append(f"{short} vectors of generation {number} that have not {dimensions} numbers")
    if meta(connection, "active")[0] == number:
        (lacking,) = connection.execute(
            f"SELECT count(*) FROM chunks WHERE row NOT IN (SELECT chunk FROM {table})"
        ).fetchone()
        if lacking:
            wrong.append(f"{lacking} chunks without a vector of the active generation {number}")
    return wrong
