"""The indexes of an installation, by owner and name: `headrace.types.Indexes` over a home.

Invariants: an owner meets its own indexes and those that others share, and of the rest not even
that they exist; an index that another process deleted, or made anew, is never answered from.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

from headrace.config import IndexSettings, SourceSettings
from headrace.errors import ConfigError, HeadraceError, InvalidParameter, NotFound
from headrace.retrieval import catalog
from headrace.retrieval.chunking import Chunker
from headrace.retrieval.contracts import Scope
from headrace.retrieval.homes.contracts import Home
from headrace.retrieval.homes.directory import OnDisk
from headrace.retrieval.opened import EVERYTHING, Forgotten, OpenIndex, Seek
from headrace.retrieval.parsing import Limits, ParserPool
from headrace.retrieval.shelving import Place, check_name, missing
from headrace.retrieval.sync.freshness import Freshness, SourceStanding, freshness
from headrace.types import (
    Backend,
    ChatRequest,
    CitationPolicy,
    DocumentPage,
    DocumentStatus,
    Errand,
    Event,
    Grounding,
    IndexCard,
    IndexGeneration,
    IndexOwner,
    IndexSpec,
    Ingested,
    NewDocument,
    SearchRequest,
    SearchResult,
    SourceDocument,
    Synced,
)

_LOG = logging.getLogger("headrace.retrieval")
Cut = Callable[[IndexSpec], Chunker]
Search = Callable[[SearchRequest], Awaitable[SearchResult]]
Fetch = Callable[[str], Awaitable[SourceDocument | None]]
"""A document by its id, where the asker may see it."""
Ground = Callable[[Search, Fetch, IndexSpec, Grounding, Backend], Backend]


class _Key(NamedTuple):
    owner: IndexOwner
    name: str


def _key(place: Place) -> _Key:
    return _Key(place.spec.owner, place.spec.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFreshness:
    """One source of one index."""

    owner: IndexOwner
    index: str
    freshness: Freshness
    items: Mapping[str, int]
    """Outcome → items."""


class Library:
    """An async context manager; closes every index that it opened."""

    def __init__(
        self,
        directory: Path,
        *,
        cut: Cut,
        seek: Seek,
        home: Home | None = None,
        limits: Limits | None = None,
        ground: Ground | None = None,
        forgotten: Forgotten | None = None,
    ) -> None:
        """
        Args:
            directory: Where their files lie; made when the first is.
            cut: Makes what cuts documents, for an index.
            seek: Makes what ranks, of a store and a model.
            home: What keeps them; None = the directory.
            limits: Of one document's parsing.
            ground: Makes what answers from an index; None = nothing here does.
            forgotten: Told of documents that are deleted or say something else.
        """
        self.home = home or OnDisk(directory)
        self._cut = cut
        self._seek = seek
        self._parsers = ParserPool(limits=limits)
        self._open: dict[_Key, OpenIndex] = {}
        self._opening = asyncio.Lock()
        self._ground = ground
        self._forgotten = forgotten
        self._settled: dict[tuple[str, IndexOwner], IndexSpec] = {}
        self._sources: dict[tuple[str, IndexOwner], Mapping[str, SourceSettings]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        opened, self._open = list(self._open.values()), {}
        for index in opened:
            await index.close()
        await self._parsers.close()
        await self.home.close()

    def settle(self, indexes: Mapping[str, IndexSettings]) -> None:
        """The indexes of the settings, made when they are first asked for, and their sources; an
        index that is there stays as it is.

        Raises: ConfigError.
        """
        settled = {name: settled_spec(name, found) for name, found in indexes.items()}
        for name, found in indexes.items():
            for source, about in found.sources.items():
                catalog.check_source(source, about, key=f"indexes.{name}.sources.{source}")
        self._settled = {(spec.name, spec.owner): spec for spec in settled.values()}
        self._sources = {
            (name, settled[name].owner): found.sources for name, found in indexes.items()
        }

    async def create(self, spec: IndexSpec, errand: Errand) -> IndexCard:
        """As `Indexes.create`."""
        check_spec(spec)
        embedder = errand.embedder(spec.embedder)
        spec = replace(spec, embedder=embedder.card.name)
        self._cut(spec)  # refuses sizes that cannot be, before anything is made
        place = await self.home.create(spec)
        try:
            index = await self._opened(place)
            await index.begin(embedder, errand)
        except BaseException:
            await self._forget(_key(place))
            await self.home.delete(place)
            raise
        return await self._card(index)

    async def list(self, owner: IndexOwner) -> Sequence[IndexCard]:
        """As `Indexes.list`."""
        places = await self.home.all()
        seen = [p for p in places if p.spec.owner == owner or p.spec.shared]
        return [await self._card(await self._opened(place)) for place in seen]

    async def describe(self, name: str, owner: IndexOwner) -> IndexCard:
        """As `Indexes.describe`."""
        return await self._card(await self.open(name, owner, shared=True))

    async def spec(self, name: str, owner: IndexOwner) -> IndexSpec:
        """As `Indexes.spec`."""
        try:
            return (await self._place(name, owner, shared=True)).spec
        except NotFound:
            settled = self._settled_as(name, owner, shared=True)
            if settled is None:
                raise
            return settled

    async def delete(self, name: str, owner: IndexOwner) -> None:
        """As `Indexes.delete`."""
        place = await self._place(name, owner, shared=False)
        await self._all_forgotten(place)
        await self._forget(_key(place))
        await self.home.delete(place)
        await self._all_forgotten(place)

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

    async def sync(
        self, name: str, source: str, errand: Errand, *, only: Collection[str] | None = None
    ) -> Sequence[Synced]:
        """As `Indexes.sync`."""
        index = await self.open(name, errand.owner, errand=errand)
        there = self.sources(name, errand.owner)
        if not there or (source and source not in there):
            raise _no_source(name, source, there)
        wanted = [source] if source else list(there)
        return [await index.sync(one, there[one], errand, only=only) for one in wanted]

    async def signing_secret(self, name: str, source: str, owner: IndexOwner) -> bytes:
        """As `Indexes.signing_secret`."""
        there = self._sources.get((name, owner))
        if there is None:
            await self._place(name, owner, shared=False)
        if not there or source not in there:
            raise _no_source(name, source, there or {})
        if not there[source].secret:
            raise InvalidParameter(
                f"the source {source!r} of {name!r} takes no deliveries; to sign them set "
                f'indexes.{name}.sources.{source}.secret = "env:NAME" or "file:PATH"',
                param="source",
            )
        return catalog.signing_secret(there[source], key=f"indexes.{name}.sources.{source}")

    def check_secrets(self) -> None:
        """Whether those of all sources are there. Raises: ConfigError."""
        for (name, _), sources in self._sources.items():
            for source, about in sources.items():
                if about.secret:
                    catalog.signing_secret(about, key=f"indexes.{name}.sources.{source}")

    async def search(self, request: SearchRequest, errand: Errand) -> SearchResult:
        """As `Indexes.search`."""
        index = await self.open(request.index, errand.owner, shared=True, errand=errand)
        return await index.search(request, errand)

    async def snapshot(self, name: str, owner: IndexOwner) -> str:
        """As `Indexes.snapshot`."""
        index = await self.open(name, owner, shared=True)
        return f"{index.place.uid}:{await index.snapshot()}"

    async def tidy(self) -> int:
        """Make deleted text of all indexes unrecoverable; in how many it was not possible now."""
        left = 0
        for place in await self.home.all():
            try:
                await (await self._opened(place)).tidy()
            except NotFound:  # deleted meanwhile
                continue
            except HeadraceError as error:
                left += 1
                _LOG.warning(
                    "deleted text is not purged yet",
                    extra={"fields": {"index": place.spec.name, "why": error.message}},
                )
        return left

    async def freshness(self, *, now_s: float) -> Sequence[IndexFreshness]:
        """Of every source that the settings have or a sync has left a standing of.

        Those of an index that is still to be made were never synced.
        """
        known = {
            (place.spec.name, place.spec.owner): await self.home.beside(place).sources()
            for place in await self.home.all()
        }
        found: list[IndexFreshness] = []
        for name, owner in dict.fromkeys((*known, *self._sources)):
            wanted, left = self.sources(name, owner), known.get((name, owner), {})
            for source in sorted({*left, *wanted}):
                objective_s = wanted[source].fresh_s if source in wanted else 0
                standing = left.get(source, SourceStanding(source=source))
                found.append(
                    IndexFreshness(
                        owner=owner,
                        index=name,
                        freshness=freshness(standing, objective_s=objective_s, now_s=now_s),
                        items=standing.items,
                    )
                )
        return found

    async def models(self, name: str, owner: IndexOwner) -> Sequence[str]:
        """Names of those that made its generations, or will make the first. Raises: NotFound."""
        try:
            index = await self.open(name, owner, shared=True)
        except NotFound:
            return [(await self.spec(name, owner)).embedder]
        return [item.embedder for item in await index.store.generations()]

    def sources(self, name: str, owner: IndexOwner) -> Mapping[str, SourceSettings]:
        """Those of its settings."""
        return self._sources.get((name, owner), {})

    def grounded(self, how: Grounding, backend: Backend, errand: Errand) -> Backend:
        """As `Indexes.grounded`."""
        if self._ground is None:
            raise NotFound("nothing here answers from an index")
        return _Grounded(self, how, backend, errand, self._ground)

    async def open(
        self, name: str, owner: IndexOwner, *, shared: bool = False, errand: Errand | None = None
    ) -> OpenIndex:
        """The index itself, for whoever looks after it. Raises: NotFound."""
        try:
            place = await self._place(name, owner, shared=shared)
        except NotFound:
            spec = self._settled_as(name, owner, shared=shared)
            if spec is None or errand is None:
                raise
            await self.create(spec, errand)
            place = await self._place(name, owner, shared=shared)
        return await self._opened(place)

    async def _place(self, name: str, owner: IndexOwner, *, shared: bool) -> Place:
        place = await self.home.find(name, owner)
        if place is None and shared:
            lent = (p for p in await self.home.all() if p.spec.shared and p.spec.name == name)
            place = next(lent, None)
        if place is None:
            raise missing(name)
        return place

    def _settled_as(self, name: str, owner: IndexOwner, *, shared: bool) -> IndexSpec | None:
        own = self._settled.get((name, owner))
        if own is not None or not shared:
            return own
        lent = (s for s in self._settled.values() if s.name == name and s.shared)
        return next(lent, None)

    async def _opened(self, place: Place) -> OpenIndex:
        index = self._open.get(_key(place))
        if index is not None and index.place.uid == place.uid:
            return index
        async with self._opening:
            index = self._open.get(_key(place))
            if index is not None and index.place.uid != place.uid:
                await self._forget(_key(place))
                index = None
            if index is None:
                store = await self.home.store(place)
                cutter = self._cut(place.spec)
                index = OpenIndex(
                    place, self.home, store, cutter, self._parsers, self._seek, self._forgotten
                )
                self._open[_key(place)] = index
            return index

    async def _forget(self, key: _Key) -> None:
        index = self._open.pop(key, None)
        if index is not None:
            await index.close()

    async def _all_forgotten(self, place: Place) -> None:
        if self._forgotten is not None:
            await self._forgotten(place.spec.owner, place.spec.name, [""])

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
            failed=await index.beside.count_refused(),
        )


class _Grounded:
    """Looks the index up where the question is asked, not where the backend is put together."""

    def __init__(
        self, library: Library, how: Grounding, backend: Backend, errand: Errand, ground: Ground
    ) -> None:
        self._library = library
        self._how = how
        self._backend = backend
        self._errand = errand
        self._ground = ground

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        spec = await self._library.spec(self._how.index, self._errand.owner)
        errand = replace(
            self._errand, caller=request.caller, trace=request.trace, trail=request.trail
        )

        async def search(asked: SearchRequest) -> SearchResult:
            return await self._library.search(asked, errand)

        async def fetch(id: str) -> SourceDocument | None:
            index = await self._library.open(spec.name, errand.owner, shared=True)
            return await index.store.document(id, Scope(principals=self._how.principals))

        backend = self._ground(search, fetch, spec, self._how, self._backend)
        async for event in backend.stream(request):
            yield event


def _no_source(name: str, source: str, there: Collection[str]) -> InvalidParameter:
    known = ", ".join(there) or "none; add [indexes.NAME.sources.SOURCE] to headrace.toml"
    return InvalidParameter(
        f"the index {name!r} has no source {source[:80]!r}; it has: {known}", param="source"
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


def settled_spec(name: str, found: IndexSettings) -> IndexSpec:
    """An index as the settings have it. Raises: ConfigError."""
    key = f"indexes.{name}"
    if found.policy not in list(CitationPolicy):
        known = ", ".join(item.value for item in CitationPolicy)
        raise ConfigError(f"{key}.policy = {found.policy!r} is not one of {known}")
    if found.team and not found.org:
        raise ConfigError(f"{key}.org is missing; a team is of an organization")
    spec = IndexSpec(
        name=name,
        owner=IndexOwner(found.org, found.team),
        shared=found.shared,
        embedder=found.embedder,
        chunk_tokens=found.chunk_tokens,
        overlap_tokens=found.overlap_tokens,
        parent_tokens=found.parent_tokens,
        policy=CitationPolicy(found.policy),
        model=found.model,
        budget_tokens=found.budget_tokens,
        k=found.k,
    )
    try:
        check_name(name)
        check_spec(spec)
    except InvalidParameter as error:
        raise ConfigError(f"[{key}]: {error.message}") from None
    return spec
