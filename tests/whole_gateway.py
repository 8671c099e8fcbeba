"""The whole gateway over a scripted model: keys, ledger, stored answers, files, control plane.

On a real socket, in a thread of its own with everything that lives on its loop.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn

from gateway_server import Script, services
from headrace.gateway import admin
from headrace.gateway.asgi import Services, build
from headrace.gateway.batch_queue import BatchQueue
from headrace.gateway.control import open_control
from headrace.gateway.file_store import FileLimits, FileStore
from headrace.gateway.prices import Prices
from headrace.gateway.services import ServedEmbedder
from headrace.gateway.stored import StoredResponses
from headrace.store.blobs import open_blobs
from headrace.testing import HashEmbedder, reply
from headrace.types import Target

OWN = Target(provider="", model="m")


@dataclass
class Whole:
    port: int
    key: str = ""
    """Of an admin."""
    failed: list[BaseException] = field(default_factory=list[BaseException])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def _made(directory: Path, script: Script, whole: Whole) -> AsyncGenerator[Services]:
    url = f"sqlite:///{directory / 'whole.db'}"
    async with open_control(url, directory, auth=True) as control:
        database = control.database
        whole.key = control.new_key or ""
        limits = FileLimits(max_bytes=1 << 20, team_bytes=16 << 20, upload_s=10)
        files = FileStore(database, open_blobs(database, directory / "files"), limits)
        base = Services(
            models={},
            keys=control.keys,
            ledger=control.ledger,
            prices=Prices(control.prices),
            files=files,
            embedders={"m": ServedEmbedder(embedder=HashEmbedder(name="m"), target=OWN)},
            batches=BatchQueue(files, max_lines=100),
            responses=StoredResponses(database, retention_s=3600, max_bytes=1 << 20),
            extra={admin.PREFIX: admin.build(database, control.keys)},
        )
        yield replace(services(script, base=base))


@contextlib.contextmanager
def serving_all(directory: Path, script: Script = reply) -> Generator[Whole]:
    """Serve; state lies in the directory."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    whole = Whole(port=listener.getsockname()[1])
    servers: list[uvicorn.Server] = []

    async def run() -> None:
        async with _made(directory, script, whole) as made:
            config = uvicorn.Config(
                build(made),  # pyright: ignore[reportArgumentType] - its ASGI types are narrower
                log_level="critical",
                timeout_graceful_shutdown=2,
                http="httptools",
                loop="asyncio",
            )
            servers.append(uvicorn.Server(config))
            await servers[0].serve(sockets=[listener])

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - raised where the test waits
            whole.failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not (servers and servers[0].started):
        if whole.failed:
            raise whole.failed[0]
        assert time.monotonic() < until
        time.sleep(0.01)
    try:
        yield whole
    finally:
        servers[0].should_exit = True
        thread.join(timeout=10)
        listener.close()
        assert not thread.is_alive()
