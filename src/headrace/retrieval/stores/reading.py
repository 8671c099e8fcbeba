"""What is asked of the record itself, document by document: functions of a connection."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from headrace.errors import NotFound
from headrace.retrieval.contracts import DocumentRow, Generation, Scope
from headrace.retrieval.stores import records
from headrace.retrieval.stores.filters import holds
from headrace.retrieval.stores.records import CHUNK, DOCUMENT
from headrace.retrieval.stores.schema import meta, vectors_table
from headrace.retrieval.stores.writing import dimensions_of
from headrace.types import Chunk, SourceDocument

_PAGE = 500
_READABLE = (
    "(:all OR d.readers IS NULL OR EXISTS (SELECT 1 FROM attributes a WHERE a.key = 'r' AND "
    "a.document = d.row AND a.value IN (SELECT value FROM json_each(:principals))))"
)


class Page(NamedTuple):
    rows: Sequence[DocumentRow]
    last: str | None
    """The id to go on after; None = there are no more."""


def document(connection: sqlite3.Connection, id: str, scope: Scope) -> SourceDocument | None:
    """One document whole, where the scope shows it."""
    row = _visible(connection, id, scope)
    if row is None:
        return None
    (text,) = connection.execute("SELECT text FROM texts WHERE document = ?", (row[0],)).fetchone()
    return records.source_document(row[1:], text)


def neighbours(
    connection: sqlite3.Connection, id: str, first: int, last: int, scope: Scope
) -> Sequence[Chunk]:
    """Chunks of a document by ordinal, where the scope shows it."""
    row = _visible(connection, id, scope)
    if row is None:
        return ()
    found = connection.execute(
        f"SELECT {CHUNK} FROM chunks c WHERE c.document = ? AND c.ordinal BETWEEN ? AND ? "
        "ORDER BY c.ordinal",
        (row[0], first, last),
    )
    return [records.chunk_of(id, chunk) for chunk in found]


def documents(connection: sqlite3.Connection, after: str, scope: Scope) -> Page:
    """Some documents that a scope shows, by id."""
    found = connection.execute(
        f"SELECT d.row, {DOCUMENT} FROM documents d WHERE d.id > :after AND {_READABLE} "
        "ORDER BY d.id LIMIT :page",
        {"after": after, "page": _PAGE, **_who(scope)},
    ).fetchall()
    rows = [records.document_row(row[1:]) for row in found if _passes(row, scope)]
    return Page(rows, found[-1][1] if len(found) == _PAGE else None)


def vectors_of(
    connection: sqlite3.Connection, generation: int, sha256: Sequence[str]
) -> Mapping[str, bytes]:
    """Vectors of chunks that say the same."""
    dimensions_of(connection, generation)
    found: dict[str, bytes] = {}
    sql = (
        f"SELECT v.data FROM chunks c JOIN {vectors_table(generation)} v ON v.chunk = c.row "
        "WHERE c.sha256 = ? LIMIT 1"
    )
    for digest in dict.fromkeys(sha256):
        row = connection.execute(sql, (bytes.fromhex(digest),)).fetchone()
        if row is not None:
            found[digest] = row[0]
    return found


def missing(connection: sqlite3.Connection, generation: int, limit: int) -> Mapping[str, str]:
    """What lacks a vector: `Chunk.sha256` → `Chunk.embedded`."""
    dimensions_of(connection, generation)
    found: dict[str, str] = {}
    for digest, headings, text in connection.execute(
        "SELECT sha256, headings, text FROM chunks WHERE row NOT IN "
        f"(SELECT chunk FROM {vectors_table(generation)}) ORDER BY row"
    ):
        if len(found) >= limit:
            break
        found[digest.hex()] = "\n".join((*json.loads(headings), records.decode(text)))
    return found


def generations(connection: sqlite3.Connection) -> Sequence[Generation]:
    """All that are kept."""
    return [records.generation_of(row) for row in connection.execute(_GENERATIONS)]


def active(connection: sqlite3.Connection) -> Generation:
    """The one that answers.

    Raises: NotFound: None was begun.
    """
    (number,) = meta(connection, "active")
    for generation in generations(connection):
        if generation.number == number:
            return generation
    raise NotFound("the index has no generation yet; begin one")


_GENERATIONS = (
    "SELECT number, embedder, fingerprint, dimensions, chunking FROM generations ORDER BY number"
)


def _who(scope: Scope) -> dict[str, Any]:
    return {
        "all": scope.principals is None,
        "principals": json.dumps(sorted(scope.principals or ())),
    }


def _visible(connection: sqlite3.Connection, id: str, scope: Scope) -> Sequence[Any] | None:
    row = connection.execute(
        f"SELECT d.row, {DOCUMENT} FROM documents d WHERE d.id = :id AND {_READABLE}",
        {"id": id, **_who(scope)},
    ).fetchone()
    return row if row is not None and _passes(row, scope) else None


def _passes(row: Sequence[Any], scope: Scope) -> bool:
    """Whether the filter lets a document through, whose text it never asks for."""
    return scope.filter is None or holds(scope.filter, records.source_document(row[1:], b""))
