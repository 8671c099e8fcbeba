"""Opening, migrating, and what a write transaction promises, on both databases."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, insert, inspect, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import KINDS, fresh, fresh_url
from headrace.errors import ConfigError, StoreUnavailable
from headrace.store import migrate, snapshot, trace_tables
from headrace.store.database import Database
from headrace.store.tables import meta, metadata


@pytest.mark.parametrize("kind", KINDS)
async def test_migrations_make_the_declared_tables(kind: str, tmp_path: Path) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection)
        assert trace_tables.traces.metadata is metadata  # imported, so that they are declared
        return list(compare_metadata(context, metadata))

    async with fresh(kind, tmp_path) as database, database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


def test_a_scripts_name_begins_with_its_revision() -> None:
    folder = Path(migrate.__file__).parent / "migrations" / "versions"
    for path in folder.glob("*_*.py"):
        assert f'revision = "{path.name[:4]}"' in path.read_text()


def test_the_snapshot_is_what_the_migrations_make() -> None:
    way_out = "a migration was added: run python -m headrace.store.snapshot"
    assert migrate.SNAPSHOT.read_text("utf-8") == snapshot.spelled(), way_out


def test_an_older_snapshot_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old.sql"
    old.write_text("-- 0001\nCREATE TABLE other (id INTEGER);\n")
    monkeypatch.setattr(migrate, "SNAPSHOT", old)
    engine = create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    with engine.begin() as connection:
        migrate.upgrade(connection)
        names = inspect(connection).get_table_names()
    engine.dispose()
    assert "transactions" in names
    assert "other" not in names


@pytest.mark.parametrize("kind", KINDS)
async def test_replicas_that_start_at_once_migrate_once(kind: str, tmp_path: Path) -> None:
    async with fresh_url(kind, tmp_path) as url:
        opened = await asyncio.gather(*(Database.open(url) for _ in range(4)))
        for database in opened:
            assert await database.read(_revision) == 1
            await database.close()


async def test_a_new_database_waits_for_who_makes_its_log_at_the_same_moment(
    tmp_path: Path,
) -> None:
    first = await Database.open(f"sqlite:///{tmp_path / 'first.db'}")  # what is imported, is
    await first.close()
    path = tmp_path / "headrace.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # what the switch to WAL takes, held as if for long
    opening = asyncio.create_task(Database.open(f"sqlite:///{path}"))
    await asyncio.sleep(0.5)
    assert not opening.done()
    other.execute("COMMIT")
    other.close()
    database = await opening
    try:
        assert await database.read(_revision) == 1
        async with database.engine.connect() as connection:
            mode = await connection.exec_driver_sql("PRAGMA journal_mode")
            assert mode.scalar_one() == "wal"
    finally:
        await database.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_concurrent_increments_are_all_there(kind: str, tmp_path: Path) -> None:
    async with fresh_url(kind, tmp_path) as url:
        replicas = [await Database.open(url) for _ in range(3)]

        async def work(connection: AsyncConnection) -> None:
            value = (await connection.scalars(select(meta.c.value).with_for_update())).one()
            await connection.execute(update(meta).values(value=value + 1))

        await asyncio.gather(*(replica.write(work) for replica in replicas for _ in range(20)))
        assert await replicas[0].read(_revision) == 61
        for replica in replicas:
            await replica.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failing_write_leaves_nothing(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(insert(meta).values(name="other", value=1))
            raise RuntimeError("broken off")

        with pytest.raises(RuntimeError, match="broken off"):
            await database.write(work)
        assert await database.read(_names) == ["revision"]


async def test_a_deadlock_is_tried_again(tmp_path: Path) -> None:
    async with fresh("postgres", tmp_path) as database:
        await database.write(
            lambda c: c.execute(
                insert(meta), [{"name": "a", "value": 0}, {"name": "b", "value": 0}]
            )
        )
        first_locked = [asyncio.Event(), asyncio.Event()]

        async def work(connection: AsyncConnection, at: int) -> None:
            for step, name in enumerate(("ab", "ba")[at]):
                await connection.execute(
                    update(meta).where(meta.c.name == name).values(value=meta.c.value + 1)
                )
                if step == 0:
                    first_locked[at].set()
                    await first_locked[1 - at].wait()

        await asyncio.gather(
            database.write(lambda c: work(c, 0)), database.write(lambda c: work(c, 1))
        )
        query = select(meta.c.value).where(meta.c.name.in_(("a", "b")))
        assert list(await database.read(lambda c: c.scalars(query))) == [2, 2]


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    async with fresh_url("sqlite", tmp_path) as url:
        database = await Database.open(url)
        await database.write(
            lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        )
        await database.close()
        with pytest.raises(ConfigError, match="newer headrace"):
            await Database.open(url)


@pytest.mark.parametrize("url", ["mysql://a@b/c", "nonsense", "sqlite://", "sqlite:///:memory:"])
async def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url"):
        await Database.open(url)


async def test_nobody_there() -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await Database.open("postgresql://nobody@127.0.0.1:9/none")


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path / "new"):
        assert (tmp_path / "new" / "headrace.db").stat().st_mode & 0o777 == 0o600


async def _revision(connection: AsyncConnection) -> int:
    return (await connection.scalars(select(meta.c.value))).one()


async def _names(connection: AsyncConnection) -> list[str]:
    return list(await connection.scalars(select(meta.c.name)))
