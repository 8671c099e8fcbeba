"""Events of one or several prompts → an answer sent as it comes, or whole.

Invariants: nothing is delayed, though what came together goes out as one; at most
`max_unsent_bytes` are put together, and while a client reads slowly its backend waits; a client
that leaves, or reads nothing for `send_s`, cancels the backend at once. An error before the first
event is the answer's status; a later one is a frame, and the stream ends without its protocol's
last mark.
"""

import asyncio
import logging
import types
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from headrace.errors import HeadraceError
from headrace.gateway.flight import Flight
from headrace.gateway.http import ClientLeft, Exchange, closing, leaving, stop
from headrace.gateway.services import Limits
from headrace.providers.gathering import gatherer
from headrace.types import Backend, ChatRequest, Collected, Event, collect, fold
from headrace.wire.openai_errors import error_frame
from headrace.wire.sse import DONE

_LOG = logging.getLogger("headrace.gateway")
_QUEUED_EVENTS = 64

T = TypeVar("T")
Tagged: TypeAlias = tuple[int, Event]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """How a protocol ends its streams."""

    done: bytes
    """After the last frame of one that went well."""
    fail: Callable[..., bytes]
    """(error, request_id=) -> the last frame of one that failed."""


OPENAI = Tail(done=DONE, fail=error_frame)


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


async def gathered(flight: Flight, backend: Backend, request: ChatRequest) -> Collected:
    """A whole answer of which nobody looks at parts; noted on the flight as it came."""
    events: list[Event] = []
    try:
        await gatherer(backend)(request, events)
    finally:
        for event in events:
            flight.note(0, event)
    return fold(events)


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
    left: "asyncio.Future[None]",
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
    sender = _Sender(exchange, limits)
    try:
        with leaving(left):
            await _relay(sender, flight, events, push, end, tail)
    finally:
        exchange.close()


class _Sender:
    """Frames that are not sent yet; they go out as one when the backend makes us wait."""

    def __init__(self, exchange: Exchange, limits: Limits) -> None:
        self.exchange = exchange
        self._limits = limits
        self._frames: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        self._frames.append(data)
        self._size += len(data)

    @property
    def full(self) -> bool:
        return self._size >= self._limits.max_unsent_bytes

    async def flush(self) -> None:
        """Send them; waits where the client reads slowly. Raises: ClientLeft."""
        if not self._frames:
            return
        data = b"".join(self._frames)
        self._frames.clear()
        self._size = 0
        if not self.exchange.status:
            await self.exchange.start_stream()
        if data:
            await self.exchange.write(data, timeout_s=self._limits.send_s)


async def _relay(
    sender: _Sender,
    flight: Flight,
    events: AsyncIterator[Tagged],
    push: Callable[[int, Event], bytes],
    end: Callable[[], bytes],
    tail: Tail,
) -> None:
    started = False
    request_id = sender.exchange.request_id
    try:
        async with closing(events):
            while True:
                try:
                    prompt, event = await before_waiting(anext(events), sender.flush)
                except StopAsyncIteration:
                    break
                sender.add(push(prompt, event))
                started = True
                if sender.full:
                    await sender.flush()
        sender.add(end() + tail.done)
    except ClientLeft:
        raise
    except Exception as error:
        if not started:
            raise
        known = error
        if not isinstance(known, HeadraceError):
            _LOG.exception("request %s failed in the middle of its stream", request_id)
            known = HeadraceError(f"internal error; the log has it under {request_id}")
        flight.failed(known)
        sender.add(tail.fail(known, request_id=request_id))
    await sender.flush()
    await sender.exchange.end()


@types.coroutine
def before_waiting(
    what: Awaitable[T], work: Callable[[], Coroutine[Any, Any, None]]
) -> Generator[Any, Any, T]:
    """The result of `what`; where it is not there at once, `work` is done before it is waited for.

    So frames of events that came together go out together, and none waits for the next event.
    """
    steps = what.__await__()
    try:
        waited_for = next(steps)
    except StopIteration as ended:
        return ended.value
    failed: BaseException | None = None
    try:
        yield from work().__await__()
    except BaseException as error:  # noqa: BLE001 - raised again once `what` has cleaned up
        failed = error
    try:
        if failed is not None:
            waited_for = steps.throw(asyncio.CancelledError())
        while True:
            try:
                sent = yield waited_for
            except BaseException as error:  # noqa: BLE001 - a cancellation is handed down
                waited_for = steps.throw(error)
            else:
                waited_for = steps.send(sent)
    except StopIteration as ended:
        if failed is None:
            return ended.value
    except BaseException:
        if failed is None:
            raise
    raise failed


async def _replay(events: Sequence[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event
