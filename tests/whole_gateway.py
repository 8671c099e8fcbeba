"""The whole gateway over a scripted model: keys, ledger, stored answers, files, control plane; with
pages also traces and the console.

On a real socket, in a thread of its own with everything that lives on its loop.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_server import Script, services
from headrace.config import IndexSettings, SourceSettings, TraceSettings
from headrace.console import pages
from headrace.gateway import admin
from headrace.gateway.asgi import Services, build
from headrace.gateway.batch_queue import BatchQueue
from headrace.gateway.control import Control, open_control
from headrace.gateway.delivery_queue import DeliveryQueue
from headrace.gateway.file_store import FileLimits, FileStore
from headrace.gateway.prices import Prices
from headrace.gateway.services import ServedEmbedder
from headrace.gateway.stored import StoredResponses
from headrace.gateway.traces import open_traces
from headrace.observe.metrics import Metrics
from headrace.providers.metered import Metered
from headrace.store.blobs import open_blobs
from headrace.testing import HashEmbedder, reply
from headrace.types import Target
from index_library import library

SOURCES = {"docs": SourceSettings(path=str(Path(__file__).parent / "fixtures" / "templates"))}
OWN = Target(provider="", model="m")
Seed = Callable[[AsyncConnection], Awaitable[None]]


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
    async with (
        open_control(url, directory, auth=True) as control,
        library(directory) as books,
    ):
        database = control.database
        # The name that whoever makes names up tries first.
        books.settle({"0": IndexSettings(org="default", team="default", sources=SOURCES)})
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
            deliveries=DeliveryQueue(database),
            indexes=books,
            responses=StoredResponses(database, retention_s=3600, max_bytes=1 << 20),
            extra={admin.PREFIX: admin.build(database, control.keys)},
        )
        yield replace(services(script, base=base))


@contextlib.asynccontextmanager
async def _with_pages(
    directory: Path, script: Script, whole: Whole, seed: Seed
) -> AsyncGenerator[Services]:
    url = f"sqlite:///{directory / 'whole.db'}"
    async with open_control(url, directory, auth=True) as control:
        whole.key = control.new_key or ""
        await control.database.write(seed)
        async with _console(control, url, script) as made:
            yield made


@contextlib.asynccontextmanager
async def _console(control: Control, url: str, script: Script) -> AsyncGenerator[Services]:
    metrics = Metrics()
    async with open_traces(
        TraceSettings(content_rate=1.0),
        url,
        database=control.database,
        database_url=url,
        changes=control.changes,
        pipeline=metrics.pipelines.of("store"),
    ) as traces:
        shown = pages.PageInfo(models=("m",), auth=True, books=True, traces=True, version="0")
        plane = admin.build(control.database, control.keys, changes=control.changes, traces=traces)
        base = Services(
            models={},
            metrics=metrics,
            keys=control.keys,
            ledger=control.ledger,
            prices=Prices(control.prices),
            traces=traces,
            detail_sinks=(traces,),
            extra={
                **dict.fromkeys((*pages.PATHS, "/static/"), pages.build(lambda: shown)),
                admin.PREFIX: plane,
            },
        )
        made = services(script, base=base)
        model = replace(made.models["m"], chat=Metered("", "m", made.models["m"].chat))
        yield replace(made, models={"m": model})


@contextlib.contextmanager
def serving_all(
    directory: Path, script: Script = reply, *, pages_of: Seed | None = None
) -> Generator[Whole]:
    """Serve; state lies in the directory.

    Args:
        directory: Of the state.
        script: What the model says.
        pages_of: Writes the rows that the console is to show; None = there is no console.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    whole = Whole(port=listener.getsockname()[1])
    servers: list[uvicorn.Server] = []

    async def run() -> None:
        opened = (
            _made(directory, script, whole)
            if pages_of is None
            else _with_pages(directory, script, whole, pages_of)
        )
        async with opened as made:
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
