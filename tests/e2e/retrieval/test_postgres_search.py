"""How PostgreSQL finds: BM25 out of tsvectors, a graph that is never short, scopes inside both."""

import random
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest

from headrace.retrieval.contracts import Entry, Found, Scope
from headrace.retrieval.stores.postgres import PostgresStore, keyword, single
from headrace.retrieval.stores.postgres.codecs import MAX_COUNT
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.types.retrieval import Compare, Where
from index_postgres import opened_postgres
from index_stores import ALL, entry, generation, passage

DIMENSIONS = 48


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[PostgresStore]:
    async with opened_postgres(tmp_path) as opened:
        await opened.begin(generation(1))
        yield opened


async def test_how_often_a_word_is_there_is_read_out_of_its_rank(store: PostgresStore) -> None:
    async with store._connections.alone() as connection:
        for count in range(MAX_COUNT + 1):
            bag = {"other": 7, "word": count} if count else {"other": 7}
            said = await single.value(
                connection,
                "SELECT width_bucket(ts_rank($1::real[], $2::tsvector, 'word'), $3::float8[])",
                keyword._EQUAL,
                bag,
                keyword._BOUNDS,
            )
            assert said == count


@pytest.mark.parametrize("first", [1, 40, 2_000])
async def test_words_score_as_in_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Whatever of the rare words is searched first, the best are the best of all."""
    monkeypatch.setattr(keyword, "_FIRST", first)
    draws = random.Random(3)
    names = (frozenset({"ann"}), frozenset({"bob", "ann"}), None, None)
    entries = [
        entry(
            f"d{i:03}",
            *(passage(draws, draws.randrange(1, 40)) for _ in range(draws.randrange(1, 4))),
            title=passage(draws, 2) if draws.random() < 0.5 else "",
            headings=(passage(draws, 1),) if draws.random() < 0.3 else (),
            readers=draws.choice(names),
            metadata={"half": draws.randrange(2)},
        )
        for i in range(150)
    ]
    scopes = [
        ALL,
        Scope(principals=frozenset({"ann"})),
        Scope(principals=frozenset()),
        Scope(principals=frozenset({"bob"}), filter=Where(field="half", value=1)),
    ]
    sqlite = await SqliteStore.open(tmp_path / "index")
    async with opened_postgres(tmp_path) as store:
        for one in (sqlite, store):
            await one.begin(generation(1))
            await one.put(entries)
            await one.remove([f"d{i:03}" for i in range(0, 150, 7)])
        for _ in range(25):
            query = passage(draws, draws.randrange(1, 8))
            for scope in scopes:
                ours = await store.keyword(query, 7, scope)
                theirs = await sqlite.keyword(query, 7, scope)
                assert _scores(ours) == pytest.approx(_scores(theirs), rel=1e-5)
                assert ours.matching == theirs.matching
                assert bool(ours.shortfall) == bool(theirs.shortfall)
    await sqlite.close()


def _scores(found: Found) -> list[float]:
    return [p.score for p in found.passages]


def _clustered(count: int, seed: int) -> np.ndarray:
    """Vectors in clumps, as those of real texts are."""
    draws = np.random.default_rng(seed)
    centres = draws.normal(size=(60, DIMENSIONS))
    rows = centres[draws.integers(0, 60, count)] + 0.7 * draws.normal(size=(count, DIMENSIONS))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")


def _documents(rows: np.ndarray, readers: list[frozenset[str] | None]) -> list[Entry]:
    entries: list[Entry] = []
    for i in range(0, len(rows), 10):
        share = {"percent": (i // 10) % 100}
        made = entry(
            f"d{i // 10:05}", *("x",) * 10, metadata=share, readers=readers[i // 10], generations=()
        )
        vectors = {1: rows[i : i + 10].tobytes()}
        entries.append(Entry(document=made.document, chunks=made.chunks, vectors=vectors))
    return entries


async def test_the_graph_finds_the_nearest_through_any_filter(tmp_path: Path) -> None:
    rows, asked = _clustered(6_000, 1), _clustered(40, 2)
    documents = np.arange(6_000) // 10
    async with opened_postgres(tmp_path, exact_below=150) as store:
        await store.begin(generation(1, dimensions=DIMENSIONS))
        await store.put(_documents(rows, [None] * 600))
        for percent, graph in ((1, False), (10, True), (50, True), (100, True)):
            scope = Scope(
                principals=None,
                filter=None if percent == 100 else _below(percent),
            )
            allowed = documents % 100 < percent
            hits = 0
            for question in asked:
                found = await store.nearest(1, question.tobytes(), 10, scope)
                assert found.exact != graph
                assert len(found.passages) == 10
                assert found.matching == 60 * percent
                cosines = np.where(allowed, rows @ question, -2)
                best = set(np.argsort(-cosines)[:10].tolist())
                places = [_place(p.chunk.document, p.chunk.ordinal) for p in found.passages]
                assert allowed[places].all()
                hits += len(best & set(places))
                for place, p in zip(places, found.passages, strict=True):
                    assert p.score == pytest.approx(float(cosines[place]), abs=1e-5)
            assert hits >= 0.98 * 10 * len(asked), (percent, hits)


def _below(percent: int) -> Where:
    return Where(field="percent", compare=Compare.LT, value=percent)


def _place(document: str, ordinal: int) -> int:
    return int(document[1:]) * 10 + ordinal


async def test_no_principal_finds_what_is_hidden_however_it_is_found(tmp_path: Path) -> None:
    draws = random.Random(8)
    rows = _clustered(3_000, 3)
    people = [f"p{i}" for i in range(12)]
    readers = [
        None if draws.random() < 0.2 else frozenset(draws.sample(people, draws.randrange(4)))
        for _ in range(300)
    ]
    async with opened_postgres(tmp_path, exact_below=900) as store:
        await store.begin(generation(1, dimensions=DIMENSIONS))
        await store.put(_documents(rows, readers))
        exact = set[bool]()
        for _ in range(150):
            principals = frozenset(draws.sample(people, draws.randrange(6)))
            scope = Scope(principals=principals)
            question = rows[draws.randrange(3_000)].tobytes()
            found = await store.candidates(1, "x", question, 10, scope)
            open_to = [r is None or not r.isdisjoint(principals) for r in readers]
            assert found.matching == 10 * sum(open_to)
            assert all(open_to[int(p.chunk.document[1:])] for p in found.passages)
            assert len([p for p in found.passages if "cosine_rank" in p.features]) == 10
            exact.add(found.exact)
        assert exact == {True, False}  # both ways were taken


async def test_a_graph_that_was_not_finished_is_told_of_and_built_anew(tmp_path: Path) -> None:
    rows = _clustered(600, 4)
    async with opened_postgres(tmp_path, exact_below=100) as store:
        await store.begin(generation(1, dimensions=DIMENSIONS))
        await store.put(_documents(rows, [None] * 60))
        assert not (await store.nearest(1, rows[0].tobytes(), 5, ALL)).exact
        async with store._connections.alone() as connection:
            await connection.execute(
                "UPDATE pg_index SET indisvalid = false "
                "WHERE indexrelid = to_regclass('vectors_1_graph')"
            )
        assert (await store.nearest(1, rows[0].tobytes(), 5, ALL)).exact
        assert any("not finished" in wrong for wrong in await store.check())
    async with opened_postgres(tmp_path, exact_below=100) as store:
        await store.put(_documents(rows[:10], [None]))
        assert not (await store.nearest(1, rows[0].tobytes(), 5, ALL)).exact
        assert await store.check() == []


async def test_a_generation_has_its_graph_when_it_takes_over(tmp_path: Path) -> None:
    rows = _clustered(600, 5)
    async with opened_postgres(tmp_path, exact_below=100) as store:
        await store.begin(generation(1, dimensions=DIMENSIONS))
        await store.put(_documents(rows, [None] * 60))
        await store.begin(generation(2, dimensions=8))
        vector: bytes = np.eye(8, dtype="<f4")[0].tobytes()
        missing = await store.missing(2, 1000)
        assert await store.fill(2, dict.fromkeys(missing, vector)) == 600
        await store.activate(2)
        assert not (await store.nearest(2, vector, 5, ALL)).exact
        await store.drop(1)
        async with store._connections.alone() as connection:
            left = await single.value(connection, "SELECT to_regclass('vectors_1')::text")
        assert left is None
