"""One index that is open: documents go in, questions are answered, generations come and go.

Invariants: a document is searchable whole or not at all; a question is answered by one generation;
documents and their vectors are written to every generation whose model is here.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, Protocol

from headrace.config import SourceSettings
from headrace.errors import Conflict, InvalidParameter, NotFound
from headrace.retrieval import catalog, vectors
from headrace.retrieval.chunking import Chunker
from headrace.retrieval.contracts import DocumentRow, Entry, Generation, IndexStore, Scope
from headrace.retrieval.doubling import Doubling
from headrace.retrieval.homes.contracts import Beside, Home
from headrace.retrieval.parsing import ParserPool, Raw, Reading, Refusal, Unreadable, document
from headrace.retrieval.pinned import Pinned
from headrace.retrieval.shelving import Place
from headrace.retrieval.sync import Outcome, Status, Syncer, SyncSettings, SyncState, handed
from headrace.retrieval.sync.freshness import standing_of
from headrace.retrieval.sync.reading import sign
from headrace.types import (
    Chunk,
    DocumentState,
    DocumentStatus,
    Embedded,
    Embedder,
    EmbedderCard,
    EmbedRequest,
    Errand,
    IndexOwner,
    Ingested,
    NewDocument,
    SearchRequest,
    SearchResult,
    SourceDocument,
    Synced,
    total,
)
from headrace.types.retrieval import Compare, OneOf, Where

EVERYTHING = Scope(principals=None)
MAX_ID = 1024
_TRIES = 3
_PAGE = 500
_MARKED_AT_ONCE = 2000
"""Documents of an index up to which those that come are marked in the request that brings them."""


class Seeker(Protocol):
    """Ranks what a store finds; `headrace.retrieval.ranking.Retriever` is one."""

    async def search(self, request: SearchRequest) -> SearchResult: ...


Seek = Callable[[IndexStore, Embedder], Seeker]
Forgotten = Callable[[IndexOwner, str, Sequence[str]], Awaitable[None]]
"""(whose, index, documents): they are deleted or say something else now; no document = all are."""


class _Read(NamedTuple):
    """A document that was handed in and could be read."""

    document: SourceDocument
    chunks: tuple[Chunk, ...]
    status: DocumentStatus


class OpenIndex:
    """Of one place; closed by whoever opened it."""

    def __init__(
        self,
        place: Place,
        home: Home,
        store: IndexStore,
        cutter: Chunker,
        parsers: ParserPool,
        seek: Seek,
        forgotten: Forgotten | None = None,
    ) -> None:
        """
        Args:
            place: Its record and where it lies.
            home: What keeps it.
            store: Open.
            cutter: How documents are cut.
            parsers: Where they are read.
            seek: Makes what ranks.
            forgotten: Told of documents that are deleted or say something else; None = nobody is.
        """
        self.place = place
        self.store = store
        self.cutter = cutter
        self.beside: Beside = home.beside(place)
        self._home = home
        self._parsers = parsers
        self._seek = seek
        self._forgotten = forgotten

    async def forgotten(self, documents: Sequence[str]) -> None:
        """Tell whoever keeps something of these. May be told more than once."""
        if self._forgotten is not None and documents:
            spec = self.place.spec
            await self._forgotten(spec.owner, spec.name, documents)

    async def begin(self, embedder: Embedder, errand: Errand) -> None:
        """Its first generation, which is active."""
        await self.store.begin(await generation_for(1, embedder, self.cutter.digest, errand))

    async def ingest(self, documents: Sequence[NewDocument], errand: Errand) -> Ingested:
        """Read, cut, embed and put documents; each gets a status."""
        check_ids(documents)
        active = await self.store.active()
        if active.chunking != self.cutter.digest:
            raise InvalidParameter(
                f"the index was cut as {active.chunking}, and {self.cutter.digest} is wanted: its "
                "tokenizer or this version cuts otherwise; make a new index and sync it"
            )
        found = await asyncio.gather(*(self._read(item) for item in documents))
        new = [item for item in found if isinstance(item, _Read)]
        old = {item.document.id: await self._old(item.document) for item in new}
        changed = [item for item in new if not _same(old[item.document.id], item.document)]
        rewritten = [item.document.id for item in changed if _says_otherwise(old, item.document)]
        # Before, for a crash would leave nobody who knows; after, for whoever quotes it meanwhile.
        await self.forgotten(rewritten)
        done = await self.write(changed, errand)
        await self.forgotten(rewritten)
        refused = [item for item in found if isinstance(item, DocumentStatus)]
        await self.beside.refuse(refused, [item.document.id for item in new])
        there = {item.document.id for item in new} - {item.document.id for item in changed}
        told = [_told(item, there) for item in found]
        if changed and not await self._mark(at_once=True):
            return replace(done, documents=tuple(told))
        marked = await self._marked([item.document.id for item in new])
        copied = await asyncio.to_thread(self._copies, told)
        return replace(
            done,
            documents=tuple(
                _with_marks(one, marked.get(one.id), copied.get(one.id)) for one in told
            ),
            snapshot=await self.snapshot(),
        )

    async def _mark(self, *, at_once: bool) -> bool:
        """Mark documents that were handed in beside all others; whether that was done.

        Args:
            at_once: Only of an index that is so small that nobody waits; of a larger one the next
                round of `tidy` does, as where a sync is at work.
        """
        if at_once and await self._large():
            return False
        try:
            async with self._home.alone(self.place, "sync"):
                with self.states() as state, state.exclusive():
                    await handed.mark(self.store, state, sign)
        except Conflict:
            return False
        return True

    async def _large(self) -> bool:
        seen = 0
        async for _ in self.store.documents(EVERYTHING):
            seen += 1
            if seen > _MARKED_AT_ONCE:
                return True
        return False

    async def _marked(self, ids: Sequence[str]) -> dict[str, DocumentRow]:
        rows: dict[str, DocumentRow] = {}
        for at in range(0, len(ids), _PAGE):
            some = OneOf(field="id", values=tuple(ids[at : at + _PAGE]))
            async for row in self.store.documents(Scope(principals=None, filter=some)):
                rows[row.id] = row
        return rows

    def _copies(self, told: Sequence[DocumentStatus]) -> dict[str, str]:
        with self.states() as state:
            return handed.copies(state, [(one.id, one.sha256) for one in told if one.sha256])

    async def write(self, read: Sequence["_Read"], errand: Errand) -> Ingested:
        """Put documents with their vectors in every generation."""
        for attempt in range(_TRIES):
            models = await vectors.models_of(self.store, errand)
            made = [
                await vectors.make(
                    self.store, model, [chunk for item in read for chunk in item.chunks], errand
                )
                for model in models
            ]
            entries = [
                Entry(
                    document=item.document,
                    chunks=item.chunks,
                    vectors={
                        model.generation.number: vectors.joined(item.chunks, have)
                        for model, have in zip(models, made, strict=True)
                    },
                )
                for item in read
            ]
            try:
                snapshot = await self.store.put(entries) if entries else await self.snapshot()
            except (InvalidParameter, NotFound):
                # Generations began, were dropped or took over since they were asked for.
                if attempt + 1 == _TRIES:
                    raise
                continue
            return Ingested(
                documents=(),
                snapshot=snapshot,
                embedded=sum(have.embedded for have in made),
                reused=sum(have.reused for have in made),
                usage=total([have.usage for have in made]),
            )
        raise AssertionError("unreachable")

    async def sync(
        self,
        name: str,
        source: SourceSettings,
        errand: Errand,
        *,
        only: Collection[str] | None = None,
    ) -> Synced:
        """Bring the index, or these of its items alone, to where one of its sources is now; one
        sync at a time.

        Raises: Conflict: Another is at it; DataError: The source cannot be listed.
        """
        active = await self.store.active()
        model = vectors.model_of(active, errand)
        settings = SyncSettings(retention_s=0.0 if self._home.purges_at_once else math.inf)
        async with self._home.alone(self.place, "sync"):
            with self.states() as state:
                syncer = Syncer(
                    Doubling(self.store, errand),
                    OnErrand(model.embedder, errand),
                    self.cutter,
                    self._parsers,
                    state,
                    settings=settings,
                    listeners=(self,),
                )
                try:
                    async with catalog.opened(name, source) as found:
                        report = await syncer.sync(found, only=only)
                finally:
                    await self.beside.synced(standing_of(state, name))
                await handed.mark(self.store, state, sign)
                failed = [
                    row for row in state.of_source(name).values() if row.outcome is Outcome.FAILED
                ]
        return Synced(
            source=name,
            added=report.added,
            changed=report.changed,
            removed=report.removed,
            unchanged=report.unchanged,
            failed=tuple(_failed(row) for row in failed),
            snapshot=await self.snapshot(),
            embedded=report.embedded,
        )

    async def tidy(self) -> bool:
        """Bring marks up to date, and make deleted text unrecoverable; False = another is at it.

        Raises: StoreUnavailable: Somebody reads all the time; try again later.
        """
        await self._mark(at_once=False)
        try:
            async with self._home.alone(self.place, "purge"):
                await self._purge()
        except Conflict:
            return False
        return True

    async def _purge(self) -> None:
        if not (self.place.path / "sources.db").exists():
            await self.store.purge()
            return
        with self.states() as state:
            try:
                with state.exclusive():
                    await self.store.purge()
                    if state.unpurged_since():
                        await asyncio.to_thread(state.purge)
                        state.set_unpurged(0.0)
            except Conflict:  # a sync is at it: its own notes stay until the next time
                await self.store.purge()

    @contextmanager
    def states(self) -> Generator[SyncState]:
        """What is known of its sources' documents."""
        state = SyncState.open(self.place.path / "sources.db")
        try:
            yield state
        finally:
            state.close()

    async def search(self, request: SearchRequest, errand: Errand) -> SearchResult:
        """Of the generation that is active when it begins."""
        for attempt in range(_TRIES):
            active = await self.store.active()
            try:
                return await self.search_in(active, request, errand)
            except NotFound:
                # It was dropped meanwhile, long after another took over.
                if attempt + 1 == _TRIES or (await self.store.active()) == active:
                    raise
        raise AssertionError("unreachable")

    async def search_in(
        self, generation: Generation, request: SearchRequest, errand: Errand
    ) -> SearchResult:
        """Of one generation, active or not."""
        model = vectors.model_of(generation, errand)
        embedder = OnErrand(model.embedder, errand)
        return await self._seek(Pinned(self.store, generation), embedder).search(request)

    async def status(self, id: str, principals: frozenset[str] | None) -> DocumentStatus:
        """Raises: NotFound."""
        scope = Scope(principals=principals, filter=Where(field="id", value=id))
        async for row in self.store.documents(scope):
            return status_of(row)
        refused = None
        if principals is None:
            refused = await self.beside.refused(id)
            unsynced = [] if refused else await asyncio.to_thread(self._unsynced)
            refused = next((item for item in unsynced if item.id == id), refused)
        if refused is None:
            raise no_document(id)
        return refused

    async def statuses(
        self, principals: frozenset[str] | None, *, after: str, limit: int
    ) -> list[DocumentStatus]:
        """By id, `limit` at most."""
        where = Where(field="id", compare=Compare.GT, value=after) if after else None
        found: list[DocumentStatus] = []
        async for row in self.store.documents(Scope(principals=principals, filter=where)):
            found.append(status_of(row))
            if len(found) == limit:
                break
        if principals is None:
            found += await self.beside.all_refused(after=after, limit=limit)
            found += [item for item in await asyncio.to_thread(self._unsynced) if item.id > after]
        return sorted(found, key=lambda item: item.id)[:limit]

    def _unsynced(self) -> list[DocumentStatus]:
        """Documents of its sources that could not be read."""
        with self.states() as state:
            return [_failed(row) for row in state.statuses(outcome=Outcome.FAILED)]

    async def remove(self, ids: Sequence[str]) -> None:
        """Documents, and that they could not be read; their text is overwritten at once, or, where
        that would keep readers waiting, by `tidy`.

        Raises: Conflict: One that a source has: it would come again.
        """
        for id in ids:
            held = await self.status(id, None)
            if held.source:
                raise Conflict(
                    f"the document {id[:80]!r} is of source {held.source} and would come again; "
                    "delete it there, or exclude it"
                )
        await self.forgotten(ids)
        await self.store.remove(ids)
        if self._home.purges_at_once:
            await self.store.purge()
        await self.beside.refuse([], ids)
        await self.forgotten(ids)  # whoever quoted it meanwhile
        await self._mark(at_once=True)  # nothing is replaced by what is gone

    async def snapshot(self) -> str:
        return await self.store.snapshot()

    async def close(self) -> None:
        await self.store.close()

    async def _read(self, new: NewDocument) -> "_Read | DocumentStatus":
        found = await self._reading(new)
        if isinstance(found, Refusal):
            return DocumentStatus(
                id=new.id,
                state=DocumentState.FAILED,
                reason=found.reason.value,
                detail=found.detail,
                title=new.title or new.filename,
            )
        made = document(
            new.id,
            found,
            title=new.title or found.title or new.filename,
            modified_s=new.modified_s,
            readers=new.readers,
            integrity=new.integrity,
            metadata=new.metadata,
        )
        chunks = await asyncio.to_thread(self.cutter.chunks, made)
        if not chunks:
            return DocumentStatus(
                id=new.id,
                state=DocumentState.FAILED,
                reason=Unreadable.NO_TEXT.value,
                detail="nothing in it is text",
                title=made.title,
            )
        status = DocumentStatus(
            id=new.id,
            state=DocumentState.SEARCHABLE,
            notes=found.notes,
            title=made.title,
            media_type=made.media_type,
            sha256=made.sha256,
            modified_s=made.modified_s,
            chunks=len(chunks),
            readers=made.readers,
            metadata=made.metadata,
        )
        return _Read(made, chunks, status)

    async def _reading(self, new: NewDocument) -> Reading | Refusal:
        if new.filename:
            raw = Raw(data=new.data, name=new.filename, media_type=new.media_type)
            return await self._parsers.parse(raw)
        # A text that is handed in is its own reading: spans count what the client sent.
        text = new.data.decode("utf-8")
        return Reading(text=text, media_type=new.media_type or "text/plain")

    async def _old(self, new: SourceDocument) -> SourceDocument | None:
        old = await self.store.document(new.id, EVERYTHING)
        if old is not None and old.source:
            raise Conflict(
                f"the document {new.id[:80]!r} is of source {old.source}; hand it in by another id"
            )
        return old


def _same(old: SourceDocument | None, new: SourceDocument) -> bool:
    return old is not None and replace(old, modified_s=new.modified_s) == new


def _says_otherwise(old: Mapping[str, SourceDocument | None], new: SourceDocument) -> bool:
    was = old[new.id]
    return was is not None and was.text != new.text


class OnErrand:
    """An embedder whose calls are made on somebody's behalf: booked to them, in their trail."""

    def __init__(self, embedder: Embedder, errand: Errand) -> None:
        self._embedder = embedder
        self._errand = errand

    @property
    def card(self) -> EmbedderCard:
        return self._embedder.card

    async def count(self, request: EmbedRequest) -> tuple[int, ...]:
        return await self._embedder.count(request)

    async def embed(self, request: EmbedRequest) -> Embedded:
        errand = self._errand
        return await self._embedder.embed(
            replace(request, caller=errand.caller, trace=errand.trace, trail=errand.trail)
        )


async def generation_for(
    number: int, embedder: Embedder, chunking: str, errand: Errand
) -> Generation:
    """A generation that this model makes; one that does not say its dimensions is asked."""
    card = embedder.card
    dimensions = card.dimensions
    if not dimensions:
        vector, _ = await vectors.embed_query(embedder, "dimensions", errand)
        dimensions = len(vector) // 4
    return Generation(
        number=number,
        embedder=card.name,
        fingerprint=vectors.fingerprint_of(embedder),
        dimensions=dimensions,
        chunking=chunking,
    )


def check_ids(documents: Sequence[NewDocument]) -> None:
    """Raises: InvalidParameter: An id that is empty, long, or there twice."""
    seen: set[str] = set()
    for at, item in enumerate(documents):
        path = f"documents[{at}].id"
        if not 0 < len(item.id) <= MAX_ID or "\0" in item.id:
            raise InvalidParameter(
                f"`{path}` has {len(item.id)} characters; it takes 1 to {MAX_ID}, none of them NUL",
                param=path,
            )
        if item.id in seen:
            raise InvalidParameter(f"`{path}` {item.id[:80]!r} is there twice", param=path)
        seen.add(item.id)


def no_document(id: str) -> NotFound:
    return NotFound(f"there is no document {id[:80]!r} in this index", param="document")


def status_of(row: DocumentRow) -> DocumentStatus:
    """Of a document that is searchable."""
    return DocumentStatus(
        id=row.id,
        state=DocumentState.SEARCHABLE,
        title=row.title,
        source=row.source,
        media_type=row.media_type,
        sha256=row.sha256,
        modified_s=row.modified_s,
        chunks=row.chunks,
        readers=row.readers,
        metadata=row.metadata,
        superseded_by=row.superseded_by,
        conflicts=row.conflicts,
    )


def _failed(row: Status) -> DocumentStatus:
    return DocumentStatus(
        id=row.document,
        state=DocumentState.FAILED,
        reason=row.reason,
        detail=row.detail,
        notes=row.notes,
        title=row.title,
        source=row.source,
    )


def _with_marks(
    status: DocumentStatus, row: DocumentRow | None, copy: str | None
) -> DocumentStatus:
    if row is None or status.state is DocumentState.FAILED:
        return status
    same = () if copy is None else (f"it says word for word what {copy} says",)
    return replace(
        status,
        notes=(*status.notes, *same),
        superseded_by=row.superseded_by,
        conflicts=row.conflicts,
    )


def _told(item: "_Read | DocumentStatus", there: set[str]) -> DocumentStatus:
    if isinstance(item, DocumentStatus):
        return item
    if item.document.id in there:
        return replace(item.status, state=DocumentState.UNCHANGED)
    return item.status
