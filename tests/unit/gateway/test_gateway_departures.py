"""The server's own word that a client has left; ASGI's message where a server has none."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import uvicorn

from headrace.gateway.http import DEPARTURES, Exchange, Receive, Scope, Send
from headrace.gateway.server import Protocol


class _App:
    """Reads a body, says so, and waits for its client to leave."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert DEPARTURES in scope["extensions"]
        exchange = Exchange(scope, receive, send, request_id="r")
        await exchange.body(max_bytes=1 << 20, timeout_s=10)
        async with exchange.watched() as left:
            self.waiting.set()
            await left
            self.left.set()


@contextlib.asynccontextmanager
async def _served(app: _App) -> AsyncGenerator[int]:
    server = uvicorn.Server(uvicorn.Config(app, http=Protocol, lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def test_a_client_that_leaves_is_noticed_after_a_body_of_any_size() -> None:
    for size in (2, 300_000):  # past uvicorn's high water, where it stops to read
        app = _App()
        async with _served(app) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
            writer.write(head.encode() + b"x" * size)
            async with asyncio.timeout(10):
                await app.waiting.wait()
                assert not app.left.is_set()
                writer.close()
                await app.left.wait()


async def test_any_other_server_tells_by_a_message() -> None:
    gone = asyncio.Event()

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: object) -> None:
        raise AssertionError("nothing is sent")

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    exchange = Exchange(scope, receive, send, request_id="r")
    async with asyncio.timeout(10), exchange.watched() as left:
        assert not left.done()
        gone.set()
        await left
