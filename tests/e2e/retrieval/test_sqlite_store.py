"""What the embedded store promises of its files: killed at any point, purged, read by many."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import ConfigError
from headrace.retrieval.contracts import Entry, Scope
from headrace.retrieval.stores import vectors
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.types import Passage
from index_stores import ALL, DIMENSIONS, begun, entry, generation, passage, vector

TESTS = Path(__file__).parents[2]
SECRET = "quixotry-zanzibar-9713"


def files_with(directory: Path, *secrets: bytes) -> list[str]:
    return [
        path.name
        for path in directory.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in secrets)
    ]


async def test_what_was_deleted_is_in_no_byte_after_a_purge(tmp_path: Path) -> None:
    draws = random.Random(1)
    async with begun("sqlite", tmp_path) as store:
        for i in range(40):
            ids = [f"d{i}-{j}" for j in range(10)]
            await store.put([entry(id, passage(draws), passage(draws)) for id in ids])
            secret = f"{SECRET} {passage(draws)} {SECRET}"
            await store.put(
                [
                    entry(
                        f"{SECRET}-{i}",
                        *(secret, f"{secret} again"),
                        title=SECRET,
                        source=SECRET,
                        headings=(SECRET,),
                        metadata={SECRET: SECRET},
                        readers=frozenset({SECRET, "ann"}),
                    )
                ]
            )
            await store.keyword(SECRET, 3, ALL)
        changed = entry("changed", f"old {SECRET}")
        await store.put([changed])
        gone = changed.vectors[1]
        await store.put([entry("changed", "new")])
        await store.remove([f"{SECRET}-{i}" for i in range(40)])
        assert await store.keyword(SECRET, 3, ALL)
        await store.purge()
        wanted = (SECRET.encode(), SECRET.split("-")[0].encode(), gone)
        assert files_with(tmp_path, *wanted) == []
        assert len((await store.keyword("river mill", 500, ALL)).passages) > 300
        assert await store.check() == []
    assert files_with(tmp_path, *wanted) == []


async def test_a_dropped_generation_is_in_no_byte_either(tmp_path: Path) -> None:
    async with begun("sqlite", tmp_path) as store:
        await store.put([entry(f"d{i}", f"river {i}") for i in range(50)])
        await store.begin(generation(2))
        missing = await store.missing(2, 100)
        made = {sha: vector(text, seed=2) for sha, text in missing.items()}
        await store.fill(2, made)
        await store.drop(2)
        await store.purge()
        assert files_with(tmp_path, *made.values()) == []


async def test_a_purge_while_others_read(tmp_path: Path) -> None:
    async with begun("sqlite", tmp_path) as store:
        other = await SqliteStore.open(tmp_path / "index")
        try:
            await store.put([entry(f"d{i}", f"river {i} {SECRET}") for i in range(200)])
            done = asyncio.Event()

            async def read() -> int:
                times = 0
                while not done.is_set():
                    found = await other.keyword("river", 5, ALL)
                    assert len(found.passages) == 5
                    times += 1
                return times

            readers = [asyncio.create_task(read()) for _ in range(2)]
            await store.remove([f"d{i}" for i in range(100)])
            await store.put([entry(f"d{i}", f"river {i}") for i in range(100, 200)])
            await store.purge()
            assert files_with(tmp_path, SECRET.encode()) == []
            done.set()
            assert min([await reader for reader in readers]) > 0
        finally:
            await other.close()


async def test_what_is_killed_has_lost_nothing(tmp_path: Path) -> None:
    await killed(tmp_path, kills=4, least_s=0.3, most_s=1.0)


@pytest.mark.slow
async def test_what_is_killed_often_has_lost_nothing(tmp_path: Path) -> None:
    await killed(tmp_path, kills=60, least_s=0.05, most_s=3.0)


async def killed(tmp_path: Path, *, kills: int, least_s: float, most_s: float) -> None:
    """Two processes change one index and die of SIGKILL, again and again."""
    directory = tmp_path / "index"
    store = await SqliteStore.open(directory)
    await store.begin(generation(1))
    await store.close()
    draws = random.Random(9)
    there: set[str] = set()
    unknown: set[str] = set()
    puts = 0
    for round in range(kills):
        victims = [start(directory, 2 * round + i) for i in range(2)]
        for victim in victims:
            assert victim.stdout is not None
            assert json.loads(victim.stdout.readline()) == ["ready"]
        await asyncio.sleep(draws.uniform(least_s, most_s))
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        for victim in victims:
            told, errors = victim.communicate(timeout=30)
            assert errors == ""
            for line in told.splitlines():
                if not line.endswith("]"):
                    continue  # cut off in the middle of telling
                what, *ids = json.loads(line)
                if what == "put":
                    puts += 1
                    there |= {*ids}
                    unknown -= {*ids}
                elif what == "removing":
                    unknown |= {*ids}
                else:
                    there -= {*ids}
        store = await SqliteStore.open(directory)
        try:
            listed = {row.id async for row in store.documents(ALL)}
            assert there - unknown <= listed
            assert await store.check() == []
            found = await store.keyword("river mill harvest", 10, ALL)
            active = (await store.active()).number
            near = await store.nearest(active, vector("river"), 10, ALL)
            assert found.matching == near.matching > 0
        finally:
            await store.close()
    assert puts > 3 * kills


def start(directory: Path, seed: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(TESTS / "index_victim.py"), str(directory), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )


# --- readers --------------------------------------------------------------------------------------


async def test_ten_thousand_questions_of_people_find_nothing_forbidden(tmp_path: Path) -> None:
    """Random principals and questions: nothing forbidden is found, counted or weighed."""
    draws = random.Random(3)
    people = [f"p{i}" for i in range(30)]
    documents = [
        entry(
            f"d{i:03}",
            passage(draws),
            readers=None
            if draws.random() < 0.2
            else frozenset(draws.sample(people, draws.randint(0, 4))),
        )
        for i in range(300)
    ]
    async with begun("sqlite", tmp_path) as store:
        await store.put(documents)
        for i in range(2500):
            principals = frozenset(draws.sample(people, draws.randint(0, 5)))
            allowed = {
                e.document.id
                for e in documents
                if e.document.readers is None or e.document.readers & principals
            }
            scope = Scope(principals=principals)
            query = passage(draws, 3)
            words = await store.keyword(query, 400, scope)
            near = await store.nearest(1, vector(query), 400, scope)
            both = await store.candidates(1, query, vector(query), 20, scope)
            assert {p.chunk.document for p in near.passages} == allowed
            for found in (words, near, both):
                assert {p.chunk.document for p in found.passages} <= allowed
                assert found.matching == len(allowed)
            id = f"d{draws.randrange(300):03}"
            whole = await store.document(id, scope)
            assert (whole is not None) == (id in allowed)
            if i % 250 == 0:
                await alone(tmp_path / f"alone{i}", documents, allowed, query, words.passages)


async def alone(
    directory: Path,
    documents: list[Entry],
    allowed: set[str],
    query: str,
    passages: Sequence[Passage],
) -> None:
    """An index of what is allowed alone answers the same, scores and all."""
    async with begun("sqlite", directory) as store:
        await store.put([e for e in documents if e.document.id in allowed])
        same = await store.keyword(query, 400, ALL)
        assert [(p.chunk, p.score) for p in same.passages] == [
            (p.chunk, pytest.approx(p.score, rel=1e-5)) for p in passages
        ]


async def test_time_does_not_tell_of_hidden_matches(tmp_path: Path) -> None:
    """A word that 2,000 hidden documents have, and one that none has, take as long."""
    draws = random.Random(4)
    hidden = frozenset({"bob"})
    async with begun("sqlite", tmp_path) as store:
        await store.put([entry(f"a{i}", passage(draws)) for i in range(2000)])
        await store.put([entry(f"b{i}", f"secret {i}", readers=hidden) for i in range(2000)])
        scope = Scope(principals=frozenset({"ann"}))
        taken: dict[str, list[float]] = {"secret river": [], "absent river": []}
        for _ in range(400):
            for query, times in taken.items():
                begun_s = time.perf_counter()
                await store.keyword(query, 10, scope)
                times.append(time.perf_counter() - begun_s)
        some, none = (np.array(times) for times in taken.values())
        noise = float(np.quantile(none, 0.75) - np.quantile(none, 0.25))
        assert abs(statistics.median(some) - statistics.median(none)) < max(noise, 50e-6)


# --- processes and threads ------------------------------------------------------------------------


async def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    async with begun("sqlite", tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "index" / "index.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="format 99"):
        await SqliteStore.open(tmp_path / "index")


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep"):
        await SqliteStore.open(tmp_path / "file" / "index")
    with pytest.raises(ConfigError, match="synchronous"):
        await SqliteStore.open(tmp_path / "index", synchronous="off")


async def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    async with begun("sqlite", tmp_path) as store:
        await store.put([entry("a", "river")])
        for path in (tmp_path / "index").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path.name


async def test_lists_are_made_beside_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come when there is enough, and what comes after is found at once."""
    monkeypatch.setattr(vectors, "FEW", 200)
    monkeypatch.setattr(vectors, "LEAST", 100)
    draws = random.Random(5)
    async with begun("sqlite", tmp_path) as store:
        assert isinstance(store, SqliteStore)
        texts = [passage(draws) for _ in range(600)]
        await store.put([entry(f"d{i}", text) for i, text in enumerate(texts)])
        first = await store.nearest(1, vector(texts[0]), 10, ALL)
        assert first.exact
        await store.warm(1)
        found = await store.nearest(1, vector(texts[0]), 10, ALL)
        assert not found.exact
        assert found.passages[0].score == pytest.approx(1, abs=1e-5)
        await store.put([entry("new", "heron heron")])
        await store.remove(["d5"])
        near = await store.nearest(1, vector("heron"), 3, ALL)
        assert near.passages[0].chunk.document == "new"
        gone = await store.nearest(1, vector(texts[5]), 600, ALL)
        assert "d5" not in {p.chunk.document for p in gone.passages}
        few = await store.nearest(1, vector("x"), 5, Scope(principals=None))
        assert len(few.passages) == 5


async def test_readers_see_whole_commits_while_others_write(tmp_path: Path) -> None:
    """Pairs are put together; whoever finds one finds the other."""
    async with begun("sqlite", tmp_path) as store:
        done = asyncio.Event()

        async def write() -> None:
            for i in range(60):
                await store.put([entry(f"l{i}", "heron left"), entry(f"r{i}", "heron right")])
                if i % 3 == 2:
                    await store.remove([f"l{i - 1}", f"r{i - 1}"])
            done.set()

        async def read() -> None:
            while not done.is_set():
                found = await store.keyword("heron", 1000, ALL)
                ids = {p.chunk.document for p in found.passages}
                assert {f"l{id[1:]}" for id in ids} | {f"r{id[1:]}" for id in ids} == ids
                assert found.matching == len(ids)

        await asyncio.gather(write(), read(), read())


def test_threads_end_with_the_store(tmp_path: Path) -> None:
    before = threading.active_count()

    async def run() -> None:
        async with begun("sqlite", tmp_path) as store:
            await store.put([entry("a", "river")])
            await store.nearest(1, np.ones(DIMENSIONS, "<f4").tobytes(), 1, ALL)

    asyncio.run(run())
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before
