"""One index and its sources: bring over what changed, delete what is gone, say what became of each.

Invariants: after a sync the index equals one that was built anew of what the source has; a text
that the index has is never embedded again, wherever it moved; a document is there whole, old or
new, whenever the process ends; a source that cannot be listed whole loses nothing.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.errors import Conflict, HeadraceError, StoreUnavailable
from headrace.retrieval.chunking import Chunker
from headrace.retrieval.contracts import IndexStore, Scope
from headrace.retrieval.parsing import ParserPool, Raw
from headrace.retrieval.sources import Gone, Item, Source
from headrace.retrieval.sync import versions
from headrace.retrieval.sync.embedding import Embedding, Sleep
from headrace.retrieval.sync.freshness import Freshness, alert, freshness, standing_of
from headrace.retrieval.sync.handed import HANDED_IN
from headrace.retrieval.sync.judging import Duplicates, Judge, Judged, Same, skipped
from headrace.retrieval.sync.reading import DocumentReader, Facts, Prepared
from headrace.retrieval.sync.state import Outcome, Status, SyncState
from headrace.retrieval.sync.writing import Batch, IndexWriter, Listener
from headrace.types import Embedder, Integrity, Where
from headrace.types.retrieval import Scalar

_LOG = logging.getLogger("headrace.retrieval.sync")
_PAGE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncSettings:
    """How documents are brought over."""

    ahead: int = 8
    """Items that are fetched and parsed while others are embedded and written."""
    batch_chunks: int = 256
    """A batch is written when it has so many chunks; a larger document is a batch of its own."""
    batch_documents: int = 64
    embed_batch: int = 64
    """Texts in one request to the embedder."""
    attempts: int = 5
    """Of an embedding request that may succeed when it is tried again."""
    retention_s: float = 0.0
    """How long deleted text may stay in the store's files before it is purged from them."""
    kept_bytes: int = 64 << 20
    """Of vectors of replaced documents, kept for texts that move within one run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is."""

    source: str
    done: int
    total: int
    searchable: int
    failed: int
    embedded: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncReport:
    """What a run did."""

    source: str
    items: int
    added: int
    changed: int
    removed: int
    unchanged: int
    failed: int
    skipped: int
    stale: int
    """Kept as they were, for their source could not give them."""
    chunks: int
    embedded: int
    """Texts that the embedder was asked for."""
    marked: int
    """Documents that became, or are no longer, superseded or in conflict."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """A document that is handed in."""

    id: str
    raw: Raw
    title: str = ""
    modified_s: float = 0.0
    readers: frozenset[str] | None = None
    integrity: Integrity = Integrity.UNTRUSTED
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])


@dataclass(slots=True)
class _Tally:
    """Of one run."""

    done: int = 0
    unchanged: int = 0
    failed: int = 0
    skipped: int = 0
    stale: int = 0
    searchable: set[str] = field(default_factory=set[str])
    gone: list[str] = field(default_factory=list[str])
    seen: list[str] = field(default_factory=list[str])
    """Unchanged keys whose rows only need the time."""


class Syncer:
    """Brings documents into one index; one run at a time, other processes' included.

    Args:
        store: The index; it has an active generation.
        embedder: The active generation's.
        chunker: How documents are cut.
        parser: Where documents are parsed.
        state: The status table beside the index.
        settings: How much at a time.
        listeners: Told of documents that are deleted or say something else.
        clock: Unix time.
        sleep: Between attempts.
    """

    def __init__(
        self,
        store: IndexStore,
        embedder: Embedder,
        chunker: Chunker,
        parser: ParserPool,
        state: SyncState,
        *,
        settings: SyncSettings | None = None,
        listeners: Sequence[Listener] = (),
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._settings = settings or SyncSettings()
        self._store, self._state = store, state
        self._reader = DocumentReader(parser, chunker)
        self._embedding = Embedding(
            store,
            embedder,
            batch=self._settings.embed_batch,
            attempts=self._settings.attempts,
            sleep=sleep,
        )
        self._listeners = tuple(listeners)
        self._clock = clock

    async def sync(
        self,
        source: Source,
        *,
        only: Collection[str] | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> SyncReport:
        """Make the index say what the source says now.

        Args:
            source: What is listed, whole.
            only: Keys of the items that may have changed: no other is looked at, and how fresh the
                index is does not change. None = all.
            progress: Told after each item.

        Raises:
            HeadraceError: The source cannot be listed, the embedder or the store does not answer.
                What was written until then stays; the next run goes on from there.
            Conflict: Another run is at it, or the embedder is not the index'.
        """
        began = self._clock()
        with self._state.exclusive():
            try:
                report = await self._sync(source, began, only, progress)
            except BaseException as error:
                if only is not None:
                    raise
                said = error.message if isinstance(error, HeadraceError) else type(error).__name__
                self._state.failed(source.name, said)
                raise
            if only is None:
                self._state.listed(source.name, began)
            return report

    async def ingest(self, documents: Iterable[Handed]) -> Sequence[Status]:
        """Add or replace documents that are handed in; what became of each, in their order.

        Raises:
            Conflict: An id that a source's document has.
        """
        with self._state.exclusive():
            handed = list({one.id: one for one in documents}.values())
            for one in handed:
                held = self._state.of_document(one.id)
                if held is not None and held.source != HANDED_IN:
                    raise Conflict(
                        f"document {one.id!r} is of source {held.source}; hand it in by another id"
                    )
            writer = await self._writer(
                await self._present(
                    Scope(principals=None, filter=Where(field="source", value=HANDED_IN))
                )
            )
            await writer.tell()
            statuses = [
                status
                for at in range(0, len(handed), self._settings.batch_documents)
                for status in await self._ingest(
                    writer, handed[at : at + self._settings.batch_documents]
                )
            ]
            await self._finish()
            return statuses

    async def remove(self, documents: Sequence[str]) -> None:
        """Delete documents that were handed in; those that are not there are passed over.

        Raises: Conflict: One that a source has: it would come again.
        """
        with self._state.exclusive():
            for one in documents:
                held = self._state.of_document(one)
                if held is not None and held.source != HANDED_IN:
                    raise Conflict(
                        f"document {one!r} is of source {held.source} and would come again; delete "
                        "it there, or exclude it"
                    )
            writer = await self._writer({})
            await writer.remove(documents)
            self._state.forget(HANDED_IN, documents)
            await self._finish()

    async def drop(self, source: str) -> int:
        """Delete a source's documents and all that is known of it; how many there were."""
        with self._state.exclusive():
            where = Where(field="source", value=source)
            present = await self._present(Scope(principals=None, filter=where))
            writer = await self._writer(present)
            ids = list(present)
            for at in range(0, len(ids), _PAGE):
                await writer.remove(ids[at : at + _PAGE])
            self._state.drop_source(source)
            await self._finish()
            return len(ids)

    def freshness(self, source: str, *, objective_s: float = 0.0) -> Freshness:
        """How far the index may be behind a source; warns in the log where that is too far."""
        standing = standing_of(self._state, source)
        found = freshness(standing, objective_s=objective_s, now_s=self._clock())
        alert(found)
        return found

    # --- one run ----------------------------------------------------------------------------------

    async def _sync(
        self,
        source: Source,
        began: float,
        only: Collection[str] | None,
        progress: Callable[[Progress], None] | None,
    ) -> SyncReport:
        name = source.name
        if not name:
            raise Conflict("a source needs a name")
        listed = {item.key: item async for item in source.items()}
        known = self._state.of_source(name)
        duplicates = Duplicates()
        if only is not None:
            chosen = _with_copies(name, known, only)
            _remember(duplicates, {k: r for k, r in known.items() if k not in chosen}, listed)
            listed = {key: item for key, item in listed.items() if key in chosen}
            known = {key: row for key, row in known.items() if key in chosen}
        items = [listed[key] for key in sorted(listed)]
        where = Where(field="source", value=name)
        present = await self._present(Scope(principals=None, filter=where))
        if only is not None:
            mine = {f"{name}/{key}" for key in {*listed, *known, *only}}
            present = {id: digest for id, digest in present.items() if id in mine}
        writer = await self._writer(present)
        await writer.tell()
        judge = Judge(source, self._reader, known, writer.present, self._clock)
        tally = _Tally()
        await self._bring(judge, items, duplicates, writer, tally, progress)
        await self._clear(name, known, listed, writer, tally)
        marked = await self._finish()
        return SyncReport(
            source=name,
            items=len(items),
            added=writer.written.added,
            changed=writer.written.changed,
            removed=writer.written.removed,
            unchanged=tally.unchanged,
            failed=tally.failed,
            skipped=tally.skipped,
            stale=tally.stale,
            chunks=writer.written.chunks,
            embedded=writer.written.embedded,
            marked=marked,
            seconds=self._clock() - began,
        )

    async def _bring(
        self,
        judge: Judge,
        items: Sequence[Item],
        duplicates: Duplicates,
        writer: IndexWriter,
        tally: _Tally,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        batch = Batch()
        async for item, judged in self._judged(judge, items):
            row = await self._settled(judge, item, judged, duplicates, tally)
            if row is not None:
                batch.add(row)
            tally.done += 1
            if self._full(batch):
                await writer.write(batch)
                batch = Batch()
            if progress is not None:
                progress(
                    Progress(
                        source=judge.facts(item).source,
                        done=tally.done,
                        total=len(items),
                        searchable=len(tally.searchable),
                        failed=tally.failed,
                        embedded=writer.written.embedded,
                    )
                )
        await writer.write(batch)

    async def _judged(
        self, judge: Judge, items: Sequence[Item]
    ) -> AsyncIterator[tuple[Item, Judged]]:
        """In their order, some of them ahead."""
        waiting: deque[tuple[Item, asyncio.Task[Judged]]] = deque()
        coming = iter(items)
        try:
            while True:
                while len(waiting) < self._settings.ahead:
                    item = next(coming, None)
                    if item is None:
                        break
                    waiting.append((item, asyncio.create_task(judge.judge(item))))
                if not waiting:
                    return
                item, task = waiting[0]
                judged = await task
                waiting.popleft()
                yield item, judged
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _settled(
        self, judge: Judge, item: Item, judged: Judged, duplicates: Duplicates, tally: _Tally
    ) -> Prepared | None:
        """What has to be written of an item, where anything has."""
        if isinstance(judged, Same):
            status = judged.status
            if status.outcome is Outcome.FAILED:
                tally.failed += 1
                tally.seen.append(item.key)
                return None
            original = duplicates.original(status.text, judged.readers, status.document)
            if original != status.document:
                tally.skipped += 1
                tally.seen.append(item.key)
                return Prepared(status=skipped(status, original))
            if status.outcome is Outcome.SEARCHABLE:
                return self._same(judge, item, status, tally)
            judged = await judge.judge(item, again=True)  # its original is gone
            assert not isinstance(judged, Same), "what is read again is never the same"
        if isinstance(judged, Gone):
            tally.gone.append(item.key)
            return None
        if judged.document is None:
            tally.failed += 1
            return judged
        status = judged.status
        original = duplicates.original(status.text, judged.readers, status.document)
        if original != status.document:
            tally.skipped += 1
            return Prepared(status=skipped(status, original))
        tally.searchable.add(status.document)
        return judged

    def _same(self, judge: Judge, item: Item, status: Status, tally: _Tally) -> Prepared | None:
        tally.searchable.add(status.document)
        tally.unchanged += 1
        if status.reason == "stale":
            tally.stale += 1
        else:
            tally.seen.append(item.key)
        return None if status == judge.known.get(item.key) else Prepared(status=status)

    async def _clear(
        self,
        name: str,
        known: Mapping[str, Status],
        listed: Mapping[str, Item],
        writer: IndexWriter,
        tally: _Tally,
    ) -> None:
        """Delete what the source has no more, and what became unreadable or needless."""
        gone = sorted(one for one in writer.present if one not in tally.searchable)
        for at in range(0, len(gone), _PAGE):
            await writer.remove(gone[at : at + _PAGE])
        self._state.forget(name, [key for key in known if key not in listed] + tally.gone)
        self._state.checked(name, tally.seen, self._clock())

    async def _ingest(self, writer: IndexWriter, handed: Sequence[Handed]) -> list[Status]:
        async def prepare(one: Handed) -> Prepared:
            facts = Facts(
                source=HANDED_IN,
                key=one.id,
                document=one.id,
                title=one.title,
                modified_s=one.modified_s,
                readers=one.readers,
                integrity=one.integrity,
                metadata=one.metadata,
            )
            return await self._reader.prepare(facts, one.raw, revision="", now_s=self._clock())

        batch = Batch()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(prepare(one)) for one in handed]
        for task in tasks:
            batch.add(task.result())
        await writer.write(batch)
        failed = [row.status.document for row in batch.rows if row.document is None]
        gone = [one for one in failed if one in writer.present]
        if gone:
            await writer.remove(gone)
        return [row.status for row in batch.rows]

    async def _finish(self) -> int:
        """Marks, and what is due to be purged."""
        marked = await versions.mark(self._store, self._state)
        since = self._state.unpurged_since()
        if since and self._clock() - since >= self._settings.retention_s:
            try:
                await self._store.purge()
            except StoreUnavailable as error:  # it is read all the time; the next run tries again
                _LOG.warning("deleted text is not purged yet: %s", error.message)
                return marked
            self._state.purge()
            self._state.set_unpurged(0.0)
        return marked

    async def _writer(self, present: dict[str, str]) -> IndexWriter:
        return IndexWriter(
            self._store,
            self._state,
            self._embedding,
            generation=await self._embedding.generation(),
            present=present,
            listeners=self._listeners,
            kept_bytes=self._settings.kept_bytes,
            clock=self._clock,
        )

    async def _present(self, scope: Scope) -> dict[str, str]:
        return {row.id: row.sha256 async for row in self._store.documents(scope)}

    def _full(self, batch: Batch) -> bool:
        return (
            batch.chunks >= self._settings.batch_chunks
            or len(batch.rows) >= self._settings.batch_documents
        )


def _with_copies(name: str, known: Mapping[str, Status], keys: Collection[str]) -> set[str]:
    """The keys, and those of items that were skipped because one of them says the same."""
    originals = {f"duplicate of {name}/{key}" for key in keys}
    return {*keys, *(key for key, row in known.items() if row.detail in originals)}


def _remember(
    duplicates: Duplicates, known: Mapping[str, Status], listed: Mapping[str, Item]
) -> None:
    """What items say that are not looked at now."""
    for key in sorted(known):
        row, item = known[key], listed.get(key)
        if item is not None and row.outcome is Outcome.SEARCHABLE:
            duplicates.original(row.text, item.readers, row.document)
