"""Rows ⇄ documents, chunks and passages."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from headrace.retrieval.contracts import DocumentRow, Generation
from headrace.retrieval.stores.postgres.keyword import Scored
from headrace.types import Chunk, Integrity, Passage, SourceDocument
from headrace.types.retrieval import Scalar

if TYPE_CHECKING:
    from asyncpg import Connection

CHUNK = (
    "c.ordinal, c.start, c.stop, c.parent_start, c.parent_stop, c.tokens, c.headings, "
    "c.text AS words"
)
DOCUMENT = (
    "d.id, d.source, d.title, d.media_type, d.modified_s, d.integrity, d.sha256, a.readers, "
    "d.metadata, d.chunks, d.superseded_by, d.conflicts"
)
OF_DOCUMENTS = "documents d JOIN audiences a ON a.number = d.audience"


def dump(value: object) -> str:
    """JSON in ASCII: what PostgreSQL's text cannot keep is escaped in it."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


@lru_cache(4096)
def _texts(data: str) -> tuple[str, ...]:
    return tuple(json.loads(data))


def _metadata(row: Mapping[str, Any]) -> dict[str, Scalar]:
    return json.loads(row["metadata"])


def _readers(row: Mapping[str, Any]) -> frozenset[str] | None:
    return None if row["readers"] is None else frozenset(row["readers"])


def chunk_of(document: str, row: Mapping[str, Any]) -> Chunk:
    """From the columns of CHUNK."""
    return Chunk(
        document=document,
        ordinal=row["ordinal"],
        start=row["start"],
        end=row["stop"],
        text=decode(row["words"]),
        headings=_texts(row["headings"]),
        parent_start=row["parent_start"],
        parent_end=row["parent_stop"],
        tokens=row["tokens"],
    )


def document_row(row: Mapping[str, Any]) -> DocumentRow:
    """From the columns of DOCUMENT."""
    return DocumentRow(
        id=row["id"],
        source=row["source"],
        title=row["title"],
        media_type=row["media_type"],
        sha256=row["sha256"].hex(),
        modified_s=row["modified_s"],
        readers=_readers(row),
        chunks=row["chunks"],
        metadata=_metadata(row),
        superseded_by=row["superseded_by"],
        conflicts=tuple(row["conflicts"]),
    )


def source_document(row: Mapping[str, Any]) -> SourceDocument:
    """From the columns of DOCUMENT and `text`."""
    return SourceDocument(
        id=row["id"],
        text=decode(row["text"]),
        source=row["source"],
        title=row["title"],
        media_type=row["media_type"],
        modified_s=row["modified_s"],
        readers=_readers(row),
        integrity=Integrity(row["integrity"]),
        metadata=_metadata(row),
    )


def generation_of(row: Mapping[str, Any]) -> Generation:
    return Generation(
        number=row["number"],
        embedder=row["embedder"],
        fingerprint=row["fingerprint"],
        dimensions=row["dimensions"],
        chunking=row["chunking"],
    )


async def passages(connection: "Connection", scored: Sequence[Scored]) -> dict[int, Passage]:
    """Chunks with what must be known of their documents, by their numbers."""
    rows = await connection.fetch(
        f"SELECT c.number, {CHUNK}, d.id, d.source, d.title, d.modified_s, d.integrity, "
        "d.metadata, d.superseded_by, d.conflicts FROM chunks c JOIN documents d "
        "ON d.number = c.document WHERE c.number = ANY($1::bigint[])",
        [one.chunk for one in scored],
    )
    found = {row["number"]: row for row in rows}
    return {
        one.chunk: Passage(
            chunk=chunk_of(row["id"], row),
            title=row["title"],
            source=row["source"],
            modified_s=row["modified_s"],
            integrity=Integrity(row["integrity"]),
            metadata=_metadata(row),
            score=one.score,
            superseded_by=row["superseded_by"],
            conflicts=tuple(row["conflicts"]),
        )
        for one, row in ((one, found[one.chunk]) for one in scored)
    }
