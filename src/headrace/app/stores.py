"""Settings → what is kept: keys and ledger, traces, responses, cached answers, files, batches."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.config import Settings, state_dir, store_url, trace_url
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.gateway.batch_queue import BatchQueue
    from headrace.gateway.caching.shelf import Shelf
    from headrace.gateway.control import Control
    from headrace.gateway.stored import StoredResponses
    from headrace.gateway.traces import Traces
    from headrace.store.database import Database


@contextlib.asynccontextmanager
async def open_store(settings: Settings) -> AsyncGenerator["Database"]:
    """The store of keys, limits and the ledger, for one command.

    Raises:
        ConfigError, StoreUnavailable: As `headrace.store.database.Database.open`.
    """
    from headrace.store.database import Database

    database = await Database.open(store_url(settings))
    try:
        yield database
    finally:
        await database.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceStores:
    """Where traces are, and where the ledger and the policies are; perhaps the same database."""

    traces: "Database"
    main: "Database"


@contextlib.asynccontextmanager
async def open_trace_stores(settings: Settings) -> AsyncGenerator[TraceStores]:
    """Both, for one command.

    Raises:
        ConfigError, StoreUnavailable: As `headrace.store.database.Database.open`.
    """
    from headrace.store.database import Database

    async with open_store(settings) as main:
        url = trace_url(settings)
        own = await Database.open(url) if url != store_url(settings) else None
        try:
            yield TraceStores(traces=own or main, main=main)
        finally:
            if own is not None:
                await own.close()


@contextlib.asynccontextmanager
async def stored_responses(
    settings: Settings, control: "Control | None"
) -> AsyncGenerator["StoredResponses | None"]:
    """The answers of /v1/responses: in the store of keys, else in a store for them alone."""
    from headrace.gateway.stored import StoredResponses, running

    wanted = settings.responses
    if wanted.retention_days < 0:
        raise ConfigError(
            f"responses.retention_days = {wanted.retention_days:g} is negative; 0 keeps answers "
            "until they are deleted"
        )
    if not wanted.store:
        yield None
        return
    async with contextlib.AsyncExitStack() as stack:
        database = (
            await stack.enter_async_context(open_store(settings))
            if control is None
            else control.database
        )
        stored = StoredResponses(
            database,
            retention_s=round(wanted.retention_days * 86400) or None,
            max_bytes=settings.server.max_body_bytes,
        )
        yield await stack.enter_async_context(running(stored))


def answer_shelf(
    settings: Settings, control: "Control | None"
) -> "contextlib.AbstractAsyncContextManager[Shelf]":
    from headrace.gateway.caching.shelf import open_shelf

    if control is None:
        return open_shelf(None, settings.cache)
    return open_shelf(control.database, settings.cache, changes=control.changes)


def batch_queue(settings: Settings, database: "Database") -> "BatchQueue":
    from headrace.gateway.batch_queue import BatchQueue
    from headrace.gateway.file_store import FileLimits, FileStore
    from headrace.store.blobs import open_blobs

    limits = FileLimits(
        max_bytes=settings.files.max_bytes,
        team_bytes=settings.files.team_bytes,
        upload_s=settings.files.upload_s,
    )
    files = FileStore(database, open_blobs(database, state_dir(settings) / "files"), limits)
    return BatchQueue(files, max_lines=settings.batches.max_lines)


@contextlib.asynccontextmanager
async def following_deletions(
    settings: Settings,
    traces: "Traces | None",
    queue: "BatchQueue | None",
    control: "Control | None",
    stored: "StoredResponses | None",
    shelf: "Shelf",
) -> AsyncGenerator[None]:
    """Delete what quotes documents that are gone, until the end of the block."""
    from headrace.gateway.forgetting import Forgetting
    from headrace.gateway.http import stop

    databases = [item.database for item in (control, stored) if item is not None]
    if not databases:
        yield
        return
    work = Forgetting(
        databases[0],
        traces=traces,
        files=None if queue is None else queue.files,
        shelf=shelf,
        changes=None if control is None else control.changes,
        scrub_s=min(60.0, settings.retrieval.purge_s),
    )
    task = asyncio.create_task(work.run())
    try:
        yield
    finally:
        await stop(task)
