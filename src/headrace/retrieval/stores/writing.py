"""What changes an index: functions of a connection inside a transaction.

Each leaves documents, chunks, words, attributes and vectors in step, raises the sequence number,
and says what is gone in `removed`.
"""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from headrace.errors import Conflict, InvalidParameter, NotFound
from headrace.retrieval.contracts import Entry, Generation, Marks
from headrace.retrieval.stores import words
from headrace.retrieval.stores.filters import check_document
from headrace.retrieval.stores.records import dump, dump_metadata, encode
from headrace.retrieval.stores.schema import create_vectors, meta, vectors_table
from headrace.types.retrieval import Scalar

MAX_DIMENSIONS = 16384


class Prepared(NamedTuple):
    """An entry that was checked, and its words counted: all that needs no transaction."""

    entry: Entry
    terms: Sequence[words.Terms]
    """Of each chunk."""


def prepare(entries: Sequence[Entry]) -> list[Prepared]:
    """Check entries and count their words.

    Raises: InvalidParameter.
    """
    for entry in entries:
        check_entry(entry)
    counted = iter(
        words.count_many(
            [(c.text, (e.document.title, *c.headings)) for e in entries for c in e.chunks]
        )
    )
    return [Prepared(entry, [next(counted) for _ in entry.chunks]) for entry in entries]


def check_entry(entry: Entry) -> None:
    """Refuse an entry whose parts do not belong together.

    Raises: InvalidParameter.
    """
    document = entry.document
    check_document(document)
    for i, chunk in enumerate(entry.chunks):
        where = f"chunk {i} of {document.id!r}"
        if chunk.document != document.id or chunk.ordinal != i:
            raise InvalidParameter(
                f"{where} says it is chunk {chunk.ordinal} of {chunk.document!r}", param="chunks"
            )
        if document.text[chunk.start : chunk.end] != chunk.text:
            raise InvalidParameter(
                f"{where}: characters {chunk.start} to {chunk.end} of it are not its text",
                param="chunks",
            )
    for generation, data in entry.vectors.items():
        if len(data) % 4 or (entry.chunks and len(data) % len(entry.chunks)):
            raise InvalidParameter(
                f"vectors of generation {generation} of {document.id!r}: {len(data)} bytes are not "
                f"float32 rows of {len(entry.chunks)} chunks",
                param="vectors",
            )


def put(connection: sqlite3.Connection, entries: Sequence[Prepared]) -> int:
    """Add or replace documents; the sequence number that has them.

    Raises: InvalidParameter, NotFound.
    """
    seq, active = _next(connection), meta(connection, "active")[0]
    known = _generations(connection)
    ids = [prepared.entry.document.id for prepared in entries]
    if len(set(ids)) < len(ids):
        twice = next(id for id, count in Counter(ids).items() if count > 1)
        raise InvalidParameter(f"{twice!r} is put twice at once", param="id")
    for prepared in entries:
        _check_vectors(prepared.entry, known, active)
    marks = {old.id: old.marks for old in _delete(connection, ids, known, seq)}
    for prepared in entries:
        new = prepared.entry.marks
        if new is not None:
            marks[prepared.entry.document.id] = (new.superseded_by, dump(new.conflicts))
    _insert(connection, entries, marks)
    return seq


def remove(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Delete those documents that are there."""
    seq = _next(connection)
    _delete(connection, list(dict.fromkeys(ids)), _generations(connection), seq)
    return seq


def mark(connection: sqlite3.Connection, marks: Mapping[str, Marks]) -> int:
    """Say what documents are beside others."""
    connection.executemany(
        "UPDATE documents SET superseded_by = ?, conflicts = ? WHERE id = ?",
        [(m.superseded_by, dump(m.conflicts), id) for id, m in marks.items()],
    )
    return _next(connection)


def begin(connection: sqlite3.Connection, generation: Generation) -> None:
    """A generation without vectors; the first of an index is active."""
    used = _last(connection, "generations")
    if generation.number <= used:
        raise Conflict(
            f"generation {generation.number} exists or did; the next free number is {used + 1}"
        )
    if not 1 <= generation.dimensions <= MAX_DIMENSIONS:
        raise InvalidParameter(
            f"dimensions = {generation.dimensions} must be between 1 and {MAX_DIMENSIONS}",
            param="dimensions",
        )
    connection.execute(
        "INSERT INTO generations (number, embedder, fingerprint, dimensions, chunking) "
        "VALUES (?, ?, ?, ?, ?)",
        (
            *(generation.number, generation.embedder, generation.fingerprint),
            *(generation.dimensions, generation.chunking),
        ),
    )
    create_vectors(connection, generation.number)
    if not meta(connection, "active")[0]:
        _next(connection)
        _set(connection, "active", generation.number)


def fill(connection: sqlite3.Connection, generation: int, vectors: Mapping[str, bytes]) -> int:
    """Vectors for chunks that lack them."""
    dimensions = dimensions_of(connection, generation)
    filled = 0
    for sha256, data in vectors.items():
        if len(data) != 4 * dimensions:
            raise InvalidParameter(
                f"a vector of generation {generation} has {len(data)} bytes, not 4 x {dimensions}",
                param="vectors",
            )
        filled += connection.execute(
            f"INSERT OR IGNORE INTO {vectors_table(generation)} "
            "SELECT row, ? FROM chunks WHERE sha256 = ?",
            (data, bytes.fromhex(sha256)),
        ).rowcount
    if filled:
        seq = _next(connection)
        connection.execute("UPDATE generations SET filled = ? WHERE number = ?", (seq, generation))
    return filled


def activate(connection: sqlite3.Connection, generation: int) -> int:
    """Let a generation answer that has all its vectors."""
    dimensions_of(connection, generation)
    lacking = count_missing(connection, generation)
    if lacking:
        raise Conflict(
            f"generation {generation} lacks the vectors of {lacking} chunks; fill it before"
        )
    seq = _next(connection)
    _set(connection, "active", generation)
    return seq


def drop(connection: sqlite3.Connection, generation: int) -> None:
    """Delete a generation that is not active."""
    dimensions_of(connection, generation)
    if meta(connection, "active")[0] == generation:
        raise Conflict(f"generation {generation} is active; activate another before")
    _next(connection)
    connection.execute(f"DROP TABLE {vectors_table(generation)}")
    connection.execute("DELETE FROM generations WHERE number = ?", (generation,))
    _set(connection, "unpurged", 1)


def dimensions_of(connection: sqlite3.Connection, generation: int) -> int:
    """Raises: NotFound."""
    known = _generations(connection)
    if generation not in known:
        raise NotFound(f"generation {generation} does not exist; there are {sorted(known)}")
    return known[generation]


def count_missing(connection: sqlite3.Connection, generation: int) -> int:
    """Chunks without a vector: a vector's chunk always exists (`check` holds it)."""
    (count,) = connection.execute(
        f"SELECT (SELECT count(*) FROM chunks) - (SELECT count(*) FROM {vectors_table(generation)})"
    ).fetchone()
    return count


def attributes(
    metadata: Mapping[str, Scalar], readers: Iterable[str] | None
) -> list[tuple[str, Scalar]]:
    """What filters find a document by."""
    found: list[tuple[str, Scalar]] = [("p", 0)] if readers is None else []
    found += [("r", reader) for reader in readers or ()]
    for name, value in metadata.items():
        found.append((f"b:{name}", int(value)) if isinstance(value, bool) else (f"m:{name}", value))
    return found


def _generations(connection: sqlite3.Connection) -> dict[int, int]:
    return dict(connection.execute("SELECT number, dimensions FROM generations").fetchall())


def _next(connection: sqlite3.Connection) -> int:
    (seq,) = connection.execute(
        "UPDATE meta SET value = value + 1 WHERE name = 'seq' RETURNING value"
    ).fetchone()
    return seq


def _set(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))


def _last(connection: sqlite3.Connection, table: str) -> int:
    """The highest row that a table ever had."""
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
    return next((seq for (seq,) in found), 0)


def _insert(
    connection: sqlite3.Connection,
    entries: Sequence[Prepared],
    marks: Mapping[str, tuple[str, str]],
) -> None:
    """One statement a table, whatever there is of entries."""
    documents: list[Sequence[object]] = []
    texts: list[tuple[int, bytes]] = []
    asked: list[tuple[str, Scalar, int]] = []
    chunks: list[Sequence[object]] = []
    vectors: dict[int, list[tuple[int, bytes]]] = {}
    row, chunk_row = _last(connection, "documents"), _last(connection, "chunks")
    for prepared in entries:
        row += 1
        document, parts = prepared.entry.document, prepared.entry.chunks
        text = encode(document.text)
        readers = None if document.readers is None else sorted(document.readers)
        documents.append(
            (
                *(row, document.id, document.source, document.title, document.media_type),
                *(document.modified_s, document.integrity.value, hashlib.sha256(text).digest()),
                *(None if readers is None else dump(readers), dump_metadata(document.metadata)),
                *(len(parts), *marks.get(document.id, ("", "[]"))),
            )
        )
        texts.append((row, text))
        asked += [(key, value, row) for key, value in attributes(document.metadata, readers)]
        for generation, data in prepared.entry.vectors.items():
            size = len(data) // max(1, len(parts))
            vectors.setdefault(generation, []).extend(
                (chunk_row + 1 + i, data[i * size : (i + 1) * size]) for i in range(len(parts))
            )
        for chunk, terms in zip(parts, prepared.terms, strict=True):
            chunk_row += 1
            said = text if chunk.text == document.text else encode(chunk.text)
            embedded = encode(chunk.embedded) if chunk.headings else said
            chunks.append(
                (
                    *(chunk_row, row, chunk.ordinal, chunk.start, chunk.end, chunk.parent_start),
                    *(chunk.parent_end, chunk.tokens, dump(chunk.headings)),
                    *(hashlib.sha256(embedded).digest(), terms.length, terms.packed, said),
                )
            )
    many = connection.executemany
    many(f"INSERT INTO documents VALUES ({_marks(13)})", documents)
    many("INSERT INTO texts VALUES (?, ?)", texts)
    many("INSERT INTO attributes VALUES (?, ?, ?)", asked)
    many(f"INSERT INTO chunks VALUES ({_marks(13)})", chunks)
    for generation, rows in vectors.items():
        many(f"INSERT INTO {vectors_table(generation)} VALUES (?, ?)", rows)


def _marks(count: int) -> str:
    return ",".join("?" * count)


class _Old(NamedTuple):
    """A document that was there."""

    id: str
    marks: tuple[str, str]


def _delete(
    connection: sqlite3.Connection, ids: Sequence[str], generations: Iterable[int], seq: int
) -> list[_Old]:
    """Delete those that are there."""
    old: list[_Old] = []
    documents: list[tuple[int]] = []
    asked: list[tuple[str, Scalar, int]] = []
    chunks: list[tuple[int]] = []
    found = connection.execute(
        "SELECT id, superseded_by, conflicts, row, metadata, readers FROM documents "
        "WHERE id IN (SELECT value FROM json_each(?))",
        (dump(ids),),
    ).fetchall()
    for id, superseded_by, conflicts, row, metadata, readers in found:
        old.append(_Old(id, (superseded_by, conflicts)))
        documents.append((row,))
        names = None if readers is None else json.loads(readers)
        asked += [(key, value, row) for key, value in attributes(json.loads(metadata), names)]
        chunks += connection.execute("SELECT row FROM chunks WHERE document = ?", (row,)).fetchall()
    if not old:
        return old
    many = connection.executemany
    many("INSERT INTO removed VALUES (?, ?)", [(chunk, seq) for (chunk,) in chunks])
    many("DELETE FROM chunks WHERE row = ?", chunks)
    for generation in generations:
        many(f"DELETE FROM {vectors_table(generation)} WHERE chunk = ?", chunks)
    many("DELETE FROM attributes WHERE key = ? AND value = ? AND document = ?", asked)
    many("DELETE FROM texts WHERE document = ?", documents)
    many("DELETE FROM documents WHERE row = ?", documents)
    _set(connection, "unpurged", 1)
    return old


def _check_vectors(entry: Entry, known: Mapping[int, int], active: int) -> None:
    if entry.chunks and active and active not in entry.vectors:
        raise InvalidParameter(
            f"{entry.document.id!r} has no vectors of the active generation {active}",
            param="vectors",
        )
    for generation, data in entry.vectors.items():
        if generation not in known:
            raise NotFound(f"generation {generation} does not exist; there are {sorted(known)}")
        if len(data) != 4 * known[generation] * len(entry.chunks):
            raise InvalidParameter(
                f"vectors of generation {generation} of {entry.document.id!r} have {len(data)} "
                f"bytes, not 4 x {known[generation]} for each of {len(entry.chunks)} chunks",
                param="vectors",
            )
