"""A `Backend` over one managed API: a dialect makes the call and reads the answer, HTTP is shared.

A new provider is a `Dialect`: two pure functions and a reader, no I/O.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self

from headrace.errors import HeadraceError, UnsupportedParameter
from headrace.providers.upstream import EventReader, HttpCall, Timeouts, Upstream, trace_headers
from headrace.types import ChatRequest, Event

Authorize = Callable[[HttpCall], Awaitable[HttpCall]]
"""Adds what proves who calls: a key, a token, a signature."""


class Dialect(Protocol):
    """One provider's protocol."""

    def call(self, request: ChatRequest) -> HttpCall:
        """The HTTP request, without credentials.

        Raises: UserError naming what the protocol cannot carry.
        """
        ...

    def reader(self, request: ChatRequest) -> EventReader: ...

    def error(self, status: int, found: object, retry_after_s: int | None) -> HeadraceError: ...

    def count_call(self, request: ChatRequest) -> HttpCall | None:
        """The HTTP request that counts a prompt's tokens; None = there is no such call."""
        ...

    def counted(self, found: dict[str, Any]) -> int:
        """The count in its answer."""
        ...


class Provider:
    """A `Backend` and `TokenCounter`; use it as an async context manager, or `close` it."""

    def __init__(
        self,
        dialect: Dialect,
        authorize: Authorize,
        *,
        timeouts: Timeouts,
        max_connections: int = 0,
    ) -> None:
        self._dialect = dialect
        self._authorize = authorize
        self._upstream = Upstream(
            timeouts=timeouts, error=dialect.error, max_connections=max_connections
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._upstream.close()

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        call = await self._authorize(self._dialect.call(request))
        # After the signature, which a proxy that adds its own span must not break.
        call = replace(call, headers={**call.headers, **trace_headers(request.trail)})
        reader = self._dialect.reader(request)
        events = self._upstream.stream(call, reader, deadline_s=request.deadline_s)
        trail = request.trail
        try:
            async for event in events:
                trail.heard, trail.heard_all = reader.heard, reader.heard_all
                yield event
        finally:
            trail.heard, trail.heard_all = reader.heard, reader.heard_all
            await events.aclose()

    async def count(self, request: ChatRequest) -> int:
        """As `TokenCounter.count`."""
        call = self._dialect.count_call(request)
        if call is None:
            raise UnsupportedParameter(
                "this model's provider counts no tokens ahead of a call", param="model"
            )
        found = await self._upstream.whole(await self._authorize(call))
        return self._dialect.counted(found)


def with_header(name: str, secret: Callable[[], str], *, prefix: str = "") -> Authorize:
    """Credentials that are one header; the secret is read for each call."""

    async def authorize(call: HttpCall) -> HttpCall:
        return HttpCall(
            url=call.url,
            body=call.body,
            headers={**call.headers, name: prefix + secret()},
            answers=call.answers,
            at_once=call.at_once,
        )

    return authorize
