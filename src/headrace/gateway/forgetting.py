"""Documents that are deleted or say something else → what quoted them goes too.

That is kept answers, stored responses, what traces keep of the prompt and the answer, and files
that batches wrote.

Within a second of the deletion, wherever it was made; what was under way then, within a minute of
its end. Rows first, and their bytes when the files are rewritten, at most once every `scrub_s`.
Money, counts and timings stay. Invariant: what was answered from the document as it is now stays.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec

from headrace.errors import StoreUnavailable
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.file_store import FileStore
from headrace.gateway.trace_body import decode
from headrace.gateway.traces import Traces
from headrace.store import quotes, texts
from headrace.store import traces as trace_store
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.quotes import Holder
from headrace.store.traces import TraceRow
from headrace.types import Note

_LOOK_S = 60.0
_SWEEP_S = 3600.0
_DAY_S = 86_400
_SPEAK = frozenset({"retrieval", "packing", "citations", "answer"})
"""Hops whose notes may have words of documents."""
_SAID = "what this said is deleted with a document that it quoted"
_LOG = logging.getLogger("headrace.gateway")


class Forgot(NamedTuple):
    """How many of each went."""

    answers: int = 0
    responses: int = 0
    traces: int = 0
    files: int = 0


class Forgetting:
    """`run` it as a task."""

    def __init__(
        self,
        database: Database,
        *,
        traces: Traces | None,
        files: FileStore | None,
        shelf: Shelf | None,
        changes: Changes | None = None,
        scrub_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            database: Of quotes, answers, responses and files.
            traces: None = none are kept.
            files: None = there are none.
            shelf: Of this worker; others forget when they see that something changed.
            changes: Says when something in the store changed; None = it is looked every minute.
            scrub_s: The least time between two rewritings of the files.
            clock: Unix time.
        """
        self._database = database
        self._traces = traces
        self._files = files
        self._shelf = shelf
        self._scrub_s = scrub_s
        self._clock = clock
        self._news = asyncio.Event()
        self._dirty = False
        self._scrubbed = float("-inf")
        self._swept = time.monotonic()
        if changes is not None:
            changes.on_change(self._news.set)

    async def run(self) -> None:
        """Follow what is gone, until cancelled."""
        while True:
            try:
                await self.look()
                await self.scrub()
                if time.monotonic() - self._swept > _SWEEP_S:
                    self._swept = time.monotonic()
                    await self.sweep()
            except StoreUnavailable as error:
                _LOG.warning("what quotes deleted documents is not deleted yet: %s", error.message)
            except Exception:  # noqa: BLE001 - the next round may go well
                _LOG.exception("a bug while deleting what quotes deleted documents")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._pause_s())
            self._news.clear()

    async def look(self) -> Forgot:
        """Delete what is due. Raises: StoreUnavailable; the next look goes on."""
        if not await self._database.read(quotes.due):
            return Forgot()
        if self._shelf is not None:
            await self._shelf.flush()
        if self._traces is not None:
            await self._traces.flush()
        whole = Forgot()
        while holders := await self._database.read(quotes.due):
            done = await self._follow(holders)
            whole = Forgot(*(a + b for a, b in zip(whole, done, strict=True)))
            self._dirty = True
        if self._shelf is not None:
            self._shelf.forget()
        _LOG.info("deleted what quoted documents that are gone", extra={"fields": whole._asdict()})
        return whole

    async def scrub(self) -> bool:
        """Rewrite the files, where rows went and it is time; False = some bytes may be left."""
        if not self._dirty:
            return True
        if time.monotonic() - self._scrubbed < self._scrub_s:
            return False
        own = self._database
        clean = await own.scrub(*(texts.PG_TABLES if own.postgres else texts.TABLES))
        if self._traces is not None and self._traces.database is not own:
            clean = await self._traces.database.scrub(*trace_store.TABLES) and clean
        elif self._traces is not None and own.postgres:
            clean = await own.scrub(*trace_store.TABLES) and clean
        self._scrubbed, self._dirty = time.monotonic(), not clean
        return clean

    async def sweep(self) -> None:
        """Delete notes that nothing needs any more. Raises: StoreUnavailable."""
        days = 1
        if self._traces is not None:
            policies = await self._traces.policies.read(trace_store.all_policies)
            own = self._traces.retention_days
            days = max([own, *(policy.retention_days or 1 for policy in policies)]) + 1
        now_s = int(self._clock())
        await self._database.write(
            lambda c: quotes.sweep(c, now_s=now_s, traces_s=max(days * _DAY_S, quotes.KEPT_S))
        )

    async def _follow(self, holders: Sequence[Holder]) -> Forgot:
        write = self._database.write
        requests = sorted({holder.request for holder in holders if holder.request})
        kept = [holder.answer for holder in holders if holder.answer]
        ended = sorted({holder.batch for holder in holders if holder.batch})
        answers = await write(lambda c: quotes.remove_answers(c, kept)) if kept else 0
        responses = await write(lambda c: texts.remove_responses_of(c, requests))
        files = await write(lambda c: quotes.remove_outputs(c, ended)) if ended else []
        if self._files is not None:
            for id in files:
                await self._files.blobs.delete(id)
        traces = 0
        if self._traces is not None and requests:
            database = self._traces.database
            rows = await database.read(lambda c: trace_store.get_some(c, requests))
            bodies = {row.id: silent(row) for row in rows}
            if bodies:
                traces = await database.write(lambda c: trace_store.forget(c, bodies))
        # Last: until then a crash leaves them due.
        await write(lambda c: quotes.drop(c, holders))
        return Forgot(answers, responses, traces, len(files))

    def _pause_s(self) -> float:
        if not self._dirty:
            return _LOOK_S
        return min(_LOOK_S, max(0.1, self._scrubbed + self._scrub_s - time.monotonic()))


def silent(row: TraceRow) -> str:
    """The body of a trace without what was said of documents."""
    trace = decode(row)
    notes = tuple(
        Note(hop=note.hop, text=_SAID, at_s=note.at_s) if note.hop in _SPEAK else note
        for note in trace.record.notes
    )
    record = replace(trace.record, notes=notes, quotes=())
    return msgspec.json.encode(replace(trace, record=record, sampled=False)).decode()
