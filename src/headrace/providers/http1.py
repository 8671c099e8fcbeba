"""HTTP/1.1 to a provider over asyncio's transports: kept connections, on each one call at a time.

Why our own: of a gateway's plain call the well-kept client (aiohttp) took a seventh of all the CPU
time in URL objects, header maps, timers and tasks that a provider's one POST does not need. The
parser is httptools, as in the server; connecting is aiohappyeyeballs, as in that client.

Invariants: a connection carries one call at a time; it is used again only after an answer that
ended by its own rules and left nothing behind; an answer that is closed before its end closes its
connection; who reads slowly stops the sender. No redirects, no proxies, no compression is asked
for, and a compressed answer is an error.
"""

import asyncio
import base64
import functools
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs
import httptools

from headrace import __version__

_PLENTY_BYTES = 1 << 17
"""So much that nobody has read yet stops the sender."""
_MAX_HEAD_BYTES = 1 << 16
_SECOND_FAMILY_S = 0.25
"""A first address that does not answer by then is raced by the next (RFC 8305)."""


class BrokenAnswer(Exception):
    """The connection ended in the middle, or what came is no HTTP."""


class CannotConnect(Exception):
    """Nobody answers at the address."""


class ConnectTimeout(TimeoutError):
    """No connection in time."""


class Address(NamedTuple):
    """Where a connection goes, and what its requests say of it."""

    secure: bool
    host: str
    port: int


class _Target(NamedTuple):
    address: Address
    path: str
    head: str
    """The lines of a request's head that follow from its URL."""


@functools.lru_cache(maxsize=1024)
def _target(url: str) -> _Target:
    """Raises: ValueError for what is no address of a server."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url[:200]!r} is no http address")
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise ValueError(f"{url[:200]!r} is not percent-encoded")
    secure = parts.scheme == "https"
    address = Address(secure, parts.hostname, parts.port or (443 if secure else 80))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = f"Host: {parts.netloc.rpartition('@')[2]}\r\n"
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        head += f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
    head += f"User-Agent: headrace/{__version__}\r\nAccept-Encoding: identity\r\n"
    return _Target(address, path, head)


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Answer:
    """One answer; `close` it in the end."""

    __slots__ = (
        "_connection",
        "_error",
        "_headers",
        "_parts",
        "_size",
        "_waiter",
        "ended",
        "reason",
        "status",
    )

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self.status = 0
        """0 = its head has not come."""
        self.reason = ""
        self.ended = False
        """Whether all of it has arrived."""

    def header(self, name: bytes) -> str | None:
        """The first of that lower-case name."""
        for found, value in self._headers:
            if found.lower() == name:
                return value.decode("latin-1").strip()
        return None

    @property
    def content_type(self) -> str:
        """Without its parameters, in lower case."""
        return (self.header(b"content-type") or "").partition(";")[0].strip().lower()

    @property
    def at_eof(self) -> bool:
        """Whether all of it has been read."""
        return self.ended and not self._parts

    async def begun(self) -> None:
        """Wait for its head. Raises: BrokenAnswer."""
        while not self.status:
            await self._wait()

    async def read_some(self) -> bytes:
        """What has come since the last reading, at least a byte; empty = it has ended.

        Raises: BrokenAnswer.
        """
        while not self._parts:
            if self.ended:
                return b""
            await self._wait()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._size > _PLENTY_BYTES:
            self._connection.resume()
        self._size = 0
        return data

    async def read(self, most_bytes: int) -> bytes:
        """All that is still to come, or the first so many bytes. Raises: BrokenAnswer."""
        parts: list[bytes] = []
        size = 0
        while size < most_bytes and (data := await self.read_some()):
            parts.append(data)
            size += len(data)
        return b"".join(parts)[:most_bytes]

    def close(self) -> None:
        """Nobody reads on; where it has not ended, its connection is closed."""
        if not self.ended:
            self._connection.abort()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- what its connection says ------------------------------------------------------------

    def begin(self, status: int, reason: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.status, self.reason, self._headers = status, reason, headers
        self._wake()

    def feed(self, data: bytes) -> bool:
        """Returns: Whether that is plenty."""
        self._parts.append(data)
        self._size += len(data)
        self._wake()
        return self._size > _PLENTY_BYTES

    def finish(self) -> None:
        self.ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class _Connection(asyncio.Protocol):
    """One to an address; given back to its pool after each whole answer."""

    def __init__(self, pool: "Pool", address: Address) -> None:
        self._pool = pool
        self.address = address
        self._headers: list[tuple[bytes, bytes]] = []
        self.idle_since = 0.0
        self.open = False
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._reason = b""
        self._head_bytes = 0
        self._until_close = False
        self._interim = False
        self.closed: asyncio.Future[None] = pool.loop.create_future()

    def send(self, data: bytes) -> Answer:
        """A request, and its answer to come."""
        self._headers, self._head_bytes, self._reason = [], 0, b""
        self._until_close = False
        self._answer = Answer(self)
        self._transport.write(data)
        return self._answer

    def abort(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.fail(BrokenAnswer("the connection was closed"))
        if self.open:
            self.open = False
            self._transport.abort()

    def resume(self) -> None:
        if self.open:
            self._transport.resume_reading()

    # --- asyncio's protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken(f"what the server sent is no HTTP ({error})")

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        answer, self._answer = self._answer, None
        if answer is not None:
            if answer.status and self._until_close and exc is None:
                answer.finish()
            elif answer.status:
                answer.fail(BrokenAnswer("the answer is not whole: the connection ended"))
            else:
                answer.fail(BrokenAnswer("the server closed the connection without an answer"))
        self._pool.lost(self)
        if not self.closed.done():
            self.closed.set_result(None)

    # --- httptools' --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None:
            self.abort()  # more than one answer came

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._broken(f"the answer's head is larger than {_MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is None:
            return
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        if self._interim:
            return
        framed = False
        for name, value in self._headers:
            match name.lower():
                case b"content-length":
                    framed = True
                case b"transfer-encoding":
                    framed = framed or value.strip().lower().endswith(b"chunked")
                case b"content-encoding" if value.strip().lower() != b"identity":
                    self._broken(
                        f"the answer is compressed ({value.decode('latin-1')[:40]}), which was "
                        "not asked for"
                    )
                    return
                case _:
                    pass
        self._until_close = not framed
        answer.begin(status, self._reason.decode("latin-1"), self._headers)

    def on_body(self, body: bytes) -> None:
        if self._answer is not None and self._answer.feed(body) and self.open:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._interim:
            self._headers, self._reason, self._interim = [], b"", False
            return
        answer, self._answer = self._answer, None
        if answer is None:
            return
        answer.finish()
        if self._parser.should_keep_alive() and self.open:
            self._transport.resume_reading()
            self._pool.give_back(self)
        else:
            self.abort()

    def _broken(self, why: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.fail(BrokenAnswer(why))
        self.abort()


class Pool:
    """Connections of one event loop; `close` it in the end."""

    def __init__(
        self, *, connect_s: float, keep_s: float, most: int = 0, headers: Mapping[str, str]
    ) -> None:
        """
        Args:
            connect_s: To open a connection.
            keep_s: So long one that nobody uses stays open.
            most: At once; more calls wait their turn. 0 = no limit.
            headers: Of every request.
        """
        self.loop = asyncio.get_running_loop()
        self._connect_s, self._keep_s = connect_s, keep_s
        self._headers = dict(headers)
        self._idle: dict[Address, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._busy: set[_Connection] = set()
        self._places = asyncio.Semaphore(most) if most else None
        self._timer: asyncio.TimerHandle | None = None

    async def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """The answer, once its head is there; whatever its status. Raises: As `post`."""
        return await self._ask("GET", url, headers, b"")

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer, once its head is there; whatever its status.

        Raises:
            CannotConnect, ConnectTimeout: The server cannot be reached.
            BrokenAnswer: It ended the connection, or speaks no HTTP.
            ValueError: A URL or a header that cannot be sent.
        """
        return await self._ask("POST", url, headers, body)

    async def close(self) -> None:
        """Close every connection, and wait for them to be closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._idle.clear()
        gone = [connection.closed for connection in self._all]
        for connection in [*self._all]:
            connection.abort()
        if gone:
            await asyncio.wait(gone)

    def give_back(self, connection: _Connection) -> None:
        """It is free for the next call."""
        connection.idle_since = time.monotonic()
        self._idle.setdefault(connection.address, []).append(connection)
        if self._timer is None:
            self._timer = self.loop.call_later(self._keep_s, self._sweep)
        self._free(connection)

    def lost(self, connection: _Connection) -> None:
        """It is closed."""
        self._all.discard(connection)
        idle = self._idle.get(connection.address)
        if idle is not None and connection in idle:
            idle.remove(connection)
        self._free(connection)

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        target = _target(url)
        data = _head(method, target, {**self._headers, **headers}, len(body)) + body
        if self._places is not None:
            await self._places.acquire()
        connection = self._reuse(target.address)
        if connection is None:
            try:
                connection = await self._connect(target.address)
            except BaseException:
                if self._places is not None:
                    self._places.release()
                raise
        self._busy.add(connection)
        answer = connection.send(data)
        try:
            await answer.begun()
        except BaseException:
            connection.abort()
            raise
        return answer

    def _reuse(self, address: Address) -> _Connection | None:
        idle = self._idle.get(address)
        oldest = time.monotonic() - self._keep_s
        while idle:
            connection = idle.pop()
            if connection.open and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self, address: Address) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_s):
                infos = await self.loop.getaddrinfo(address.host, address.port, type=1)
                handle = await aiohappyeyeballs.start_connection(
                    infos, happy_eyeballs_delay=_SECOND_FAMILY_S, loop=self.loop
                )
                try:
                    _, connection = await self.loop.create_connection(
                        lambda: _Connection(self, address),
                        sock=handle,
                        ssl=_tls() if address.secure else None,
                        server_hostname=address.host if address.secure else None,
                    )
                except BaseException:
                    handle.close()
                    raise
        except TimeoutError:
            raise ConnectTimeout(f"no connection within {self._connect_s:g} s") from None
        except OSError as error:
            raise CannotConnect(error.strerror or str(error)) from error
        self._all.add(connection)
        return connection

    def _free(self, connection: _Connection) -> None:
        if connection in self._busy:
            self._busy.discard(connection)
            if self._places is not None:
                self._places.release()

    def _sweep(self) -> None:
        self._timer = None
        oldest = time.monotonic() - self._keep_s
        left = False
        for idle in self._idle.values():
            while idle and idle[0].idle_since <= oldest:
                idle.pop(0).abort()
            left = left or bool(idle)
        if left:
            self._timer = self.loop.call_later(self._keep_s, self._sweep)


def _head(method: str, target: _Target, headers: Mapping[str, str], size: int) -> bytes:
    """Raises: ValueError for a header that would be more than one line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not lines.count("\r") == lines.count("\n") == len(headers) or "\0" in lines:
        raise ValueError("a header has a line break or a NUL")
    length = f"Content-Length: {size}\r\n" if method == "POST" else ""
    return f"{method} {target.path} HTTP/1.1\r\n{target.head}{lines}{length}\r\n".encode()
