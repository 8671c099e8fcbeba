"""What changes an index: functions of a connection inside a transaction.

Writers run side by side. What they share is locked in one order, so that none waits for another in
a circle: the generations, documents by key, words, audiences, and last, for the shortest time, the
one row that counts revisions.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.errors import InvalidParameter, NotFound
from headrace.retrieval.contracts import Entry, Marks
from headrace.retrieval.stores import words
from headrace.retrieval.stores.filters import FIELDS, check_document, fields
from headrace.retrieval.stores.postgres import codecs, schema, single
from headrace.retrieval.stores.postgres.rows import dump, encode
from headrace.retrieval.stores.postgres.schema import vectors_table
from headrace.retrieval.stores.postgres.scope import facts_of

if TYPE_CHECKING:
    from asyncpg import Connection

_BUCKETS = 1024


class _Tally:
    """What a transaction adds to the statistics; below 0 = takes away."""

    def __init__(self) -> None:
        self.terms: Counter[tuple[str, int]] = Counter()
        """(lexeme, audience) → chunks that have it."""
        self.chunks: Counter[int] = Counter()
        self.lengths: Counter[int] = Counter()

    def add(self, one: "Prepared", audience: int) -> None:
        for bag in one.bags:
            self.terms.update((word, audience) for word in bag)
        self.chunks[audience] += len(one.bags)
        self.lengths[audience] += sum(one.lengths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """An entry with all that needs no transaction."""

    entry: Entry
    key: bytes
    audience: bytes
    bags: Sequence[dict[str, int]]
    lengths: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Old:
    """A document that is there."""

    number: int
    audience: int
    marks: tuple[str, Sequence[str]]


def key_of(id: str) -> bytes:
    """What finds a document, however long its id."""
    return hashlib.sha256(encode(id)).digest()


def prepare(entry: Entry) -> Prepared:
    """Check an entry and count its words.

    Raises: InvalidParameter.
    """
    document, chunks = entry.document, entry.chunks
    check_document(document)
    for i, chunk in enumerate(chunks):
        where = f"chunk {i} of {document.id!r}"
        if chunk.document != document.id or chunk.ordinal != i:
            raise InvalidParameter(
                f"{where} says it is chunk {chunk.ordinal} of {chunk.document!r}", param="chunks"
            )
        if document.text[chunk.start : chunk.end] != chunk.text:
            raise InvalidParameter(
                f"{where}: characters {chunk.start} to {chunk.end} of its document are not its "
                "text",
                param="chunks",
            )
    counted = [words.count(c.text, (document.title, *c.headings)) for c in chunks]
    return Prepared(
        entry=entry,
        key=key_of(document.id),
        audience=_audience_key(document.readers),
        bags=[codecs.bag(terms) for terms in counted],
        lengths=[terms.length for terms in counted],
    )


def _audience_key(readers: frozenset[str] | None) -> bytes:
    if readers is None:
        return b""
    return hashlib.sha256(encode(dump(sorted(readers)))).digest()


async def put(connection: "Connection", prepared: Sequence[Prepared]) -> int:
    """Add or replace documents; the revision that has them."""
    prepared = sorted({one.key: one for one in prepared}.values(), key=lambda one: one.key)
    active, dimensions = await _generations(connection)
    for one in prepared:
        _check_vectors(one.entry, dimensions, active)
    await _queue(connection, [one.key for one in prepared])
    old = await _lock(connection, [one.key for one in prepared])
    numbers = [one.number for one in old.values()]
    tally = await _tally_of(connection, numbers)
    await _delete(connection, numbers, list(dimensions))
    audiences = await _audiences(connection, prepared)
    await _insert(connection, prepared, audiences, {key: one.marks for key, one in old.items()})
    for one in prepared:
        tally.add(one, audiences[one.audience])
    await _count(connection, tally)
    return await advance(connection, deleted=bool(old))


async def remove(connection: "Connection", ids: Sequence[str]) -> int:
    """Delete those documents that are there."""
    _, dimensions = await _generations(connection)
    old = await _lock(connection, sorted({key_of(id) for id in ids}))
    numbers = [one.number for one in old.values()]
    tally = await _tally_of(connection, numbers)
    await _delete(connection, numbers, list(dimensions))
    await _count(connection, tally)
    return await advance(connection, deleted=bool(old))


async def mark(connection: "Connection", marks: Mapping[str, Marks]) -> int:
    """Say what documents are beside others."""
    ordered = sorted((key_of(id), said) for id, said in marks.items())
    await _lock(connection, [key for key, _ in ordered])
    await connection.executemany(
        "UPDATE documents SET superseded_by = $2, conflicts = $3 WHERE key = $1",
        [(key, said.superseded_by, list(said.conflicts)) for key, said in ordered],
    )
    return await advance(connection)


async def fill(connection: "Connection", generation: int, vectors: Mapping[str, bytes]) -> int:
    """Vectors for chunks that lack them; how many lacked one."""
    _, known = await _generations(connection)
    dimensions = dimensions_of(generation, known)
    for data in vectors.values():
        _check_rows(data, 1, generation, dimensions, "a chunk")
    table = vectors_table(generation)
    said = await connection.execute(
        f"INSERT INTO {table} (chunk, document, vector) SELECT c.number, c.document, f.vector "
        "FROM unnest($1::bytea[], $2::vector[]) AS f(sha256, vector) "
        "JOIN chunks c ON c.sha256 = f.sha256 "
        f"WHERE NOT EXISTS (SELECT FROM {table} v WHERE v.chunk = c.number) "
        "ORDER BY c.number ON CONFLICT (chunk) DO NOTHING",
        [bytes.fromhex(sha256) for sha256 in vectors],
        list(vectors.values()),
    )
    filled = int(said.rpartition(" ")[2])
    if filled:
        await advance(connection)
    return filled


async def advance(connection: "Connection", *, deleted: bool = False) -> int:
    """The next revision. Last in a transaction: whoever else writes waits from here on."""
    return await single.value(
        connection,
        "UPDATE state SET revision = revision + 1, "
        "deleted = CASE WHEN $1 THEN revision + 1 ELSE deleted END RETURNING revision",
        deleted,
    )


async def hold_generations(connection: "Connection", *, alone: bool) -> None:
    """Until the transaction ends no generation comes, goes or is activated."""
    shared = "" if alone else "_shared"
    await connection.execute(
        f"SELECT pg_advisory_xact_lock{shared}($1, hashtext(current_schema() || ' generations'))",
        schema.LOCK,
    )


def dimensions_of(generation: int, known: Mapping[int, int]) -> int:
    """Raises: NotFound."""
    if generation not in known:
        raise NotFound(f"generation {generation} does not exist; there are {sorted(known)}")
    return known[generation]


async def _generations(connection: "Connection") -> tuple[int, dict[int, int]]:
    await hold_generations(connection, alone=False)
    active = await single.value(connection, "SELECT active FROM state")
    rows = await connection.fetch("SELECT number, dimensions FROM generations")
    return active, {row[0]: row[1] for row in rows}


def _check_vectors(entry: Entry, known: Mapping[int, int], active: int) -> None:
    name = repr(entry.document.id)
    if entry.chunks and active and active not in entry.vectors:
        raise InvalidParameter(
            f"{name} has no vectors of the active generation {active}", param="vectors"
        )
    for generation, data in entry.vectors.items():
        dimensions = dimensions_of(generation, known)
        _check_rows(data, len(entry.chunks), generation, dimensions, name)


def _check_rows(data: bytes, count: int, generation: int, dimensions: int, name: str) -> None:
    if len(data) != 4 * dimensions * count:
        raise InvalidParameter(
            f"vectors of generation {generation} of {name} have {len(data)} bytes, not "
            f"4 x {dimensions} for each of {count} chunks",
            param="vectors",
        )
    if not np.isfinite(np.frombuffer(data, "<f4")).all():
        raise InvalidParameter(
            f"vectors of generation {generation} of {name} have numbers that are none",
            param="vectors",
        )


async def _queue(connection: "Connection", keys: Sequence[bytes]) -> None:
    """Wait for others that put the same documents: rows that are not there cannot be locked.

    By bucket, for the server has room for some thousand locks.
    """
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtext(current_schema()), b) "
        "FROM (SELECT unnest($1::integer[]) AS b) s",
        sorted({int.from_bytes(key[:2], "big") % _BUCKETS for key in keys}),
    )


async def _lock(connection: "Connection", keys: Sequence[bytes]) -> dict[bytes, _Old]:
    rows = await connection.fetch(
        "SELECT key, number, audience, superseded_by, conflicts FROM documents "
        "WHERE key = ANY($1::bytea[]) ORDER BY key FOR UPDATE",
        list(keys),
    )
    return {row[0]: _Old(number=row[1], audience=row[2], marks=(row[3], row[4])) for row in rows}


async def _tally_of(connection: "Connection", documents: Sequence[int]) -> _Tally:
    """What these documents give to the statistics, taken away."""
    tally = _Tally()
    if not documents:
        return tally
    rows = await connection.fetch(
        "SELECT u.lexeme, d.audience, count(*) FROM words w JOIN documents d ON d.number = "
        "w.document, unnest(w.words) u WHERE w.document = ANY($1::bigint[]) GROUP BY 1, 2",
        list(documents),
    )
    tally.terms.update({(row[0], row[1]): -row[2] for row in rows})
    rows = await connection.fetch(
        "SELECT d.audience, count(*), sum(w.length) FROM words w JOIN documents d "
        "ON d.number = w.document WHERE w.document = ANY($1::bigint[]) GROUP BY 1",
        list(documents),
    )
    tally.chunks.update({row[0]: -row[1] for row in rows})
    tally.lengths.update({row[0]: -row[2] for row in rows})
    return tally


async def _delete(
    connection: "Connection", documents: Sequence[int], generations: Sequence[int]
) -> None:
    if not documents:
        return
    tables = ["words", "chunks", "texts", *(vectors_table(number) for number in generations)]
    for table in tables:
        await connection.execute(
            f"DELETE FROM {table} WHERE document = ANY($1::bigint[])", list(documents)
        )
    await connection.execute("DELETE FROM documents WHERE number = ANY($1)", list(documents))


async def _audiences(connection: "Connection", prepared: Sequence[Prepared]) -> dict[bytes, int]:
    """Numbers of the audiences of these, made where they are new."""
    wanted = {one.audience: one.entry.document.readers for one in prepared}
    for key in sorted(wanted):
        readers = wanted[key]
        await connection.execute(
            "INSERT INTO audiences (key, readers) SELECT $1, $2 WHERE NOT EXISTS "
            "(SELECT FROM audiences WHERE key = $1) ON CONFLICT (key) DO NOTHING",
            key,
            None if readers is None else sorted(readers),
        )
    rows = await connection.fetch(
        "SELECT key, number FROM audiences WHERE key = ANY($1::bytea[]) FOR KEY SHARE",
        list(wanted),
    )
    return {row[0]: row[1] for row in rows}


async def _numbers(connection: "Connection", table: str, count: int) -> list[int]:
    rows = await connection.fetch(
        f"SELECT nextval('{table}_number_seq') FROM generate_series(1, $1::integer)", count
    )
    return [row[0] for row in rows]


async def _insert(
    connection: "Connection",
    prepared: Sequence[Prepared],
    audiences: Mapping[bytes, int],
    marks: Mapping[bytes, tuple[str, Sequence[str]]],
) -> None:
    numbers = await _numbers(connection, "documents", len(prepared))
    chunks = await _numbers(connection, "chunks", sum(len(one.bags) for one in prepared))
    copied: dict[str, list[tuple[Any, ...]]] = {}
    first = 0
    for number, one in zip(numbers, prepared, strict=True):
        own = chunks[first : first + len(one.bags)]
        first += len(own)
        said = marks.get(one.key, ("", []))
        audience = audiences[one.audience]
        copied.setdefault("documents", []).append(_document_row(number, one, audience, said))
        copied.setdefault("texts", []).append((number, encode(one.entry.document.text)))
        copied.setdefault("chunks", []).extend(_chunk_rows(number, one, own))
        copied.setdefault("words", []).extend(
            (chunk, number, length, bag)
            for chunk, length, bag in zip(own, one.lengths, one.bags, strict=True)
        )
        for generation, data in one.entry.vectors.items():
            copied.setdefault(vectors_table(generation), []).extend(
                (chunk, number, row)
                for chunk, row in zip(own, codecs.rows(data, len(own)), strict=True)
            )
    for table, records in copied.items():
        if records:
            await connection.copy_records_to_table(table, records=records)


def _document_row(
    number: int, one: Prepared, audience: int, marks: tuple[str, Sequence[str]]
) -> tuple[Any, ...]:
    document = one.entry.document
    if one.entry.marks is not None:
        marks = (one.entry.marks.superseded_by, one.entry.marks.conflicts)
    own = {name: getattr(document, name) for name in FIELDS}
    return (
        *(number, document.id, one.key, audience, document.source, document.title),
        *(document.media_type, document.modified_s, document.integrity.value),
        *(bytes.fromhex(document.sha256), dump(fields(document.metadata))),
        *(facts_of({**document.metadata, **own}), len(one.bags), marks[0], list(marks[1])),
    )


def _chunk_rows(document: int, one: Prepared, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    return [
        (
            *(number, document, chunk.ordinal, chunk.start, chunk.end, chunk.parent_start),
            *(chunk.parent_end, chunk.tokens, dump(chunk.headings)),
            *(bytes.fromhex(chunk.sha256), encode(chunk.text)),
        )
        for number, chunk in zip(numbers, one.entry.chunks, strict=True)
    ]


async def _count(connection: "Connection", tally: _Tally) -> None:
    """Add to the statistics; words at nothing go, for a word too tells of a text."""
    changed = sorted((key, count) for key, count in tally.terms.items() if count)
    lexemes = [key[0] for key, _ in changed]
    audiences = [key[1] for key, _ in changed]
    if changed:
        await connection.execute(
            "INSERT INTO terms AS t SELECT * FROM "
            "unnest($1::text[], $2::integer[], $3::integer[]) ON CONFLICT (word, audience) "
            "DO UPDATE SET chunks = t.chunks + excluded.chunks",
            lexemes,
            audiences,
            [count for _, count in changed],
        )
    if any(count < 0 for _, count in changed):
        await connection.execute(
            "DELETE FROM terms t USING unnest($1::text[], $2::integer[]) AS u(word, audience) "
            "WHERE t.word = u.word AND t.audience = u.audience AND t.chunks = 0",
            lexemes,
            audiences,
        )
    for audience in sorted(tally.chunks):
        await connection.execute(
            "UPDATE audiences SET chunks = chunks + $2, length = length + $3 WHERE number = $1",
            audience,
            tally.chunks[audience],
            tally.lengths[audience],
        )
