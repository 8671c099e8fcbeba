"""A stream that runs in a task of its own."""

import asyncio
from collections.abc import AsyncIterator

from headrace.providers.resilience import closing
from headrace.types import Event

_QUEUED_EVENTS = 64


class Pump:
    """Runs a stream in a task of its own, so that somebody else can race it or walk away.

    A generator with a timeout inside must be run by one task from its beginning to its end.
    """

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue(_QUEUED_EVENTS)
        self._task = asyncio.create_task(self._run(events))

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        if item is None:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Cancel what still runs and wait until it has let go."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, events: AsyncIterator[Event]) -> None:
        try:
            async with closing(events):
                async for event in events:
                    await self._queue.put(event)
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            await self._queue.put(error)
        else:
            await self._queue.put(None)
