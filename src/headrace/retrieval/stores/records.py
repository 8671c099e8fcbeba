"""Rows of the database ⇄ documents, chunks and passages."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from headrace.retrieval.contracts import DocumentRow, Generation
from headrace.retrieval.stores.filters import fields
from headrace.retrieval.stores.schema import vectors_table
from headrace.types import Chunk, Integrity, Passage, SourceDocument
from headrace.types.retrieval import Scalar

CHUNK = (
    "c.document, c.ordinal, c.start, c.end, c.parent_start, c.parent_end, c.tokens, c.headings, "
    "c.text"
)
DOCUMENT = (
    "d.id, d.source, d.title, d.media_type, d.modified_s, d.integrity, d.sha256, d.readers, "
    "d.metadata, d.chunks, d.superseded_by, d.conflicts"
)
_PASSAGE = (
    "d.id, d.source, d.title, d.modified_s, d.integrity, d.metadata, d.superseded_by, d.conflicts"
)
_INTEGRITY = {integrity.value: integrity for integrity in Integrity}
_MANY = 500


_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))


def dump(value: object) -> str:
    """As JSON; lone surrogates are escaped, so SQLite takes whatever a document had."""
    return _encoder.encode(value) if value else "[]"


def dump_metadata(metadata: Mapping[str, Scalar]) -> str:
    return dump(fields(metadata)) if metadata else "{}"


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


@lru_cache(4096)
def _texts(data: str) -> tuple[str, ...]:
    return tuple(json.loads(data))


@lru_cache(4096)
def _metadata(data: str) -> Mapping[str, Scalar]:
    return json.loads(data)


def readers_of(data: str | None) -> frozenset[str] | None:
    return None if data is None else frozenset(_texts(data))


def chunk_of(id: str, row: Sequence[Any]) -> Chunk:
    """From the columns of CHUNK."""
    _, ordinal, start, end, parent_start, parent_end, tokens, headings, text = row
    return Chunk(
        document=id,
        ordinal=ordinal,
        start=start,
        end=end,
        text=decode(text),
        headings=_texts(headings),
        parent_start=parent_start,
        parent_end=parent_end,
        tokens=tokens,
    )


def document_row(row: Sequence[Any]) -> DocumentRow:
    """From the columns of DOCUMENT."""
    return DocumentRow(
        id=row[0],
        source=row[1],
        title=row[2],
        media_type=row[3],
        modified_s=row[4],
        sha256=row[6].hex(),
        readers=readers_of(row[7]),
        chunks=row[9],
        metadata=dict(_metadata(row[8])),
        superseded_by=row[10],
        conflicts=_texts(row[11]),
    )


def source_document(row: Sequence[Any], text: bytes) -> SourceDocument:
    """From the columns of DOCUMENT and its text."""
    return SourceDocument(
        id=row[0],
        text=decode(text),
        source=row[1],
        title=row[2],
        media_type=row[3],
        modified_s=row[4],
        integrity=Integrity(row[5]),
        readers=readers_of(row[7]),
        metadata=dict(_metadata(row[8])),
    )


def generation_of(row: Sequence[Any]) -> Generation:
    number, embedder, fingerprint, dimensions, chunking = row
    return Generation(
        number=number,
        embedder=embedder,
        fingerprint=fingerprint,
        dimensions=dimensions,
        chunking=chunking,
    )


def passages(
    connection: sqlite3.Connection,
    rows: Sequence[int],
    scores: Sequence[float],
    features: Sequence[Mapping[str, float]] | None = None,
) -> list[Passage]:
    """Chunks by row, each with its score, in that order; all in one or a few statements."""
    chunks = {
        row[0]: row[1:]
        for row in _by_row(
            connection,
            f"c.row, {_PASSAGE}, {CHUNK}",
            "chunks c JOIN documents d ON d.row = c.document",
            "c",
            rows,
        )
    }
    found: list[Passage] = []
    for i, row in enumerate(rows):
        id, source, title, modified_s, integrity, metadata, superseded_by, conflicts, *chunk = (
            chunks[row]
        )
        found.append(
            Passage(
                chunk=chunk_of(id, chunk),
                title=title,
                source=source,
                modified_s=modified_s,
                integrity=_INTEGRITY[integrity],
                metadata=dict(_metadata(metadata)),
                score=scores[i],
                features={} if features is None else features[i],
                superseded_by=superseded_by,
                conflicts=_texts(conflicts),
            )
        )
    return found


def vectors(
    connection: sqlite3.Connection, generation: int, chunks: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Chunks and their vectors, those that have one, in any order."""
    found: list[tuple[int, bytes]] = []
    for i in range(0, len(chunks), _MANY):
        some = chunks[i : i + _MANY]
        marks = ",".join("?" * len(some))
        found += connection.execute(
            f"SELECT chunk, data FROM {vectors_table(generation)} WHERE chunk IN ({marks})", some
        ).fetchall()
    return found


def _by_row(
    connection: sqlite3.Connection, columns: str, table: str, name: str, rows: Sequence[int]
) -> Iterable[Sequence[Any]]:
    for i in range(0, len(rows), _MANY):
        some = rows[i : i + _MANY]
        marks = ",".join("?" * len(some))
        yield from connection.execute(
            f"SELECT {columns} FROM {table} WHERE {name}.row IN ({marks})", some
        )
