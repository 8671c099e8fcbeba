"""A filter in SQL lets through what the plain evaluator does, document by document."""

import asyncio
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.retrieval.contracts import Entry, Scope
from headrace.retrieval.stores import filters
from headrace.retrieval.stores.postgres import PostgresStore
from headrace.types import SourceDocument
from headrace.types.retrieval import AllOf, AnyOf, Compare, Filter, Not, OneOf, Where
from index_postgres import opened_postgres

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
NUMBERS = st.one_of(
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e23, 2.0**53, 2**53 + 1, 0.1, 5e-324, 1.5]),
)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
NAMES = st.one_of(st.sampled_from(["a", "b", "a.b", "$", "title", "modified_s", "id"]), TEXTS)
OWN = ("id", "source", "title", "media_type", "modified_s")
METADATA = st.dictionaries(NAMES.filter(lambda name: name not in OWN), SCALARS, max_size=4)
DOCUMENTS = st.builds(
    lambda metadata, title, modified_s: (metadata, title, modified_s),
    METADATA,
    TEXTS,
    st.sampled_from([0.0, 1.0, 1.5, 1e9]),
)
ORDERED = [Compare.LT, Compare.LE, Compare.GT, Compare.GE]
WHERE = st.one_of(
    st.builds(
        lambda n, c, v: Where(field=n, compare=c, value=v),
        NAMES,
        st.sampled_from([Compare.EQ, Compare.NE]),
        SCALARS,
    ),
    st.builds(
        lambda n, c, v: Where(field=n, compare=c, value=v),
        NAMES,
        st.sampled_from(ORDERED),
        st.one_of(TEXTS, NUMBERS),
    ),
    st.builds(lambda n, v: Where(field=n, compare=Compare.PREFIX, value=v), NAMES, TEXTS),
    st.builds(lambda n, v: OneOf(field=n, values=tuple(v)), NAMES, st.lists(SCALARS, max_size=3)),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    WHERE,
    lambda inner: st.one_of(
        st.builds(lambda parts: AllOf(filters=tuple(parts)), st.lists(inner, max_size=3)),
        st.builds(lambda parts: AnyOf(filters=tuple(parts)), st.lists(inner, max_size=3)),
        st.builds(lambda part: Not(filter=part), inner),
    ),
    max_leaves=5,
)


def test_filters_mean_in_sql_what_they_mean(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        context = opened_postgres(tmp_path)
        store = runner.run(context.__aenter__())
        try:
            _explore(runner, store)
        finally:
            runner.run(context.__aexit__(None, None, None))


def _explore(runner: asyncio.Runner, store: PostgresStore) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(DOCUMENTS, min_size=1, max_size=5), st.lists(FILTERS, min_size=4, max_size=8))
    def examine(
        made: list[tuple[dict[str, str | int | float | bool], str, float]], asked: list[Filter]
    ) -> None:
        documents = [
            SourceDocument(id=f"d{i}", text="", title=title, modified_s=at, metadata=metadata)
            for i, (metadata, title, at) in enumerate(made)
        ]
        runner.run(_compare(store, documents, asked))

    examine()


async def _compare(
    store: PostgresStore, documents: list[SourceDocument], asked: list[Filter]
) -> None:
    await store.remove([f"d{i}" for i in range(5)])
    await store.put([Entry(document=one, chunks=(), vectors={}) for one in documents])
    for filter in asked:
        found = [row async for row in store.documents(Scope(principals=None, filter=filter))]
        expected = [one for one in documents if filters.holds(filter, one)]
        assert [row.id for row in found] == [one.id for one in expected], filter
        kept = [list(map(repr, sorted(row.metadata.items()))) for row in found]
        assert kept == [list(map(repr, sorted(one.metadata.items()))) for one in expected]
