"""Events of one or several prompts → an answer sent as it comes, or whole.

Invariants: nothing is delayed, though what piled up while a send waited goes out as one; at most
`max_unsent_bytes` pile up, then the backend waits; a client that leaves, or reads nothing for
`send_s`, cancels the backend at once. An error before the first event is the answer's status; a
later one is a frame, and the stream ends without its protocol's last mark.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from headrace.errors import HeadraceError
from headrace.gateway.flight import Flight
from headrace.gateway.http import ClientLeft, Exchange, closing, stop
from headrace.gateway.services import Limits
from headrace.types import Collected, Event, collect
from headrace.wire.openai_errors import error_frame
from headrace.wire.sse import DONE

_LOG = logging.getLogger("headrace.gateway")
_QUEUED_EVENTS = 64

Tagged: TypeAlias = tuple[int, Event]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """How a protocol ends its streams."""

    done: bytes
    """After the last frame of one that went well."""
    fail: Callable[..., bytes]
    """(error, request_id=) -> the last frame of one that failed."""


OPENAI = Tail(done=DONE, fail=error_frame)


class Outbox:
    """Frames between the task that makes them and the one that sends them."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Add frames; waits while too much is unsent."""
        while self._size >= self._max_bytes:
            self._room.clear()
            await self._room.wait()
        self._parts.append(data)
        self._size += len(data)
        self._changed.set()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; an error is raised where the frames are taken."""
        self._ended = True
        self._error = self._error or error
        self._changed.set()

    async def take(self) -> bytes | None:
        """All that is unsent, perhaps empty; None after the end."""
        while not self._parts and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        if not self._parts:
            return None
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._room.set()
        return data


async def merge(streams: Sequence[AsyncIterator[Event]]) -> AsyncIterator[Tagged]:
    """The events of all prompts as they come, each with its prompt's number."""
    if len(streams) == 1:
        async with closing(streams[0]) as only:
            async for event in only:
                yield 0, event
        return
    queue: asyncio.Queue[Tagged | Exception | None] = asyncio.Queue(maxsize=_QUEUED_EVENTS)

    async def feed(prompt: int, stream: AsyncIterator[Event]) -> None:
        try:
            async with closing(stream):
                async for event in stream:
                    await queue.put((prompt, event))
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(feed(at, stream)) for at, stream in enumerate(streams)]
    try:
        live = len(tasks)
        while live:
            item = await queue.get()
            if item is None:
                live -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        await stop(*tasks)


async def whole(streams: Sequence[AsyncIterator[Event]]) -> list[Collected]:
    """Every prompt's whole answer."""
    if len(streams) == 1:
        async with closing(streams[0]) as only:
            return [await collect(only)]
    gathered: list[list[Event]] = [[] for _ in streams]
    async with closing(merge(streams)) as events:
        async for prompt, event in events:
            gathered[prompt].append(event)
    return [await collect(_replay(events)) for events in gathered]


async def send_stream(
    exchange: Exchange,
    flight: Flight,
    events: AsyncIterator[Tagged],
    *,
    push: Callable[[int, Event], bytes],
    end: Callable[[], bytes],
    left: "asyncio.Task[None]",
    limits: Limits,
    tail: Tail = OPENAI,
) -> None:
    """Send events as frames until they end.

    Args:
        exchange: Where to.
        flight: Learns of an error in the middle.
        events: Of all prompts.
        push: Frames of one event.
        end: Frames after the last.
        left: Ends when the client has left.
        limits: Of bytes and seconds.
        tail: The protocol's way to end.

    Raises:
        ClientLeft: Nobody listens any more.
        HeadraceError: Before the first event.
    """
    outbox = Outbox(max_bytes=limits.max_unsent_bytes)
    pump = asyncio.create_task(_pump(outbox, flight, events, push, end, tail, exchange.request_id))

    def leave(_: "asyncio.Task[Any]") -> None:
        pump.cancel()  # at once: the sending side may be waiting for the socket
        outbox.end(ClientLeft())

    left.add_done_callback(leave)
    try:
        while (data := await outbox.take()) is not None:
            if not exchange.status:
                await exchange.start_stream()
            if data:
                await exchange.write(data, timeout_s=limits.send_s)
        await exchange.end()
    finally:
        left.remove_done_callback(leave)
        await stop(pump)


async def _pump(
    outbox: Outbox,
    flight: Flight,
    events: AsyncIterator[Tagged],
    push: Callable[[int, Event], bytes],
    end: Callable[[], bytes],
    tail: Tail,
    request_id: str,
) -> None:
    started = False
    try:
        async with closing(events):
            async for prompt, event in events:
                await outbox.put(push(prompt, event))
                started = True
        await outbox.put(end() + tail.done)
    except Exception as error:  # noqa: BLE001 - it is answered, or raised where frames are taken
        if not started:
            outbox.end(error)
            return
        known = error
        if not isinstance(known, HeadraceError):
            _LOG.exception("request %s failed in the middle of its stream", request_id)
            known = HeadraceError(f"internal error; the log has it under {request_id}")
        flight.failed(known)
        await outbox.put(tail.fail(known, request_id=request_id))
    outbox.end()


async def _replay(events: Sequence[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event
