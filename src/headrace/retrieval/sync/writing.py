"""Prepared documents → the index, batch by batch: vectors, one transaction, the status table, and
whoever quoted what is gone.

Order is what makes a crash harmless: what is owed (listeners to tell, text to purge) is noted
before the index changes, the status table is written after it. A run that ends anywhere between
leaves the last snapshot serving, and the next run does what is missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from headrace.retrieval.contracts import Entry, Generation, IndexStore, Scope
from headrace.retrieval.sync.embedding import Embedding, Kept, Vectors
from headrace.retrieval.sync.reading import Prepared
from headrace.retrieval.sync.state import Status, SyncState
from headrace.types import Chunk

ALL = Scope(principals=None)
_EVERY_CHUNK = (1 << 31) - 1


class Listener(Protocol):
    """Whoever keeps something of documents: caches of answers, memories."""

    async def forgotten(self, documents: Sequence[str]) -> None:
        """These are deleted or say something else now. May be told more than once."""
        ...


@dataclass(slots=True)
class Written:
    """What a run has written so far."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    chunks: int = 0
    embedded: int = 0


@dataclass(slots=True)
class Batch:
    """What is written together."""

    rows: list[Prepared] = field(default_factory=list[Prepared])
    chunks: int = 0

    def add(self, prepared: Prepared) -> None:
        self.rows.append(prepared)
        self.chunks += len(prepared.chunks)


class IndexWriter:
    """Writes for one run.

    Args:
        store: The index.
        state: Its status table.
        embedding: Makes what vectors are missing.
        generation: Whose vectors.
        present: Documents that are in the index of those this run may touch → digest of their text.
        listeners: Told of what is gone.
        kept_bytes: Of vectors that are kept for texts that move within the run.
        clock: Unix time.
    """

    def __init__(
        self,
        store: IndexStore,
        state: SyncState,
        embedding: Embedding,
        *,
        generation: Generation,
        present: dict[str, str],
        listeners: Sequence[Listener],
        kept_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._state, self._embedding = store, state, embedding
        self._generation = generation
        self._listeners = listeners
        self._kept = Kept(kept_bytes)
        self._clock = clock
        self.present = present
        self.written = Written()

    async def write(self, batch: Batch) -> None:
        """All of a batch; its statuses last."""
        rows = [row for row in batch.rows if row.document is not None]
        if rows:
            old = [row.status.document for row in rows if row.status.document in self.present]
            vectors = await self._embedding.vectors(
                self._generation, [chunk for row in rows for chunk in row.chunks], self._kept
            )
            await self._keep(old, vectors)
            self._owe([row.status.document for row in rows if self._says_otherwise(row)])
            await self._store.put([_entry(row, self._generation, vectors) for row in rows])
            self.written.embedded += vectors.embedded
            for row in rows:
                self._count(row)
            batch.rows = [_told_of_cuts(row, vectors) for row in batch.rows]
        self._state.record([row.status for row in batch.rows])
        await self.tell()

    async def remove(self, documents: Sequence[str]) -> None:
        """Delete documents from the index."""
        self._owe(documents)
        await self._store.remove(documents)
        for one in documents:
            self.present.pop(one, None)
        self.written.removed += len(documents)
        await self.tell()

    async def tell(self) -> None:
        """Tell listeners what they were not told yet, also of a run that was cut off."""
        owed = self._state.owed()
        if owed:
            for listener in self._listeners:
                await listener.forgotten(owed)
            self._state.told(owed)

    def _owe(self, documents: Sequence[str]) -> None:
        if documents:
            self._state.owe(documents)
            if not self._state.unpurged_since():
                self._state.set_unpurged(self._clock())

    def _says_otherwise(self, row: Prepared) -> bool:
        was = self.present.get(row.status.document)
        return was is not None and was != row.status.text

    def _count(self, row: Prepared) -> None:
        if row.status.document in self.present:
            self.written.changed += 1
        else:
            self.written.added += 1
        self.written.chunks += len(row.chunks)
        self.present[row.status.document] = row.status.text

    async def _keep(self, documents: Sequence[str], vectors: Vectors) -> None:
        """What is about to be replaced may turn up in a document that is still to come."""
        for document in documents:
            chunks = await self._store.neighbours(document, 0, _EVERY_CHUNK, ALL)
            gone = [chunk.sha256 for chunk in chunks if chunk.sha256 not in vectors.of]
            if gone:
                self._kept.add(await self._store.vectors_of(self._generation.number, gone))


def _entry(row: Prepared, generation: Generation, vectors: Vectors) -> Entry:
    assert row.document is not None
    data = b"".join(vectors.of[chunk.sha256] for chunk in row.chunks)
    return Entry(document=row.document, chunks=row.chunks, vectors={generation.number: data})


def _told_of_cuts(row: Prepared, vectors: Vectors) -> Prepared:
    cut = _cut(row.chunks, vectors)
    if not cut:
        return row
    note = f"{cut} chunks are longer than the embedder reads; their vectors are of their beginnings"
    status: Status = replace(row.status, notes=(*row.status.notes, note))
    return replace(row, status=status)


def _cut(chunks: Sequence[Chunk], vectors: Vectors) -> int:
    return sum(chunk.sha256 in vectors.cut for chunk in chunks)
