"""Candidates → the numbers that the ranker reads, one row a passage.

Every number is within one pool or within 0..1, never a raw score: BM25 and cosines mean something
else in every store and with every embedder.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from headrace.retrieval.ranking.pool import Evidence, Listed, Pool
from headrace.retrieval.ranking.terms import Floats, places
from headrace.types import Passage

FEATURES = (
    "fused",
    "keyword",
    "vector",
    "keyword_rank",
    "vector_rank",
    "bm25",
    "coverage",
    "span",
    "pairs",
    "near",
    "rare",
    "marked",
    "early",
    "title",
    "neighbours",
    "agreement",
    "opening",
    "length",
    "recency",
)
"""What `features` returns, in order."""
_LIKE = 5
"""Candidates that stand for what the question is about."""
_RANKS = 10.0


def features(pool: Pool, found: Evidence, fused_N: Floats, now_s: float) -> Floats:
    """One row a candidate, one column a feature."""
    words = found.words
    bm25 = words.bm25_N / (float(words.bm25_N.max(initial=0.0)) or 1.0)
    columns = (
        fused_N,
        pool.keyword.scaled_N,
        pool.vector.scaled_N,
        _by_rank(pool.keyword),
        _by_rank(pool.vector),
        bm25,
        words.coverage_N,
        words.span_N,
        words.pairs_N,
        words.near_N,
        words.rare_N,
        words.marked_N,
        words.early_N,
        _titles(pool, found),
        *_alike(pool, fused_N),
        np.array([1.0 / (1.0 + p.chunk.ordinal) for p in pool.passages]),
        np.tanh(np.log(found.places.length_N / found.places.length_N.mean())),
        np.array([recency(p, now_s) for p in pool.passages]),
    )
    return np.stack(columns, axis=1) if len(pool) else np.zeros((0, len(FEATURES)))


def named(row_F: Floats) -> Mapping[str, float]:
    """One row as it is explained."""
    return dict(zip(FEATURES, (float(value) for value in row_F), strict=True))


def recency(passage: Passage, now_s: float, half_life_s: float = 365 * 86_400.0) -> float:
    """1 = changed now, 1/2 = a half-life ago; 0 where it is not known."""
    if not passage.modified_s:
        return 0.0
    return math.exp2(-max(0.0, now_s - passage.modified_s) / half_life_s)


def _by_rank(listed: Listed) -> Floats:
    return np.where(listed.present_N, _RANKS / (_RANKS + listed.rank_N), 0.0)


def _titles(pool: Pool, found: Evidence) -> Floats:
    """Share of the question's weight that stands in the title and the headings."""
    titles = ["\n".join((p.title, *p.chunk.headings)) for p in pool.passages]
    if not any(titles):
        return np.zeros(len(pool))
    present_NT = places(found.question, titles).count_NT > 0
    return present_NT @ found.idf_T / (float(found.idf_T.sum()) or 1.0)


def _alike(pool: Pool, fused_N: Floats) -> tuple[Floats, Floats]:
    """How near each lies to the best few, and to them all by their scores.

    A passage does not count as its own neighbour. Without vectors both are 0.
    """
    nothing = np.zeros(len(pool))
    if pool.vectors_ND is None or len(pool) < 2:
        return nothing, nothing
    alike_NN = pool.vectors_ND @ pool.vectors_ND.T
    np.fill_diagonal(alike_NN, 0.0)
    best = np.argsort(-fused_N, kind="stable")[:_LIKE]
    own_N = np.isin(np.arange(len(pool)), best)
    near_N = alike_NN[:, best].sum(axis=1) / np.maximum(1, len(best) - own_N)
    weight_N = np.exp(4.0 * (fused_N - fused_N.max()))
    all_N = alike_NN @ weight_N / np.maximum(1e-9, weight_N.sum() - weight_N)
    return _scaled(near_N), _scaled(all_N)


def _scaled(value_N: NDArray[np.floating]) -> Floats:
    low, high = float(value_N.min()), float(value_N.max())
    return ((value_N - low) / (high - low) if high > low else np.zeros(len(value_N))).astype(float)
