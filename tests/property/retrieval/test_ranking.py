"""Words found fast are those found slowly; fusion keeps what it promises."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.retrieval.measures import ndcg
from headrace.retrieval.ranking.diversity import spread
from headrace.retrieval.ranking.fusion import fuse, ordered
from headrace.retrieval.ranking.learned import shipped
from headrace.retrieval.ranking.pool import Pool, evidence, pooled
from headrace.retrieval.ranking.settings import Fusing, RankingSettings
from headrace.retrieval.ranking.terms import places, question, stem, words
from headrace.types import Chunk, Integrity, Passage

WORDS = ("relation", "relational", "relate", "possibility", "possible", "get_type", "Zürich", "cat")
texts = st.lists(
    st.lists(st.sampled_from([*WORDS, "the", "–", "cats,", "x1"]), max_size=12).map(" ".join),
    min_size=1,
    max_size=6,
)
scores = st.lists(st.integers(0, 50), min_size=1, max_size=12)


@given(texts, st.one_of(st.sampled_from(WORDS), st.lists(st.sampled_from(WORDS)).map(" ".join)))
def test_places_are_those_of_the_slow_way(passages: list[str], query: str) -> None:
    asked = question(query)
    found = places(asked, passages)
    for row, text in zip(found.count_NT, passages, strict=True):
        stems = [stem(word) for word in words(text)]
        assert row.tolist() == [stems.count(term) for term in asked.terms]
    for passage, place, term in zip(found.passage_E, found.place_E, found.term_E, strict=True):
        assert stem(words(passages[passage])[place]) == asked.terms[term]


@given(st.text(max_size=40), st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_text_is_read(query: str, passages: list[str]) -> None:
    found = evidence(query, passages)
    for measure in (found.words.coverage_N, found.words.span_N, found.words.pairs_N):
        assert ((measure >= 0) & (measure <= 1 + 1e-9)).all()


def passage(at: int, score: float) -> Passage:
    chunk = Chunk(document=f"d{at:02}", ordinal=0, start=0, end=3, text="cat")
    return Passage(
        chunk=chunk,
        title="",
        source="",
        modified_s=0.0,
        integrity=Integrity.UNTRUSTED,
        metadata={},
        score=score,
    )


def pool(keyword: list[float], vector: list[float]) -> Pool:
    lists = [
        sorted((passage(at, score) for at, score in enumerate(each)), key=lambda p: -p.score)
        for each in (keyword, vector)
    ]
    return pooled(*lists)


def by_document(found: Pool, settings: RankingSettings) -> dict[str, float]:
    read = evidence("cat", ["cat"] * len(found))
    score_N = fuse(found, read, settings, shipped().weigher).score_N
    return {p.chunk.document: float(s) for p, s in zip(found.passages, score_N, strict=True)}


@given(scores, scores, st.integers(1, 9), st.integers(-20, 20), st.sampled_from(Fusing))
def test_scaling_or_shifting_a_list_changes_nothing(
    keyword: list[int], vector: list[int], times: int, more: int, fusing: Fusing
) -> None:
    settings = RankingSettings(fusing=fusing)
    plain = by_document(pool([*map(float, keyword)], [*map(float, vector)]), settings)
    moved = by_document(pool([times * k + more for k in keyword], [*map(float, vector)]), settings)
    assert plain.keys() == moved.keys()
    assert np.allclose([plain[d] for d in plain], [moved[d] for d in plain])


@given(scores, scores)
def test_all_weight_on_one_list_is_its_order(keyword: list[int], vector: list[int]) -> None:
    found = pool([*map(float, keyword)], [*map(float, vector)])
    settings = RankingSettings(fusing=Fusing.CONVEX, keyword_weight=1.0)
    scored = by_document(found, settings)
    listed = {f"d{at:02}": score for at, score in enumerate(keyword)}
    for a, first in listed.items():
        for b, second in listed.items():
            assert first <= second or scored[a] > scored[b]


@given(scores)
def test_equal_scores_are_ordered_by_name(values: list[int]) -> None:
    found = pool([*map(float, values)], [])
    order = ordered(np.zeros(len(found)), found)
    names = [found.passages[at].chunk.document for at in order]
    assert names == sorted(names)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_without_diversity_the_order_is_the_scores(values: list[float]) -> None:
    vectors = np.eye(len(values), dtype=np.float32)
    order = spread(np.array(values), vectors, len(values), 0.0)
    assert [values[at] for at in order] == sorted(values, reverse=True)


@given(st.lists(st.integers(0, 30), unique=True, max_size=12), st.sets(st.integers(0, 30)))
def test_ndcg_lies_between_0_and_1_and_gains_by_what_is_better(
    ranking: list[int], right: set[int]
) -> None:
    grades = dict.fromkeys(right, 1.0)
    best = sorted(ranking, key=lambda at: at not in right)
    assert 0 <= ndcg(ranking, grades) <= ndcg(best, grades) <= 1 + 1e-12
