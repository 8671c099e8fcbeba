"""HTTP to one provider: connections kept and used again, four timeouts, errors of our tree.

| timeout | bounds |
|---|---|
| connect | opening a connection |
| first byte | from the request to the first byte of the answer's body |
| idle | each later wait for a byte |
| total | the request's own deadline, and the provider's |

Invariants: closing the generator closes the connection, which is how every provider's protocol
cancels; nothing is retried here; an answer that did not end by its own rules is an error that says
so. `begun` is set on errors after a 200: the provider may bill what follows.
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar, cast

from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    ServiceError,
    UpstreamError,
    UpstreamTimeout,
)
from headrace.providers.http1 import (
    Answer,
    BrokenAnswer,
    CannotConnect,
    ConnectTimeout,
    Pool,
)
from headrace.providers.patience import OutOfPatience, Patience
from headrace.providers.sse import SseReader
from headrace.types import Event, Trail, Usage

_T = TypeVar("_T")
_MAX_ERROR_BYTES = 64 << 10
_MAX_WHOLE_BYTES = 16 << 20
_MAX_RETRY_AFTER_S = 86_400
# Below uvicorn's 5 s: a connection that the server is about to close is not used again.
_KEEP_ALIVE_S = 4.0
_BODY_END_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Seconds; None = no limit."""

    connect_s: float = 10.0
    first_byte_s: float | None = None
    idle_s: float | None = 600.0
    total_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpCall:
    """One request."""

    url: str
    """Percent-encoded already."""
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    answers: str = "text/event-stream"
    """Content type that a good answer has."""
    at_once: bool = False
    """All of it comes at its end: of the timeouts only total bounds the wait."""


class EventReader(Protocol):
    """Bytes of an answer → events, however the bytes were cut. Sans I/O."""

    @property
    def done(self) -> bool:
        """Whether the answer's own last mark came."""
        ...

    @property
    def heard(self) -> Usage | None:
        """What the provider has said so far that the answer uses."""
        ...

    @property
    def heard_all(self) -> bool:
        """Whether that counts all that was pushed."""
        ...

    def push(self, data: bytes) -> Iterable[Event]: ...

    def end(self) -> Iterable[Event]:
        """The connection has ended: the last events.

        Raises: UpstreamError where the answer is not whole.
        """
        ...


class DataReader(Protocol):
    """Reads the data of each event of an event stream."""

    @property
    def done(self) -> bool: ...

    @property
    def heard(self) -> Usage | None: ...

    @property
    def heard_all(self) -> bool: ...

    def push(self, data: str) -> Iterable[Event]: ...

    def end(self) -> Iterable[Event]: ...


class SseEvents:
    """An `EventReader` over `text/event-stream`."""

    def __init__(self, inner: DataReader) -> None:
        self._inner = inner
        self._reader = SseReader()

    @property
    def done(self) -> bool:
        return self._inner.done

    @property
    def heard(self) -> Usage | None:
        return self._inner.heard

    @property
    def heard_all(self) -> bool:
        return self._inner.heard_all

    def push(self, data: bytes) -> Iterable[Event]:
        """The events that these bytes complete."""
        for item in self._reader.push(data):
            yield from self._inner.push(item)

    def end(self) -> Iterable[Event]:
        """The last events."""
        if self._reader.unfinished and not self.done:
            raise UpstreamError("the server's stream was cut off in the middle of an event")
        return self._inner.end()


ErrorReader = Callable[[int, object, int | None], HeadraceError]
"""(status, what the body said, retry after) -> error."""


class Upstream:
    """The connections to one provider."""

    def __init__(
        self,
        *,
        timeouts: Timeouts,
        error: ErrorReader,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 0,
    ) -> None:
        self._timeouts = timeouts
        self._error = error
        self._headers = dict(headers or {})
        self._max_connections = max_connections
        self._pool: Pool | None = None

    async def close(self) -> None:
        """Close every connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    @contextlib.asynccontextmanager
    async def get(self, url: str) -> AsyncGenerator[Answer]:
        """A GET, whatever its status."""
        with mapped(url):
            answer = await self._open().get(url, {"Accept": "*/*"})
            try:
                yield answer
            finally:
                answer.close()

    async def whole(self, call: HttpCall, *, deadline_s: float | None = None) -> dict[str, Any]:
        """POST, and the answer as one JSON object."""
        deadline = _Deadline(deadline_s, self._timeouts.total_s)
        answer = await self._answer(call, deadline, self._timeouts.first_byte_s)
        try:
            with mapped(call.url):
                await deadline.wait(self.check(answer), self._timeouts.idle_s)
                raw = await deadline.wait(answer.read(_MAX_WHOLE_BYTES), None)
            found = json.loads(raw)
        except (ValueError, RecursionError):
            raise UpstreamError(f"{call.url} answered no JSON") from None
        finally:
            deadline.end()
            answer.close()
        if not isinstance(found, dict):
            raise UpstreamError(f"{call.url} answered no JSON object")
        return cast("dict[str, Any]", found)

    async def stream(
        self, call: HttpCall, reader: EventReader, *, deadline_s: float | None
    ) -> AsyncGenerator[Event, None]:
        """POST, and the answer's events as they come."""
        deadline = _Deadline(deadline_s, self._timeouts.total_s)
        sent = time.monotonic()
        first_byte_s = None if call.at_once else self._timeouts.first_byte_s
        answer = await self._answer(call, deadline, first_byte_s)
        begun = False
        try:
            await self._check_begun(call, answer, deadline)
            begun = True
            _check_kind(call, answer)
            limit = first_byte_s
            if limit is not None:
                limit = max(limit - (time.monotonic() - sent), 0.001)
            while not reader.done and not answer.at_eof:
                with mapped(call.url):
                    received = await deadline.wait(answer.read_some(), limit)
                limit = None if call.at_once else self._timeouts.idle_s
                if not received:
                    break
                for event in reader.push(received):
                    yield event
            for event in reader.end():
                yield event
            if not answer.ended:
                with contextlib.suppress(BrokenAnswer, TimeoutError):
                    # The body's own end gives the connection back to be used again.
                    await asyncio.wait_for(answer.read_some(), _BODY_END_S)
        except ServiceError as error:
            error.begun = begun
            raise
        finally:
            deadline.end()
            # An answer that is still running must see the connection close.
            answer.close()

    async def gather(
        self, call: HttpCall, reader: EventReader, into: list[Event], *, deadline_s: float | None
    ) -> None:
        """As `stream` of a call that is `at_once`; the events go to the end of a list."""
        deadline = _Deadline(deadline_s, self._timeouts.total_s)
        answer = await self._answer(call, deadline, None)
        begun = False
        try:
            await self._check_begun(call, answer, deadline)
            begun = True
            _check_kind(call, answer)
            while not answer.at_eof:
                with mapped(call.url):
                    received = await deadline.wait(answer.read_some(), None)
                into.extend(reader.push(received))
            for event in reader.end():  # one by one: those before an error count
                into.append(event)
        except ServiceError as error:
            error.begun = begun
            raise
        finally:
            deadline.end()
            answer.close()

    async def check(self, answer: Answer) -> None:
        """Raise what an answer other than 200 means."""
        if answer.status == 200:
            return
        raw = await answer.read(_MAX_ERROR_BYTES)
        found: object = raw.decode("utf-8", "replace").strip() or answer.reason
        with contextlib.suppress(ValueError, RecursionError):
            tree = json.loads(raw)
            if isinstance(tree, list) and tree:  # Google wraps its streams' errors in a list
                tree = cast("list[object]", tree)[0]
            if isinstance(tree, dict):
                found = cast("dict[str, object]", tree)
        after_s = retry_after_s(
            milliseconds=answer.header(b"retry-after-ms"), said=answer.header(b"retry-after")
        )
        raise self._error(answer.status, found, after_s)

    async def _check_begun(self, call: HttpCall, answer: Answer, deadline: "_Deadline") -> None:
        if answer.status != 200:
            with mapped(call.url):
                await deadline.wait(self.check(answer), self._timeouts.idle_s)

    async def _answer(self, call: HttpCall, deadline: "_Deadline", limit_s: float | None) -> Answer:
        """The answer's head; where there is none, nothing stays behind that waits for it."""
        try:
            with mapped(call.url):
                return await deadline.wait(
                    self._open().post(call.url, call.headers, call.body), limit_s
                )
        except BaseException:
            deadline.end()
            raise

    def _open(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(
                connect_s=self._timeouts.connect_s,
                keep_s=_KEEP_ALIVE_S,
                most=self._max_connections,
                headers={"Content-Type": "application/json", **self._headers},
            )
        return self._pool


def _check_kind(call: HttpCall, answer: Answer) -> None:
    if answer.content_type != call.answers:
        raise UpstreamError(
            f"{call.url} answered {answer.content_type or 'no content type'} where "
            f"{call.answers} was asked for"
        )


def trace_headers(trail: Trail) -> dict[str, str]:
    """The W3C Trace Context of a call on a request's behalf; none where nobody traces it."""
    if not trail.traceparent:
        return {}
    state = {"tracestate": trail.tracestate} if trail.tracestate else {}
    return {"traceparent": trail.traceparent, **state}


def retry_after_s(*, milliseconds: str | None, said: str | None) -> int | None:
    """What `retry-after-ms` (OpenAI) or `Retry-After` (seconds or a date) says, rounded up."""
    found: float | None = None
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        if milliseconds is not None:
            found = float(milliseconds) / 1000
        elif said is not None:
            try:
                found = float(said)
            except ValueError:
                found = parsedate_to_datetime(said).timestamp() - time.time()
    if found is None or not 0 <= found < float("inf"):
        return None
    return min(int(-(-found // 1)), _MAX_RETRY_AFTER_S)


class mapped:
    """What the HTTP client raises, as `UpstreamError` with the address."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case None:
                return
            case ConnectTimeout():
                raise UpstreamTimeout(f"{self._url}: no connection in time") from error
            case CannotConnect():
                raise UpstreamError(f"cannot reach {self._url}: {error}; is it running?") from error
            case TimeoutError():
                raise UpstreamTimeout(f"{self._url}: {error or 'timed out'}") from error
            case BrokenAnswer() | OSError() | ValueError():
                raise UpstreamError(f"{self._url}: {error or type(error).__name__}") from error
            case _:
                return


class _Deadline:
    """Bounds each wait by its own limit and by what is left of the whole."""

    def __init__(self, asked_s: float | None, total_s: float | None) -> None:
        now = time.monotonic()
        self._patience = Patience()
        self._asked_s, self._total_s = asked_s, total_s
        self._asked = None if asked_s is None else now + asked_s
        self._total = None if total_s is None else now + total_s

    def end(self) -> None:
        """Nothing more is waited for."""
        self._patience.end()

    async def wait(self, what: Awaitable[_T], limit_s: float | None) -> _T:
        now = time.monotonic()
        first, end = "own", math.inf if limit_s is None else now + limit_s
        if self._total is not None and self._total < end:
            first, end = "total", self._total
        if self._asked is not None and self._asked <= end:
            first, end = "asked", self._asked
        if end == math.inf:
            return await what
        try:
            return await self._patience.wait(what, end - now)
        except OutOfPatience:
            pass
        if first == "asked":
            raise DeadlineExceeded(f"the request's deadline of {self._asked_s} s passed") from None
        if first == "total":
            raise UpstreamTimeout(f"no whole answer within {self._total_s:g} s") from None
        raise UpstreamTimeout(f"not a byte for {limit_s:g} s") from None
