"""What the parts of this room owe each other: a store keeps, others read, rank, pack and cite.

One index is one store. It has generations: each is one way of making vectors (an embedder, its
fingerprint, its chunking), built beside the others; one is active.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.types import Chunk, Filter, Passage, SourceDocument


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One way of making the vectors of an index."""

    number: int
    """From 1, never used again."""
    embedder: str
    """Name of the model, as `headrace.types.EmbedderCard` has it."""
    fingerprint: str
    """`EmbedderCard.fingerprint`: vectors of different ones are never compared."""
    dimensions: int
    chunking: str = ""
    """How texts were cut: a digest of the chunker's settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One document as it goes in: whole, with all its chunks and their vectors."""

    document: SourceDocument
    chunks: tuple[Chunk, ...]
    vectors: Mapping[int, bytes]
    """Generation → float32, little-endian, one row a chunk, each of length 1. Of the active
    generation always; one that is being built may be left out, and `fill` brings it."""
    marks: "Marks | None" = None
    """What is known of it beside others; None = what was marked before stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """What a document is beside others of its index. Passages carry it to whoever reads them."""

    superseded_by: str = ""
    """The document that says it anew; empty = it is the newest there is."""
    conflicts: tuple[str, ...] = ()
    """Documents that say otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What a query may see. Enforced inside the query, never after it."""

    principals: frozenset[str] | None
    """None = everything; else documents whose `readers` are None or share a member with it."""
    filter: Filter | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one search of one kind found."""

    passages: tuple[Passage, ...]
    """Best first. `score` is BM25, higher is better, or the cosine."""
    matching: int
    """Chunks that the scope lets through, found or not."""
    snapshot: str
    shortfall: str = ""
    """Why there are fewer than were asked for; never empty where there are."""
    exact: bool = True
    """False = an approximate index answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentRow:
    """A document as it is listed, without its text."""

    id: str
    source: str
    title: str
    media_type: str
    sha256: str
    modified_s: float
    readers: frozenset[str] | None
    chunks: int
    metadata: Mapping[str, str | int | float | bool] = field(
        default_factory=dict[str, str | int | float | bool]
    )
    superseded_by: str = ""
    conflicts: tuple[str, ...] = ()


class IndexStore(Protocol):
    """The record of an index.

    Invariants: a document is there whole, with all its chunks and vectors, or not at all, whenever
    the process ends; what `put` and `remove` returned for is durable and is seen by the next query;
    a query sees one snapshot; what a scope hides is not found, counted or timed; after `remove`,
    and after a document's new revision, no file of the store holds the old text any longer than
    `purge` says. Several processes may read and write it.
    """

    async def put(self, entries: Sequence[Entry]) -> str:
        """Add or replace documents in one transaction; the snapshot that has them."""
        ...

    async def remove(self, documents: Sequence[str]) -> str:
        """Delete documents, those that are there, in one transaction."""
        ...

    async def mark(self, marks: Mapping[str, Marks]) -> str:
        """Say of documents what they are beside others, in one transaction; those that are not
        there are passed over. Needs no text and no vectors."""
        ...

    async def document(self, id: str, scope: Scope) -> SourceDocument | None:
        """One document whole; None where the scope hides it or it does not exist."""
        ...

    def documents(self, scope: Scope) -> AsyncIterator[DocumentRow]:
        """All of them, by id."""
        ...

    async def vectors_of(self, generation: int, sha256: Sequence[str]) -> Mapping[str, bytes]:
        """Vectors of chunks that say the same (`Chunk.sha256`): what need not be embedded again."""
        ...

    async def keyword(self, query: str, k: int, scope: Scope) -> Found:
        """BM25 over text and titles. The query is words of a person, never a query language."""
        ...

    async def nearest(self, generation: int, vector: bytes, k: int, scope: Scope) -> Found:
        """By cosine to one float32 vector of length 1."""
        ...

    async def candidates(
        self, generation: int, query: str, vector: bytes, k: int, scope: Scope
    ) -> Found:
        """The `k` best by keyword and the `k` best by cosine, of one snapshot, each passage once.

        `features` of each has both scores, `bm25` and `cosine`, whichever list it is from, and its
        place from 1 in the lists that have it, `bm25_rank` and `cosine_rank`. In order of
        document and ordinal: ranking them is the caller's; `score` is 0. `shortfall` says why
        there are fewer than `k`.
        """
        ...

    async def neighbours(
        self, document: str, first: int, last: int, scope: Scope
    ) -> Sequence[Chunk]:
        """Chunks of a document by ordinal, both ends included."""
        ...

    async def generations(self) -> Sequence[Generation]: ...

    async def active(self) -> Generation: ...

    async def begin(self, generation: Generation) -> None:
        """Start a generation beside the active one; it answers nothing until `activate`."""
        ...

    async def missing(self, generation: int, limit: int) -> Mapping[str, str]:
        """What lacks vectors of a generation, `limit` at most: `Chunk.sha256` → `embedded`."""
        ...

    async def fill(self, generation: int, vectors: Mapping[str, bytes]) -> int:
        """Give vectors to all chunks of these `Chunk.sha256` that lack them, in one transaction.

        Returns: How many chunks had none.
        """
        ...

    async def activate(self, number: int) -> None:
        """Cut over, or back, in one transaction: queries that have begun end on the old one.

        Raises: Conflict: A generation that lacks vectors of any chunk; names how many.
        """
        ...

    async def drop(self, number: int) -> None:
        """Delete a generation that is not active, with its vectors."""
        ...

    async def snapshot(self) -> str: ...

    async def purge(self) -> None:
        """Make deleted text unrecoverable from the store's files now."""
        ...

    async def check(self) -> Sequence[str]:
        """What is wrong with it, in sentences; empty = it is whole."""
        ...

    async def close(self) -> None: ...
