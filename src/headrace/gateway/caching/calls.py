"""One call of a model, read by everybody who asked the same while it ran.

The call runs in a task of its own, so nobody's leaving ends it but the last one's. It is billed
once, to the payer: the first reader that is still there when it ends; the others have hits. A call
that fails takes nobody along who has not seen any of it: they may ask again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from headrace.errors import DeadlineExceeded
from headrace.gateway.caching.events import readdressed
from headrace.types import ChatRequest, Event, Leg, Trail

HIT = "hit"
MISS = "miss"
Source = Callable[["Call"], AsyncIterator[Event]]


class Call:
    """Made by the first who asks; others `read` it."""

    def __init__(
        self, request: ChatRequest, source: Source, *, ended: Callable[["Call"], None]
    ) -> None:
        """
        Args:
            request: Of the first reader.
            source: Makes the events; told of the call, whose `trail` is for its legs and notes.
            ended: Called once, before any reader hears of the end.
        """
        asked = request.trail
        self.trail = Trail(traceparent=asked.traceparent, tracestate=asked.tracestate)
        self.replayed = False
        """Whether the events are a kept answer: set by the source before its first."""
        self.kept: tuple[Leg, ...] = ()
        """The calls that made the answer: set by the source before its end."""
        self.events: list[Event] = []
        self.error: Exception | None = None
        self._done = False
        self._readers: list[Trail] = []
        self._first_id = request.trace
        self._ended = ended
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(source))

    async def read(self, request: ChatRequest) -> AsyncIterator[Event]:
        """Its events, from the first on, as this request's.

        Raises: The call's error; DeadlineExceeded where this request's own time is over.
        """
        trail = request.trail
        self._readers.append(trail)
        until = None if request.deadline_s is None else time.monotonic() + request.deadline_s
        at = 0
        try:
            while True:
                while at < len(self.events):
                    if at == 0:
                        self._label(request)
                    event = self.events[at]
                    at += 1
                    yield readdressed(event, request.trace)
                if self._done:
                    if self.error is not None:
                        raise self.error
                    return
                await self._wait(until, request)
        finally:
            await self._leave(trail)

    def pays(self, trail: Trail) -> bool:
        """Whether this reader gets the bill, as things stand."""
        return bool(self._readers) and self._readers[0] is trail

    def _label(self, request: ChatRequest) -> None:
        trail = request.trail
        if self.replayed:
            trail.cache = HIT
        elif self.pays(trail):
            trail.cache = MISS
        else:
            trail.cache = HIT
            trail.note(
                "cache",
                f"the same was asked a moment before: the answer of request {self._first_id} is "
                "read along",
                shared=True,
            )

    async def _wait(self, until: float | None, request: ChatRequest) -> None:
        changed = self._changed
        left = None if until is None else until - time.monotonic()
        try:
            await asyncio.wait_for(changed.wait(), left)
        except TimeoutError:
            raise DeadlineExceeded(f"the deadline of {request.deadline_s:g} s passed") from None

    async def _leave(self, trail: Trail) -> None:
        last = len(self._readers) == 1
        if last and not self._done:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        paid = self.pays(trail)
        self._readers.remove(trail)
        if paid and not self._done:
            trail.cache = HIT  # who stays pays for the call; what this one got is as good as kept
            if self.events and not self.replayed:
                self._readers[0].cache = MISS

    async def _run(self, source: Source) -> None:
        try:
            async for event in source(self):
                self.events.append(event)
                self._tell()
        except Exception as error:  # noqa: BLE001 - raised again at every reader
            self.error = error
        finally:
            self._done = True
            self._pay()
            self._ended(self)
            self._tell()

    def _pay(self) -> None:
        """The bill goes to the first reader; to the others it says what their hits are part of."""
        for at, reader in enumerate(self._readers):
            if at == 0 and not self.replayed:
                reader.legs.extend(self.trail.legs)
                reader.notes.extend(self.trail.notes)
            else:
                reader.kept = self.kept

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
