"""Filters in SQL mean what `holds` says, for any filter and any documents."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.retrieval.contracts import Entry, Scope
from headrace.retrieval.stores.filters import holds, readable
from headrace.types.retrieval import AllOf, AnyOf, Compare, Filter, Not, OneOf, Scalar, Where
from index_stores import begun, entry

TEXTS = st.sampled_from(["", "a", "ab", "b", "é", "z'\"%_", "\ud7ff", "\U0010ffff", "1"])
NUMBERS = st.sampled_from([0, 1, -1, 2**53 + 1, 2**63 - 1, 0.5, 1.0, -1e300, 2.0**53])
SCALARS: st.SearchStrategy[Scalar] = st.one_of(TEXTS, NUMBERS, st.booleans())
FIELDS = st.sampled_from(["id", "source", "title", "modified_s", "x", "y", "m:x", "X"])
ORDERED = st.sampled_from([Compare.LT, Compare.LE, Compare.GT, Compare.GE])
ATOMS: st.SearchStrategy[Filter] = st.one_of(
    st.builds(
        Where, field=FIELDS, compare=st.sampled_from([Compare.EQ, Compare.NE]), value=SCALARS
    ),
    st.builds(Where, field=FIELDS, compare=ORDERED, value=st.one_of(TEXTS, NUMBERS)),
    st.builds(Where, field=FIELDS, compare=st.just(Compare.PREFIX), value=TEXTS),
    st.builds(OneOf, field=FIELDS, values=st.lists(SCALARS, max_size=3).map(tuple)),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    ATOMS,
    lambda parts: st.one_of(
        st.builds(AllOf, filters=st.lists(parts, max_size=3).map(tuple)),
        st.builds(AnyOf, filters=st.lists(parts, max_size=3).map(tuple)),
        st.builds(Not, filter=parts),
    ),
    max_leaves=6,
)
PEOPLE = st.frozensets(st.sampled_from(["ann", "bob", "eve"]), max_size=2)


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    return [
        entry(
            f"{draw(TEXTS)}{i}",
            "river",
            source=draw(TEXTS),
            title=draw(TEXTS),
            modified_s=draw(st.sampled_from([0.0, 0.5, 1.0, -1.0])),
            metadata=draw(st.dictionaries(st.sampled_from(["x", "y", "m:x"]), SCALARS)),
            readers=draw(st.none() | PEOPLE),
        )
        for i in range(draw(st.integers(1, 6)))
    ]


@given(entries(), entries(), st.lists(FILTERS, min_size=1, max_size=5), st.none() | PEOPLE)
@settings(max_examples=40, deadline=None)
def test_sql_means_what_python_says(
    first: list[Entry],
    later: list[Entry],
    filters: list[Filter],
    principals: frozenset[str] | None,
) -> None:
    async def run(directory: Path) -> None:
        async with begun("sqlite", directory) as store:
            there: dict[str, Entry] = {}
            for batch in (first, later):  # what was asked before is asked again of more
                await store.put(batch)
                there |= {e.document.id: e for e in batch}
                for filter in filters:
                    scope = Scope(principals=principals, filter=filter)
                    expected = {
                        e.document.id
                        for e in there.values()
                        if holds(filter, e.document) and readable(e.document.readers, principals)
                    }
                    found = await store.keyword("river", 50, scope)
                    assert {p.chunk.document for p in found.passages} == expected
                    assert found.matching == len(expected)
                    assert {row.id async for row in store.documents(scope)} == expected

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))
