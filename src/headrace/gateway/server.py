"""The HTTP server: uvicorn, whose writes of one turn of the loop go out as one.

uvicorn writes an answer's head and its body apart, and each write is a system call that wakes the
client: together they are a tenth of the work of a short answer.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.gateway.http import DEPARTURES, ASGIApp, Receive, Scope, Send


def application(app: ASGIApp) -> ASGIApp:
    """The same, told by a proxy on this machine how its clients see it (https, their address);
    data routes answer the same to all and are not told."""
    told = cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app)))

    def entry(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        data = scope["type"] == "http" and scope["path"].startswith("/v1/")
        return (app if data else told)(scope, receive, send)

    return entry


class Corked(asyncio.Transport):
    """A transport that gathers what is written until the loop's next turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._parts: list[Any] = []

    def write(self, data: Any) -> None:
        """Send it within this turn or the next."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Close once everything was sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._parts.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def _flush(self) -> None:
        if not self._parts:
            return
        data = b"".join(self._parts)
        self._parts.clear()
        if not self._transport.is_closing():
            self._transport.write(data)


class Protocol(HttpToolsProtocol):
    """uvicorn's, on a `Corked` transport; it tells at once when its client has left.

    ASGI tells who waits for a message, which takes a task of its own beside each request.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting: set[asyncio.Future[None]] = set()
        self._lost = False

    def departure(self) -> "asyncio.Future[None]":
        """Done when the connection has ended; `forget` it."""
        future: asyncio.Future[None] = self.loop.create_future()
        if self._lost:
            future.set_result(None)
            return future
        self._waiting.add(future)
        self.flow.resume_reading()  # a large body stops it, and with it the word of the end
        return future

    def forget(self, departure: "asyncio.Future[None]") -> None:
        """Nobody waits for it any more."""
        self._waiting.discard(departure)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {DEPARTURES: cast("Any", self)}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own type is as narrow
        super().connection_made(Corked(transport, self.loop))
