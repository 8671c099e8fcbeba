"""One HTTP exchange over ASGI: head and body in, an answer out, and whether the client left.

Invariants: a body is never held past its limit or awaited past its time; at most one answer is
started; every answer has `x-request-id`. Source: the ASGI specification, HTTP version 2.3.
"""

import asyncio
import types
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
    MutableMapping,
)
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from headrace.errors import PayloadTooLarge, RequestTimeout, UserError
from headrace.providers.patience import OutOfPatience, Patience

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]

T = TypeVar("T")
_SSE_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # or nginx holds tokens back until its buffer is full
)
DEPARTURES = "headrace.departures"
"""In an ASGI scope's `extensions`: the server's own `Departures`, where it has them."""
_UNREAD_OK_BYTES = 64 << 10


class ClientLeft(Exception):
    """The client closed the connection, or reads no more; nobody waits for an answer."""


class Exchange:
    """A request and the answer to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._body_begun = self._body_read = False
        self._patience: Patience | None = None
        self._first: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self.scope = scope
        self.request_id = request_id
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: list[Header] = []
        """Sent with whatever answer there is."""
        self.late: Callable[[], list[Header]] = list
        """More of them, known when the answer begins."""
        self.params: Mapping[str, str] = {}
        """What the names in the route's template stand for."""
        self.status = 0
        """Of the answer, once it was started."""

    def header(self, name: bytes) -> str | None:
        """A request header; the first where it comes twice."""
        value = self._first.get(name)
        return None if value is None else value.decode("latin-1")

    def named(self, name: str) -> str | None:
        """As `header`, by a lower-case name as text."""
        return self.header(name.encode())

    def header_values(self, name: bytes) -> list[str]:
        """Every value of a request header that may come more than once."""
        if name not in self._first:
            return []
        return [value.decode("latin-1") for found, value in self.scope["headers"] if found == name]

    async def body(self, *, max_bytes: int, timeout_s: float) -> bytes:
        """The whole body.

        Raises:
            PayloadTooLarge: It is, or says that it will be, over the limit.
            RequestTimeout: It did not come in time.
            ClientLeft: The client closed the connection in the middle of it.
        """
        return b"".join(
            [chunk async for chunk in self.chunks(max_bytes=max_bytes, timeout_s=timeout_s)]
        )

    async def chunks(self, *, max_bytes: int, timeout_s: float) -> AsyncGenerator[bytes]:
        """The body as it comes.

        Raises: As `body`.
        """
        declared = self._declared_bytes()
        if declared is not None and declared > max_bytes:
            raise _too_large(max_bytes)
        self._body_begun = True
        size = 0
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        more = True
        while more:
            try:
                message = await self._message(until)
            except TimeoutError:
                raise RequestTimeout(
                    f"the body did not come within {timeout_s:g} s; {size} bytes had arrived"
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientLeft
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            more = message.get("more_body", False)
            yield chunk
        self._body_read = True

    async def _message(self, until: float) -> Message:
        """The next; a timer is armed only where it is not there yet."""
        steps = self._receive().__await__()
        try:
            waited_for = next(steps)
        except StopIteration as there:
            return there.value
        async with asyncio.timeout_at(until):
            return await _rest(steps, waited_for)

    def watched(self) -> "watching":
        """Inside is known when the client leaves; only after the body was read."""
        found: Departures | None = self.scope.get("extensions", {}).get(DEPARTURES)
        return watching(found or _Messages(self._receive))

    async def answer(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/json",
        headers: tuple[Header, ...] = (),
    ) -> None:
        """Send a whole answer."""
        length = str(len(body)).encode()
        own: tuple[Header, ...] = (
            (b"content-type", content_type.encode()),
            (b"content-length", length),
        )
        await self._start(status, (*own, *headers))
        await self._send({"type": "http.response.body", "body": body})

    async def start_content(self, *, size_bytes: int, headers: tuple[Header, ...]) -> None:
        """Begin an answer of so many bytes; `write` and `end` follow."""
        length = str(size_bytes).encode()
        await self._start(200, (*headers, (b"content-length", length)))

    async def start_stream(self) -> None:
        """Begin an event stream; `write` and `end` follow."""
        await self._start(200, _SSE_HEADERS)

    async def write(self, data: bytes, *, timeout_s: float) -> None:
        """Send some of a stream.

        Raises: ClientLeft where the client takes nothing for `timeout_s`.
        """
        if self._patience is None:
            self._patience = Patience()
        sending = self._send({"type": "http.response.body", "body": data, "more_body": True})
        try:
            await self._patience.wait(sending, timeout_s)
        except OutOfPatience:
            raise ClientLeft from None

    async def end(self) -> None:
        """End a stream."""
        self.close()
        await self._send({"type": "http.response.body", "body": b""})

    def close(self) -> None:
        """Nothing more is sent."""
        if self._patience is not None:
            self._patience.end()
            self._patience = None

    async def _start(self, status: int, headers: tuple[Header, ...]) -> None:
        self.status = status
        request_id = self.request_id.encode()
        # The second is what Anthropic's clients look for.
        own: list[Header] = [(b"x-request-id", request_id), (b"request-id", request_id)]
        if not self._body_read and self._much_unread():
            # Or the server would go on reading what nobody wants, to keep the connection.
            own.append((b"connection", b"close"))
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, *self.headers, *self.late(), *own],
            }
        )

    def _much_unread(self) -> bool:
        if self._body_begun:
            return True  # it broke off in the middle
        declared = self.header(b"content-length") or "0"
        if self.header(b"transfer-encoding") is not None or not declared.isdigit():
            return True
        return int(declared) > _UNREAD_OK_BYTES

    def _declared_bytes(self) -> int | None:
        declared = self.header(b"content-length")
        if declared is None:
            return None
        if not (declared.isascii() and declared.isdigit() and len(declared) < 20):
            raise UserError("the Content-Length header is not a number")
        return int(declared)


@types.coroutine
def _rest(steps: Generator[Any, Any, T], waited_for: Any) -> Generator[Any, Any, T]:
    """The result of what was begun by hand and now waits for something."""
    try:
        while True:
            try:
                sent = yield waited_for
            except BaseException as error:  # noqa: BLE001 - a cancellation is handed down
                waited_for = steps.throw(error)
            else:
                waited_for = steps.send(sent)
    except StopIteration as ended:
        return ended.value


class Departures(Protocol):
    """Whatever knows when a client has left."""

    def departure(self) -> "asyncio.Future[None]":
        """Done then; `forget` it in the end."""
        ...

    def forget(self, departure: "asyncio.Future[None]") -> None:
        """Nobody waits for it any more."""
        ...


class _Messages:
    """`Departures` as any ASGI server tells of them: by a message."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    def departure(self) -> "asyncio.Future[None]":
        async def left() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass

        return asyncio.create_task(left())

    def forget(self, departure: "asyncio.Future[None]") -> None:
        departure.cancel()  # it only waits for a message; nothing of it need be awaited


class watching:
    """A future that is done when the client has left."""

    __slots__ = ("_departure", "_whose")

    def __init__(self, whose: Departures) -> None:
        self._whose = whose

    async def __aenter__(self) -> "asyncio.Future[None]":
        self._departure = self._whose.departure()
        return self._departure

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._whose.forget(self._departure)


async def unless_left(work: Coroutine[Any, Any, T], left: "asyncio.Future[None]") -> T:
    """The result of `work`, which is cancelled at once where the client leaves.

    Raises: ClientLeft.
    """
    with leaving(left):
        return await work


class leaving:
    """What is awaited inside is cancelled at once where the client leaves.

    Raises: ClientLeft, then.
    """

    __slots__ = ("_gone", "_left", "_task")

    def __init__(self, left: "asyncio.Future[None]") -> None:
        self._left = left
        self._gone = False
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._left.add_done_callback(self._leave)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._left.remove_done_callback(self._leave)
        if not self._gone:
            return
        assert self._task is not None
        cancelled = self._task.uncancel() > 0
        if isinstance(error, asyncio.CancelledError) and not cancelled:
            raise ClientLeft from None

    def _leave(self, _: object) -> None:
        self._gone = True
        assert self._task is not None
        self._task.cancel()


async def stop(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait for them to have cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class closing(Generic[T]):
    """Close a generator on the way out, so that it frees what it held now and not some day."""

    __slots__ = ("_items",)

    def __init__(self, items: AsyncIterator[T]) -> None:
        self._items = items

    async def __aenter__(self) -> AsyncIterator[T]:
        return self._items

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is larger than {max_bytes} bytes; send less, or raise server.max_body_bytes"
    )
