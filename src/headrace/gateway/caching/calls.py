"""One call of a model, read by everybody who asked the same while it ran.

The call runs in a task of its own, so nobody's leaving ends it but the last one's, and no reader's
deadline is the call's. A call that fails takes nobody along who has not seen any of it: they may
ask again.

Invariant, whatever the order of joining, leaving and ending: every real call of a backend is a leg
of exactly one reader's trail, its payer's: the first reader that is still there when the call ends.
All others have hits, without a leg. The payer is settled once, at the end: a reader that is slow to
look at an answer does not come to pay for it when those before him are gone. A reader pays for one
call at most; one that stops early pays nothing, unless it is the last: that one ends the call.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from headrace.errors import DeadlineExceeded, ServiceError
from headrace.gateway.caching.events import readdressed
from headrace.gateway.http import closing
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
            ended: Called when nobody may join any more, before any reader hears of the end.
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
        self._left = False
        """The last reader has left, and ended it."""
        self._payer: Trail | None = None
        """Of a call that has ended; None also of a kept answer."""
        self._readers: list[Trail] = []
        self._first_id = request.trace
        self._ended = ended
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(source))
        self._task.add_done_callback(self._stopped)

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
            trail.quotes.extend(self.trail.quotes)
            await self._leave(trail)

    def pays(self, trail: Trail) -> bool:
        """Whether this reader gets the bill: for good once it has ended, before as things stand."""
        if self._done:
            return self._payer is trail
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
        try:
            if len(self._readers) == 1 and not self._done:
                self._left = True
                self._ended(self)  # who asks from now on must not join what is being cut
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            paid = self.pays(trail)
            self._readers.remove(trail)
            if paid and not self._done:
                trail.cache = (
                    HIT  # who stays pays for the call; what this one got is as good as kept
                )
                if self.events and not self.replayed:
                    self._readers[0].cache = MISS

    async def _run(self, source: Source) -> None:
        try:
            async with closing(source(self)) as events:
                async for event in events:
                    self.events.append(event)
                    self._tell()
        except Exception as error:  # noqa: BLE001 - raised again at every reader
            self.error = error
        except asyncio.CancelledError:
            self._end(cut=True)
            raise
        self._end()

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        self._end(cut=task.cancelled())  # one cancelled before its first step never came to it

    def _end(self, *, cut: bool = False) -> None:
        if self._done:
            return
        if cut and not self._left:  # whoever still reads must not take it for the whole answer
            self.error = ServiceError("the call that was read along was cancelled; send it again")
        self._pay()
        self._done = True
        self._ended(self)
        self._tell()

    def _pay(self) -> None:
        """The bill goes to the first reader; to the others it says what their hits are part of."""
        for at, reader in enumerate(self._readers):
            if at == 0 and not self.replayed:
                self._payer = reader
                reader.legs.extend(self.trail.legs)
                reader.notes.extend(self.trail.notes)
            else:
                reader.kept = self.kept

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
