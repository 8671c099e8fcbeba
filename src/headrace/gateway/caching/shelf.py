"""Answers that are kept: the latest in memory, all in the store, none of them for ever.

Memory is bounded in bytes and forgets when anything in the store's meta data changes; the store is
bounded in bytes and time. Writing waits for nobody: answers are queued and written in the
background. A database that does not answer makes misses, not errors, and is left alone for a while.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable

from headrace.config import CacheSettings
from headrace.errors import StoreUnavailable
from headrace.gateway.caching.calls import Call
from headrace.gateway.http import stop
from headrace.store import answers
from headrace.store.answers import Kept
from headrace.store.changes import Changes
from headrace.store.database import Database

_QUEUED = 256
_BATCH = 64
_READ_S = 0.5
_AWAY_S = 5.0
_SWEEP_S = 30.0
_SHARE = 8
"""No answer takes more than this part of the memory."""
_LOG = logging.getLogger("headrace.gateway")


class Shelf:
    """One worker's; `open_shelf` runs it."""

    def __init__(
        self,
        database: Database | None,
        settings: CacheSettings,
        *,
        changes: Changes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            database: None = memory only.
            settings: Bounds.
            changes: Says when something in the store changed.
            clock: Unix time.
        """
        self.settings = settings
        self.clock = clock
        self.calls: dict[str, Call] = {}
        """Running now, by answer."""
        self._database = database
        self._memory: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._queue: asyncio.Queue[Kept] = asyncio.Queue(_QUEUED)
        self._away_until = 0.0
        if changes is not None:
            changes.on_change(self.forget)

    async def get(self, id: str) -> Kept | None:
        """A kept answer that has not ended."""
        found = self._memory.get(id)
        if found is not None and found.expires_s > self.clock():
            self._memory.move_to_end(id)
            return found
        return await self._stored(id)

    def put(self, kept: Kept) -> None:
        """Keep an answer: at once in memory, soon in the store."""
        self._remember(kept)
        if self._database is not None:
            with contextlib.suppress(asyncio.QueueFull):  # it is only a cache
                self._queue.put_nowait(kept)

    def forget(self) -> None:
        """Empty the memory."""
        self._memory.clear()
        self._bytes = 0

    async def run(self) -> None:
        """Write and sweep until cancelled."""
        swept = 0.0
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._write(batch)
            if time.monotonic() - swept > _SWEEP_S:
                swept = time.monotonic()
                await self._sweep()

    async def flush(self) -> None:
        """Write what is queued, once."""
        batch: list[Kept] = []
        while not self._queue.empty():
            batch.append(self._queue.get_nowait())
        if batch:
            await self._write(batch)

    async def _stored(self, id: str) -> Kept | None:
        database = self._database
        if database is None or time.monotonic() < self._away_until:
            return None
        now_s = int(self.clock())
        try:
            async with asyncio.timeout(_READ_S):
                found = await database.read(lambda c: answers.get(c, id, now_s=now_s))
        except (StoreUnavailable, TimeoutError) as error:
            self._away_until = time.monotonic() + _AWAY_S
            _LOG.warning("kept answers cannot be read; asked anew for a while: %r", error)
            return None
        if found is not None:
            self._remember(found)
        return found

    def _remember(self, kept: Kept) -> None:
        before = self._memory.pop(kept.id, None)
        if before is not None:
            self._bytes -= len(before.body)
        if len(kept.body) > self.settings.memory_bytes // _SHARE:
            return
        self._memory[kept.id] = kept
        self._bytes += len(kept.body)
        while self._bytes > self.settings.memory_bytes:
            _, oldest = self._memory.popitem(last=False)
            self._bytes -= len(oldest.body)

    async def _write(self, batch: list[Kept]) -> None:
        assert self._database is not None
        try:
            await self._database.write(lambda connection: answers.put(connection, batch))
        except StoreUnavailable as error:
            _LOG.warning("%d answers are kept in memory only: %s", len(batch), error.message)
        except Exception:  # noqa: BLE001 - it is only a cache
            _LOG.exception("a bug while keeping answers")

    async def _sweep(self) -> None:
        assert self._database is not None
        now_s, most = int(self.clock()), self.settings.store_bytes
        try:
            await self._database.write(
                lambda connection: answers.sweep(connection, now_s=now_s, max_bytes=most)
            )
        except StoreUnavailable as error:
            _LOG.warning("kept answers were not swept: %s", error.message)


@contextlib.asynccontextmanager
async def open_shelf(
    database: Database | None, settings: CacheSettings, *, changes: Changes | None = None
) -> AsyncGenerator[Shelf]:
    """A shelf that writes in the background until the end of the block, and then what is left."""
    shelf = Shelf(database, settings, changes=changes)
    task = asyncio.create_task(shelf.run())
    try:
        yield shelf
    finally:
        await stop(task)
        await shelf.flush()
