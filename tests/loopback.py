"""A fake server on a real socket, in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

Exchange = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""One request of a connection and its answer; False = the connection ends with it."""


@contextmanager
def serving(exchange: Exchange, *, connected: Callable[[], None] = lambda: None) -> Generator[str]:
    """Serve until the end of the block.

    Args:
        exchange: As `Exchange`, again and again for each connection.
        connected: Called for each connection.

    Yields: The address, http://127.0.0.1:PORT.
    """
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    tasks: set[asyncio.Task[Any]] = set()
    urls: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        connected()
        try:
            while await exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    async def main() -> asyncio.Server:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=512)
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ready.set()
        return server

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(main())
        loop.run_forever()
        server.close()
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
