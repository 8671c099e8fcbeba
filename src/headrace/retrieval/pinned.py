"""A store of which one generation is seen: what is asked of it cannot mix two.

A query asks which generation is active once, has its question embedded by that one's model, and
then asks only this; a cut-over in between changes nothing for it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

from headrace.retrieval.contracts import (
    DocumentRow,
    Entry,
    Found,
    Generation,
    IndexStore,
    Marks,
    Scope,
)
from headrace.types import Chunk, SourceDocument


class Passing:
    """An `IndexStore` that passes everything on; others change a part of it."""

    def __init__(self, store: IndexStore) -> None:
        self._store = store

    async def put(self, entries: Sequence[Entry]) -> str:
        return await self._store.put(entries)

    async def remove(self, documents: Sequence[str]) -> str:
        return await self._store.remove(documents)

    async def mark(self, marks: Mapping[str, Marks]) -> str:
        return await self._store.mark(marks)

    async def document(self, id: str, scope: Scope) -> SourceDocument | None:
        return await self._store.document(id, scope)

    def documents(self, scope: Scope) -> AsyncIterator[DocumentRow]:
        return self._store.documents(scope)

    async def vectors_of(self, generation: int, sha256: Sequence[str]) -> Mapping[str, bytes]:
        return await self._store.vectors_of(generation, sha256)

    async def keyword(self, query: str, k: int, scope: Scope) -> Found:
        return await self._store.keyword(query, k, scope)

    async def nearest(self, generation: int, vector: bytes, k: int, scope: Scope) -> Found:
        return await self._store.nearest(generation, vector, k, scope)

    async def candidates(
        self, generation: int, query: str, vector: bytes, k: int, scope: Scope
    ) -> Found:
        return await self._store.candidates(generation, query, vector, k, scope)

    async def neighbours(
        self, document: str, first: int, last: int, scope: Scope
    ) -> Sequence[Chunk]:
        return await self._store.neighbours(document, first, last, scope)

    async def generations(self) -> Sequence[Generation]:
        return await self._store.generations()

    async def active(self) -> Generation:
        return await self._store.active()

    async def begin(self, generation: Generation) -> None:
        await self._store.begin(generation)

    async def missing(self, generation: int, limit: int) -> Mapping[str, str]:
        return await self._store.missing(generation, limit)

    async def fill(self, generation: int, vectors: Mapping[str, bytes]) -> int:
        return await self._store.fill(generation, vectors)

    async def activate(self, number: int) -> None:
        await self._store.activate(number)

    async def drop(self, number: int) -> None:
        await self._store.drop(number)

    async def snapshot(self) -> str:
        return await self._store.snapshot()

    async def purge(self) -> None:
        await self._store.purge()

    async def check(self) -> Sequence[str]:
        return await self._store.check()

    async def close(self) -> None:
        """The store is closed by whoever opened it."""


class Pinned(Passing):
    """One generation of a store, for one question."""

    def __init__(self, store: IndexStore, generation: Generation) -> None:
        super().__init__(store)
        self._generation = generation

    async def active(self) -> Generation:
        return self._generation

    async def generations(self) -> Sequence[Generation]:
        return (self._generation,)

    async def nearest(self, generation: int, vector: bytes, k: int, scope: Scope) -> Found:
        return await self._store.nearest(self._mine(generation), vector, k, scope)

    async def candidates(
        self, generation: int, query: str, vector: bytes, k: int, scope: Scope
    ) -> Found:
        return await self._store.candidates(self._mine(generation), query, vector, k, scope)

    async def vectors_of(self, generation: int, sha256: Sequence[str]) -> Mapping[str, bytes]:
        return await self._store.vectors_of(self._mine(generation), sha256)

    def _mine(self, generation: int) -> int:
        assert generation == self._generation.number, "a query mixed two generations"
        return generation
