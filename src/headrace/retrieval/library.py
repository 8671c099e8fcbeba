"""The indexes of an installation, by owner and name: `headrace.types.Indexes` over a directory.

Invariants: an owner meets its own indexes and those that others share, and of the rest not even
that they exist; an index that another process deleted, or made anew, is never answered from.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from headrace.errors import InvalidParameter, NotFound
from headrace.retrieval.contracts import IndexStore
from headrace.retrieval.opened import EVERYTHING, Cutter, OpenIndex, Seek
from headrace.retrieval.parsing import Limits, ParserPool
from headrace.retrieval.shelving import Place, Shelf, missing
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.types import (
    DocumentPage,
    DocumentStatus,
    Errand,
    IndexCard,
    IndexGeneration,
    IndexOwner,
    IndexSpec,
    Ingested,
    NewDocument,
    SearchRequest,
    SearchResult,
)

OpenStore = Callable[[Place], Awaitable[IndexStore]]
Cut = Callable[[IndexSpec], Cutter]


async def on_sqlite(place: Place) -> IndexStore:
    """An index' own store: a directory beside its record."""
    return await SqliteStore.open(place.store)


class Library:
    """An async context manager; closes every index that it opened."""

    def __init__(
        self,
        directory: Path,
        *,
        cut: Cut,
        seek: Seek,
        open_store: OpenStore = on_sqlite,
        limits: Limits | None = None,
        settled: Mapping[str, IndexSpec] | None = None,
    ) -> None:
        """
        Args:
            directory: Where they lie; made when the first is.
            cut: Makes what cuts documents, for an index.
            seek: Makes what ranks, of a store and a model.
            open_store: Opens an index' store.
            limits: Of one document's parsing.
            settled: Indexes of the settings, made when they are first asked for.
        """
        self.shelf = Shelf(directory)
        self._cut = cut
        self._seek = seek
        self._open_store = open_store
        self._parsers = ParserPool(limits=limits)
        self._open: dict[Path, OpenIndex] = {}
        self._opening = asyncio.Lock()
        self._settled = dict(settled or {})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        opened, self._open = list(self._open.values()), {}
        for index in opened:
            await index.close()
        await self._parsers.close()

    def settle(self, specs: Mapping[str, IndexSpec]) -> None:
        """Other indexes of the settings from now on; those that are there stay as they are."""
        self._settled = dict(specs)

    async def create(self, spec: IndexSpec, errand: Errand) -> IndexCard:
        """As `Indexes.create`."""
        check_spec(spec)
        embedder = errand.embedder(spec.embedder)
        spec = replace(spec, embedder=embedder.card.name)
        self._cut(spec)  # refuses sizes that cannot be, before anything is made
        place = await asyncio.to_thread(self.shelf.create, spec)
        try:
            index = await self._opened(place)
            await index.begin(embedder, errand)
        except BaseException:
            await self._forget(place.path)
            await asyncio.to_thread(self.shelf.delete, place)
            raise
        return await self._card(index)

    async def list(self, owner: IndexOwner) -> Sequence[IndexCard]:
        """As `Indexes.list`."""
        places = await asyncio.to_thread(self.shelf.all)
        seen = [p for p in places if p.spec.owner == owner or p.spec.shared]
        return [await self._card(await self._opened(place)) for place in seen]

    async def describe(self, name: str, owner: IndexOwner) -> IndexCard:
        """As `Indexes.describe`."""
        return await self._card(await self.open(name, owner, shared=True))

    async def delete(self, name: str, owner: IndexOwner) -> None:
        """As `Indexes.delete`."""
        place = await self._place(name, owner, shared=False)
        await self._forget(place.path)
        await asyncio.to_thread(self.shelf.delete, place)

    async def ingest(self, name: str, documents: Sequence[NewDocument], errand: Errand) -> Ingested:
        """As `Indexes.ingest`."""
        index = await self.open(name, errand.owner, errand=errand)
        return await index.ingest(documents, errand)

    async def documents(
        self,
        name: str,
        owner: IndexOwner,
        principals: frozenset[str] | None,
        *,
        after: str = "",
        limit: int = 100,
    ) -> DocumentPage:
        """As `Indexes.documents`."""
        index = await self.open(name, owner, shared=True)
        found = await index.statuses(principals, after=after, limit=limit + 1)
        return DocumentPage(documents=tuple(found[:limit]), more=len(found) > limit)

    async def document(
        self, name: str, id: str, owner: IndexOwner, principals: frozenset[str] | None
    ) -> DocumentStatus:
        """As `Indexes.document`."""
        return await (await self.open(name, owner, shared=True)).status(id, principals)

    async def remove(self, name: str, id: str, owner: IndexOwner) -> None:
        """As `Indexes.remove`."""
        index = await self.open(name, owner)
        await index.status(id, None)
        await index.remove([id])

    async def search(self, request: SearchRequest, errand: Errand) -> SearchResult:
        """As `Indexes.search`."""
        index = await self.open(request.index, errand.owner, shared=True, errand=errand)
        return await index.search(request, errand)

    async def snapshot(self, name: str, owner: IndexOwner) -> str:
        """As `Indexes.snapshot`."""
        index = await self.open(name, owner, shared=True)
        return f"{index.place.uid}:{await index.snapshot()}"

    async def open(
        self, name: str, owner: IndexOwner, *, shared: bool = False, errand: Errand | None = None
    ) -> OpenIndex:
        """The index itself, for whoever looks after it. Raises: NotFound."""
        try:
            place = await self._place(name, owner, shared=shared)
        except NotFound:
            spec = self._settled.get(name)
            if spec is None or errand is None or not _may(spec, owner, shared=shared):
                raise
            await self.create(spec, errand)
            place = await self._place(name, owner, shared=shared)
        return await self._opened(place)

    async def _place(self, name: str, owner: IndexOwner, *, shared: bool) -> Place:
        def find() -> Place | None:
            own = self.shelf.find(name, owner)
            if own is not None or not shared:
                return own
            lent = [p for p in self.shelf.all() if p.spec.shared and p.spec.name == name]
            return lent[0] if lent else None

        place = await asyncio.to_thread(find)
        if place is None:
            raise missing(name)
        return place

    async def _opened(self, place: Place) -> OpenIndex:
        index = self._open.get(place.path)
        if index is not None and index.place.uid == place.uid:
            return index
        async with self._opening:
            index = self._open.get(place.path)
            if index is not None and index.place.uid != place.uid:
                await self._forget(place.path)
                index = None
            if index is None:
                store = await self._open_store(place)
                cutter = self._cut(place.spec)
                index = OpenIndex(place, store, cutter, self._parsers, self._seek)
                self._open[place.path] = index
            return index

    async def _forget(self, path: Path) -> None:
        index = self._open.pop(path, None)
        if index is not None:
            await index.close()

    async def _card(self, index: OpenIndex) -> IndexCard:
        active = await index.store.active()
        generations = await index.store.generations()
        documents = chunks = 0
        async for row in index.store.documents(EVERYTHING):
            documents += 1
            chunks += row.chunks
        return IndexCard(
            spec=index.place.spec,
            created_s=index.place.created_s,
            snapshot=await index.snapshot(),
            generations=tuple(
                IndexGeneration(
                    number=item.number,
                    embedder=item.embedder,
                    fingerprint=item.fingerprint,
                    dimensions=item.dimensions,
                    active=item.number == active.number,
                )
                for item in generations
            ),
            migrating=any(item.number > active.number for item in generations),
            documents=documents,
            chunks=chunks,
            failed=await asyncio.to_thread(index.refused.count),
        )


def check_spec(spec: IndexSpec) -> None:
    """Raises: InvalidParameter for numbers that cannot be."""
    for field, low, high in (
        ("chunk_tokens", 16, 8192),
        ("overlap_tokens", 0, 4096),
        ("parent_tokens", 0, 65_536),
        ("budget_tokens", 0, 1_000_000),
        ("k", 1, 1000),
    ):
        value = getattr(spec, field)
        if not low <= value <= high:
            raise InvalidParameter(
                f"`{field}` {value} is out of range; it must be from {low} to {high}", param=field
            )


def _may(spec: IndexSpec, owner: IndexOwner, *, shared: bool) -> bool:
    return spec.owner == owner or (shared and spec.shared)
