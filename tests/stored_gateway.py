"""A gateway over a real store in the test's own loop: two teams with a key each."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import fresh
from gateway_server import Records
from gateway_server import services as scripted
from headrace.gateway.asgi import build
from headrace.gateway.batch_queue import BatchQueue
from headrace.gateway.batch_runner import BatchLimits, BatchRunner
from headrace.gateway.file_store import FileLimits, FileStore
from headrace.gateway.http import stop
from headrace.gateway.keys import StoreKeys, caller_by_id
from headrace.gateway.live import Live
from headrace.gateway.services import Services
from headrace.store import identity
from headrace.store.blobs import open_blobs
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.identity import MadeKey, NewKey
from headrace.testing import Step, reply
from headrace.types import Caller

TEAMS = ("red", "blue")
Script = Sequence[Step] | Callable[..., Iterable[Step]]


@dataclass
class Stored:
    """What a test has of it."""

    live: Live
    database: Database
    files: FileStore
    queue: BatchQueue
    records: Records
    keys: dict[str, MadeKey]
    client: httpx.AsyncClient
    changes: Changes
    state_dir: Path

    def openai(self, team: str = "red") -> openai.AsyncOpenAI:
        """The official client with a team's key."""
        return openai.AsyncOpenAI(
            base_url="http://x/v1",
            api_key=self.keys[team].token,
            http_client=self.client,  # pyright: ignore[reportArgumentType] - its stubs name a fork
            max_retries=0,
        )

    def runner(self, *, lease_s: int = 30, **limits: int) -> BatchRunner:
        """One replica's, to be run."""

        async def identify(key: str, feature: str, route: str) -> Caller:
            return await caller_by_id(
                self.database, key, feature=feature, route=route, now_s=self.queue.now_s
            )

        return BatchRunner(
            self.live,
            self.queue,
            identify=identify,
            limits=BatchLimits(**limits),
            lease_s=lease_s,
            poll_s=0.02,
        )

    @contextlib.asynccontextmanager
    async def working(self, *runners: BatchRunner) -> AsyncGenerator[None]:
        """Runners at work in the block."""
        tasks = [asyncio.create_task(runner.run()) for runner in runners]
        try:
            yield
        finally:
            await stop(*tasks)

    async def call(
        self, method: str, path: str, *, team: str = "red", **options: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[team].token}"}
        return await self.client.request(method, path, headers=headers, **options)


async def make_teams(database: Database, *, routes: Sequence[str] = ()) -> dict[str, MadeKey]:
    """An organization `acme` with a key for each team."""
    made: dict[str, MadeKey] = {}

    async def work(connection: AsyncConnection) -> None:
        await identity.add_org(connection, "acme", now_s=1)
        for team in TEAMS:
            await identity.add_team(connection, team, org="acme", now_s=1)
            new = NewKey(org="acme", team=team, routes=routes)
            made[team] = await identity.make_key(connection, new, now_s=1)

    await database.write(work)
    return made


@contextlib.asynccontextmanager
async def stored(
    directory: Path,
    *,
    kind: str = "sqlite",
    script: Script = reply,
    limits: FileLimits | None = None,
    base: Services | None = None,
) -> AsyncGenerator[Stored]:
    """Everything but a socket."""
    async with fresh(kind, directory) as database:
        keys = await make_teams(database)
        files = FileStore(
            database, open_blobs(database, directory / "files"), limits or FileLimits()
        )
        queue = BatchQueue(files, max_lines=20)
        records, changes = Records(), Changes(database)
        made = replace(
            scripted(script, base=base),
            metrics=records,
            keys=StoreKeys(database, changes),
            files=files,
            batches=queue,
        )
        live = Live(made)
        app: Any = build(live)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            yield Stored(live, database, files, queue, records, keys, client, changes, directory)
