"""What every store of an index must do, whatever keeps it: the contract, word by word."""

import asyncio
import random
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import Conflict, InvalidParameter, NotFound, StoreUnavailable
from headrace.retrieval.contracts import IndexStore, Marks, Scope
from headrace.types.retrieval import AllOf, AnyOf, Compare, Filter, Not, OneOf, Where
from index_stores import ALL, KINDS, begun, entry, generation, opened, passage, vector

ANN = Scope(principals=frozenset({"ann"}))
NOBODY = Scope(principals=frozenset())


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def store(kind: str, tmp_path: Path) -> AsyncGenerator[IndexStore]:
    async with begun(kind, tmp_path) as opened_store:
        yield opened_store


async def ids(store: IndexStore, query: str, scope: Scope = ALL, k: int = 10) -> list[str]:
    return [p.chunk.document for p in (await store.keyword(query, k, scope)).passages]


async def near(store: IndexStore, text: str, scope: Scope = ALL, k: int = 10) -> list[str]:
    found = await store.nearest(1, vector(text), k, scope)
    return [p.chunk.document for p in found.passages]


async def listed(store: IndexStore, scope: Scope = ALL) -> list[str]:
    return [row.id async for row in store.documents(scope)]


# --- documents ------------------------------------------------------------------------------------


async def test_a_document_comes_back_as_it_went_in(store: IndexStore) -> None:
    put = entry(
        "a",
        "The wheel turns.",
        "Grüße, 水車 \U0001f33e!",
        title="Mills",
        source="wiki",
        modified_s=12.5,
        readers=frozenset({"ann", "bob"}),
        metadata={"year": 1840, "ratio": 0.5, "open": True, "place": "Ulm"},
    )
    await store.put([put])
    assert await store.document("a", ALL) == put.document
    (row,) = [row async for row in store.documents(ALL)]
    assert (row.id, row.source, row.title, row.chunks) == ("a", "wiki", "Mills", 2)
    assert row.sha256 == put.document.sha256
    assert row.readers == frozenset({"ann", "bob"})
    assert dict(row.metadata) == dict(put.document.metadata)
    assert tuple(await store.neighbours("a", 0, 5, ALL)) == put.chunks
    assert [c.ordinal for c in await store.neighbours("a", 1, 1, ALL)] == [1]


async def test_passages_carry_their_document(store: IndexStore) -> None:
    await store.put(
        [
            entry(
                *("a", "The wheel turns."),
                title="Mills",
                source="wiki",
                modified_s=3.0,
                metadata={"year": 1840},
                headings=("Parts", "Wheels"),
            )
        ]
    )
    (found,) = (await store.keyword("wheel", 1, ALL)).passages
    assert found.chunk == entry("a", "The wheel turns.", headings=("Parts", "Wheels")).chunks[0]
    assert (found.title, found.source, found.modified_s) == ("Mills", "wiki", 3.0)
    assert dict(found.metadata) == {"year": 1840}
    assert found.score > 0


async def test_a_put_replaces_all_that_was_there(store: IndexStore) -> None:
    await store.put([entry("a", "river mill", "wheel stone"), entry("b", "river town")])
    await store.put([entry("a", "market price")])
    assert await ids(store, "wheel") == []
    assert await ids(store, "mill river") == ["b"]
    assert await ids(store, "price") == ["a"]
    assert sorted(await near(store, "wheel stone")) == ["a", "b"]
    assert (await store.keyword("price", 5, ALL)).matching == 2


async def test_removed_is_removed(store: IndexStore) -> None:
    await store.put([entry("a", "river mill"), entry("b", "river town")])
    await store.remove(["a", "never there"])
    assert await store.document("a", ALL) is None
    assert await ids(store, "river") == ["b"]
    assert await near(store, "river mill") == ["b"]
    assert await listed(store) == ["b"]
    assert list(await store.neighbours("a", 0, 9, ALL)) == []
    assert await store.vectors_of(1, [entry("a", "river mill").chunks[0].sha256]) == {}


async def test_a_document_without_chunks_is_kept_and_listed(store: IndexStore) -> None:
    await store.put([entry("a"), entry("b", "river")])
    assert await listed(store) == ["a", "b"]
    assert await ids(store, "river") == ["b"]
    await store.remove(["a"])
    assert await listed(store) == ["b"]


async def test_documents_are_listed_by_id_through_pages(store: IndexStore) -> None:
    names = [f"d{i:04}" for i in range(1203)]
    await store.put([entry(name, "x") for name in reversed(names)])
    assert await listed(store) == names


async def test_many_puts_at_once_are_all_there(store: IndexStore) -> None:
    await asyncio.gather(*(store.put([entry(f"d{i}", f"river {i}")]) for i in range(60)))
    assert len(await listed(store)) == 60
    assert len(await ids(store, "river", k=100)) == 60


async def test_a_put_is_all_or_nothing(store: IndexStore) -> None:
    wrong = entry("b", "river")
    short = type(wrong)(document=wrong.document, chunks=wrong.chunks, vectors={1: b"\0" * 8})
    before = await store.snapshot()
    with pytest.raises(InvalidParameter, match="vectors"):
        await store.put([entry("a", "river"), short])
    assert await listed(store) == []
    assert await store.snapshot() == before


async def test_one_bad_put_among_many_fails_alone(store: IndexStore) -> None:
    wrong = entry("bad", "river", generations=(1, 7))
    results = await asyncio.gather(
        *(store.put([entry(f"d{i}", "river")]) for i in range(5)),
        store.put([wrong]),
        *(store.put([entry(f"e{i}", "river")]) for i in range(5)),
        return_exceptions=True,
    )
    assert [type(r) for r in results if not isinstance(r, str)] == [NotFound]
    assert len(await listed(store)) == 10


@pytest.mark.parametrize(
    "metadata",
    [{"x": float("nan")}, {"x": 2**63}, {"x": "a\0b"}, {"x": "\ud800"}, {"id": "y"}],
)
async def test_metadata_that_cannot_be_compared_is_refused(
    store: IndexStore, metadata: dict[str, float]
) -> None:
    with pytest.raises(InvalidParameter):
        await store.put([entry("a", "river", metadata=metadata)])


async def test_what_does_not_belong_together_is_refused(store: IndexStore) -> None:
    good, other = entry("a", "river mill"), entry("b", "river mill")
    kind = type(good)
    for wrong in (
        kind(document=good.document, chunks=other.chunks, vectors=good.vectors),
        kind(document=other.document, chunks=good.chunks, vectors=good.vectors),
        kind(document=good.document, chunks=good.chunks, vectors={}),
        entry("", "river"),
    ):
        with pytest.raises(InvalidParameter):
            await store.put([wrong])


async def test_marks_stay_until_they_are_changed(store: IndexStore) -> None:
    await store.put([entry("a", "river"), entry("b", "river")])
    snapshot = await store.mark(
        {"a": Marks(superseded_by="b", conflicts=("c", "d")), "zz": Marks()}
    )
    assert snapshot == await store.snapshot()
    await store.put([entry("a", "river mill")])
    (found,) = (await store.keyword("mill", 1, ALL)).passages
    assert (found.superseded_by, found.conflicts) == ("b", ("c", "d"))
    rows = {row.id: row async for row in store.documents(ALL)}
    assert (rows["a"].superseded_by, rows["a"].conflicts) == ("b", ("c", "d"))
    await store.put([entry("a", "river mill", marks=Marks())])
    (found,) = (await store.keyword("mill", 1, ALL)).passages
    assert (found.superseded_by, found.conflicts) == ("", ())


# --- snapshots ------------------------------------------------------------------------------------


async def test_every_change_has_a_snapshot_of_its_own(store: IndexStore) -> None:
    seen = [await store.snapshot()]
    seen.append(await store.put([entry("a", "river")]))
    seen.append(await store.put([entry("a", "mill")]))
    seen.append(await store.remove(["a"]))
    await store.begin(generation(2))
    await store.activate(2)
    seen.append(await store.snapshot())
    assert len(set(seen)) == len(seen)
    assert (await store.keyword("river", 1, ALL)).snapshot == seen[-1]


async def test_a_store_opened_again_is_the_same(kind: str, tmp_path: Path) -> None:
    async with begun(kind, tmp_path) as store:
        await store.put([entry("a", "river mill"), entry("b", "town")])
        await store.remove(["b"])
        before = await store.keyword("river", 3, ALL)
        vectors = await store.nearest(1, vector("river mill"), 3, ALL)
    async with opened(kind, tmp_path) as store:
        assert await store.keyword("river", 3, ALL) == before
        assert await store.nearest(1, vector("river mill"), 3, ALL) == vectors
        assert (await store.active()).number == 1
        assert await store.check() == []


async def test_two_stores_on_one_index_see_each_other(kind: str, tmp_path: Path) -> None:
    async with begun(kind, tmp_path) as one, opened(kind, tmp_path) as other:
        for i in range(20):
            writer, reader = (one, other) if i % 2 else (other, one)
            snapshot = await writer.put([entry(f"d{i}", f"river {i}")])
            found = await reader.keyword("river", 50, ALL)
            assert found.snapshot == snapshot
            assert len(found.passages) == found.matching == i + 1 - i // 3
            if i % 3 == 2:
                await reader.remove([f"d{i}"])
                assert f"d{i}" not in await near(writer, "river", k=50)


# --- finding --------------------------------------------------------------------------------------


async def test_words_are_found_in_all_their_forms(store: IndexStore) -> None:
    await store.put([entry("a", "The millers were running wheels."), entry("b", "Café Zürich")])
    for query in ("runs", "RUNNING", "wheel", "what is a miller?"):
        assert await ids(store, query) == ["a"], query
    for query in ("cafe", "ZURICH", "zürich"):
        assert await ids(store, query) == ["b"], query


async def test_titles_and_headings_are_found(store: IndexStore) -> None:
    await store.put(
        [
            entry("a", "nothing here", title="Harvest"),
            entry("b", "nothing there", headings=("Storms",)),
        ]
    )
    assert await ids(store, "harvest") == ["a"]
    assert await ids(store, "storm") == ["b"]


@pytest.mark.parametrize(
    "query",
    [
        *('"', "'", "a AND", "NOT river", "river*", "river NEAR mill", "text:river", "^river"),
        *("(river", "river)", "river OR", "-river", "{river}", "river\0mill", "%", "\\", ";--"),
        *("river & mill", "river | !mill", "<->", "river:*", "'river' 'mill", "\ud800 river"),
    ],
)
async def test_a_question_is_words_whatever_is_in_it(store: IndexStore, query: str) -> None:
    await store.put([entry("a", "river mill"), entry("b", "town")])
    assert await ids(store, query) in ([], ["a"])
    assert (await ids(store, query) == ["a"]) == ("river" in query or "mill" in query)


async def test_rare_words_count_more_and_stopwords_nothing(store: IndexStore) -> None:
    await store.put([entry(f"d{i}", f"the river and the {i}") for i in range(20)])
    await store.put([entry("rare", "heron cloud"), entry("both", "heron river")])
    assert (await ids(store, "the heron of the river"))[:2] == ["both", "rare"]
    assert await ids(store, "the and") != []  # nothing else is asked for


async def test_scores_fall_and_ties_are_in_order_of_documents(store: IndexStore) -> None:
    await store.put([entry(f"d{i}", "river mill") for i in (3, 1, 2, 0)])
    await store.put([entry("best", "river river mill mill")])
    found = await store.keyword("river mill", 10, ALL)
    scores = [p.score for p in found.passages]
    assert scores == sorted(scores, reverse=True)
    assert [p.chunk.document for p in found.passages if p.score == scores[-1]] == [
        *("d0", "d1", "d2", "d3"),
    ]


async def test_the_nearest_are_those_of_the_highest_cosine(store: IndexStore) -> None:
    draws = random.Random(5)
    texts = [passage(draws) for _ in range(300)]
    await store.put([entry(f"d{i:03}", text) for i, text in enumerate(texts)])
    rows = np.stack([np.frombuffer(vector(text), "<f4") for text in texts])
    hits = 0
    for _ in range(20):
        asked = vector(passage(draws))
        found = await store.nearest(1, asked, 10, ALL)
        cosines = rows @ np.frombuffer(asked, "<f4")
        best = {f"d{i:03}" for i in np.argsort(-cosines)[:10]}
        hits += len(best & {p.chunk.document for p in found.passages})
        for p in found.passages:
            assert p.score == pytest.approx(cosines[int(p.chunk.document[1:])], abs=2e-3)
    assert hits >= 0.98 * 200


async def test_candidates_have_both_scores(store: IndexStore) -> None:
    draws = random.Random(6)
    await store.put([entry(f"d{i:03}", passage(draws), passage(draws)) for i in range(60)])
    query = "harvest storm horse"
    asked = vector(query)
    words = await store.keyword(query, 8, ALL)
    close = await store.nearest(1, asked, 8, ALL)
    found = await store.candidates(1, query, asked, 8, ALL)
    keys = [(p.chunk.document, p.chunk.ordinal) for p in found.passages]
    assert keys == sorted(set(keys))
    by_key = dict(zip(keys, found.passages, strict=True))
    assert set(keys) == {
        (p.chunk.document, p.chunk.ordinal) for p in (*words.passages, *close.passages)
    }
    ranked = [p for p in found.passages if "bm25_rank" in p.features]
    assert sorted(p.features["bm25_rank"] for p in ranked) == list(range(1, 9))
    assert sorted(
        p.features["cosine_rank"] for p in found.passages if "cosine_rank" in p.features
    ) == list(range(1, 9))
    for p in words.passages:
        same = by_key[p.chunk.document, p.chunk.ordinal]
        assert same.features["bm25"] == pytest.approx(p.score, rel=1e-4)
    for p in close.passages:
        same = by_key[p.chunk.document, p.chunk.ordinal]
        assert same.features["cosine"] == pytest.approx(p.score, abs=1e-4)
    for p in found.passages:
        row = np.frombuffer(vector(p.chunk.embedded), "<f4")
        assert p.features["cosine"] == pytest.approx(
            float(row @ np.frombuffer(asked, "<f4")), abs=2e-3
        )


async def test_fewer_than_asked_are_explained(store: IndexStore) -> None:
    nothing = await store.keyword("river", 5, ALL)
    assert (nothing.passages, nothing.matching) == ((), 0)
    assert nothing.shortfall
    await store.put([entry(f"d{i}", "river" if i else "mill") for i in range(4)])
    for found in (
        await store.keyword("mill", 2, ALL),
        await store.keyword("?!", 1, ALL),
        await store.nearest(1, vector("mill"), 5, ALL),
        await store.candidates(1, "mill", vector("mill"), 5, ALL),
        await store.nearest(
            1, vector("mill"), 1, Scope(principals=None, filter=Where(field="x", value=1))
        ),
    ):
        assert found.shortfall
    for found in (
        await store.keyword("mill", 1, ALL),
        await store.nearest(1, vector("mill"), 4, ALL),
        await store.candidates(1, "mill", vector("mill"), 4, ALL),
    ):
        assert not found.shortfall


@pytest.mark.parametrize("k", [0, -1, 1_000_000])
async def test_k_has_limits(store: IndexStore, k: int) -> None:
    with pytest.raises(InvalidParameter, match="k = "):
        await store.keyword("river", k, ALL)
    with pytest.raises(InvalidParameter, match="k = "):
        await store.nearest(1, vector("river"), k, ALL)


async def test_a_vector_of_another_kind_is_refused(store: IndexStore) -> None:
    with pytest.raises(InvalidParameter, match="vector"):
        await store.nearest(1, b"\0" * 12, 3, ALL)
    with pytest.raises(NotFound, match="generation 9"):
        await store.nearest(9, vector("river"), 3, ALL)


# --- scopes ---------------------------------------------------------------------------------------


async def test_what_may_not_be_read_is_not_there(store: IndexStore) -> None:
    await store.put(
        [
            entry("public", "river mill"),
            entry("ann", "river mill", readers=frozenset({"ann", "eve"})),
            entry("bob", "river mill", readers=frozenset({"bob"})),
            entry("none", "river mill", readers=frozenset()),
        ]
    )
    assert sorted(await ids(store, "river", ANN)) == ["ann", "public"]
    assert sorted(await near(store, "river", ANN)) == ["ann", "public"]
    assert await ids(store, "river", NOBODY) == ["public"]
    assert len(await ids(store, "river", ALL)) == 4
    assert await listed(store, ANN) == ["ann", "public"]
    assert await store.document("bob", ANN) is None
    assert await store.document("ann", ANN) is not None
    assert list(await store.neighbours("bob", 0, 9, ANN)) == []
    found = await store.candidates(1, "river", vector("river"), 10, ANN)
    assert found.matching == 2
    assert {p.chunk.document for p in found.passages} == {"ann", "public"}


async def test_scores_say_nothing_of_what_is_hidden(store: IndexStore) -> None:
    await store.put([entry("a", "heron river"), entry("b", "river mill")])
    before = await store.keyword("heron river", 10, ANN)
    await store.put(
        [entry(f"h{i}", "heron heron heron", readers=frozenset({"bob"})) for i in range(30)]
    )
    after = await store.keyword("heron river", 10, ANN)
    assert [p.score for p in after.passages] == [p.score for p in before.passages]
    assert after.matching == before.matching


async def test_readers_change_with_the_document(store: IndexStore) -> None:
    await store.put([entry("a", "river", readers=frozenset({"ann"}))])
    assert await ids(store, "river", ANN) == ["a"]
    await store.put([entry("a", "river", readers=frozenset({"bob"}))])
    assert await ids(store, "river", ANN) == []
    await store.put([entry("a", "river")])
    assert await ids(store, "river", NOBODY) == ["a"]


FILTERS: list[tuple[Filter, set[str]]] = [
    (Where(field="year", value=1840), {"a", "b"}),
    (Where(field="year", value=1840.0), {"a", "b"}),
    (Where(field="year", compare=Compare.NE, value=1840), {"c", "d"}),
    (Where(field="year", compare=Compare.GT, value=1840), {"c"}),
    (Where(field="year", compare=Compare.LE, value=1900.5), {"a", "b", "c"}),
    (Where(field="year", value="1840"), set()),
    (Where(field="open", value=True), {"a"}),
    (Where(field="open", value=1), set()),
    (Where(field="open", compare=Compare.NE, value=True), {"b", "c", "d"}),
    (Where(field="place", compare=Compare.PREFIX, value="Ul"), {"a"}),
    (Where(field="place", compare=Compare.LT, value="V"), {"a"}),
    (Where(field="place", compare=Compare.LT, value=7), set()),
    (Where(field="source", value="wiki"), {"a", "c"}),
    (Where(field="id", compare=Compare.GE, value="c"), {"c", "d"}),
    (Where(field="title", compare=Compare.PREFIX, value=""), {"a", "b", "c", "d"}),
    (Where(field="modified_s", compare=Compare.LT, value=2), {"a", "b"}),
    (Where(field="modified_s", value="1"), set()),
    (OneOf(field="place", values=("Ulm", "Würzburg", 5)), {"a", "b"}),
    (OneOf(field="place", values=()), set()),
    (AllOf(filters=()), {"a", "b", "c", "d"}),
    (AnyOf(filters=()), set()),
    (Not(filter=Where(field="place", compare=Compare.PREFIX, value="")), {"c", "d"}),
    (
        AllOf(
            filters=(
                Where(field="year", compare=Compare.GE, value=0),
                AnyOf(filters=(Where(field="source", value="wiki"), Where(field="id", value="b"))),
                Not(filter=Where(field="open", value=True)),
            )
        ),
        {"b", "c"},
    ),
]


@pytest.mark.parametrize(("filter", "expected"), FILTERS)
async def test_filters(store: IndexStore, filter: Filter, expected: set[str]) -> None:
    await store.put(
        [
            entry(
                *("a", "river"),
                source="wiki",
                modified_s=1,
                metadata={"year": 1840, "open": True, "place": "Ulm"},
            ),
            entry(
                *("b", "river"),
                source="web",
                metadata={"year": 1840.0, "open": False, "place": "Würzburg"},
            ),
            entry("c", "river", source="wiki", modified_s=2, metadata={"year": 1900}),
            entry("d", "river", modified_s=3, metadata={"Year": 1840}),
        ]
    )
    scope = Scope(principals=None, filter=filter)
    found = await store.keyword("river", 10, scope)
    assert {p.chunk.document for p in found.passages} == expected
    assert found.matching == len(expected)
    assert set(await near(store, "river", scope)) == expected
    assert set(await listed(store, scope)) == expected
    for id in "abcd":
        assert (await store.document(id, scope) is not None) == (id in expected)


@pytest.mark.parametrize(
    "filter",
    [
        Where(field="x", value=float("inf")),
        Where(field="x", compare=Compare.PREFIX, value=5),
        Where(field="x", compare=Compare.LT, value=True),
        OneOf(field="x", values=tuple(range(10_000))),
    ],
)
async def test_filters_that_mean_nothing_are_refused(store: IndexStore, filter: Filter) -> None:
    with pytest.raises(InvalidParameter):
        await store.keyword("river", 3, Scope(principals=None, filter=filter))


async def test_names_of_fields_are_not_a_query_language(store: IndexStore) -> None:
    name = "a.b'c\"]d$ --"
    await store.put([entry("a", "river", metadata={name: "x"}), entry("b", "river")])
    scope = Scope(principals=None, filter=Where(field=name, value="x"))
    assert await ids(store, "river", scope) == ["a"]


# --- generations ----------------------------------------------------------------------------------


async def test_without_a_generation_there_is_none(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        assert list(await store.generations()) == []
        with pytest.raises(NotFound, match="generation"):
            await store.active()
        await store.begin(generation(1))
        assert await store.active() == generation(1)
        with pytest.raises(Conflict, match="generation 1"):
            await store.begin(generation(1))


async def test_a_new_generation_is_filled_then_answers(store: IndexStore) -> None:
    old = [entry("a", "river mill"), entry("b", "town", "river mill")]
    await store.put(old)
    await store.begin(generation(2))
    assert (await store.active()).number == 1
    with pytest.raises(Conflict, match="3 chunks"):
        await store.activate(2)
    await store.put([entry("c", "horse", generations=(1, 2))])
    missing = await store.missing(2, 10)
    assert set(missing.values()) == {"river mill", "town"}
    assert set(missing) == {chunk.sha256 for e in old for chunk in e.chunks}
    assert len(await store.missing(2, 1)) == 1
    filled = await store.fill(2, {sha: vector(text, seed=2) for sha, text in missing.items()})
    assert filled == 3
    assert await store.missing(2, 10) == {}
    before = await store.nearest(2, vector("town", seed=2), 1, ALL)
    assert before.passages[0].chunk.text == "town"
    await store.activate(2)
    assert await store.active() == generation(2)
    await store.put([entry("d", "barn", generations=(2,))])
    with pytest.raises(Conflict, match="1 chunk"):
        await store.activate(1)
    with pytest.raises(Conflict, match="active"):
        await store.drop(2)
    await store.drop(1)
    assert await store.generations() == [generation(2)]
    with pytest.raises(NotFound):
        await store.nearest(1, vector("town"), 1, ALL)
    with pytest.raises(Conflict):
        await store.begin(generation(1))
    assert await store.check() == []


async def test_vectors_of_the_same_text_are_found(store: IndexStore) -> None:
    one = entry("a", "river mill", "town")
    await store.put([one])
    shas = [chunk.sha256 for chunk in one.chunks]
    found = await store.vectors_of(1, [*shas, "00" * 32])
    assert found == {shas[0]: vector("river mill"), shas[1]: vector("town")}


async def test_a_vector_of_the_wrong_size_is_not_filled(store: IndexStore) -> None:
    await store.put([entry("a", "river")])
    await store.begin(generation(2, dimensions=8))
    with pytest.raises(InvalidParameter, match="vector"):
        await store.fill(2, dict.fromkeys(await store.missing(2, 5), b"\x00" * 8))


# --- upkeep ---------------------------------------------------------------------------------------


async def test_after_a_purge_all_is_as_before(store: IndexStore) -> None:
    draws = random.Random(7)
    await store.put([entry(f"d{i}", passage(draws), passage(draws)) for i in range(50)])
    await store.remove([f"d{i}" for i in range(0, 50, 3)])
    words = await store.keyword("harvest storm", 10, ALL)
    close = await store.nearest(1, vector("harvest storm"), 10, ALL)
    await store.purge()
    assert await store.keyword("harvest storm", 10, ALL) == words
    assert await store.nearest(1, vector("harvest storm"), 10, ALL) == close
    await store.put([entry("new", "harvest storm")])
    assert "new" in await ids(store, "harvest storm", k=50)
    assert await store.check() == []


async def test_a_closed_store_says_so(kind: str, tmp_path: Path) -> None:
    async with begun(kind, tmp_path) as store:
        pass
    with pytest.raises(StoreUnavailable):
        await store.put([entry("a", "river")])
    with pytest.raises(StoreUnavailable):
        await store.keyword("river", 1, ALL)
