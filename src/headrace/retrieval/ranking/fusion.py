"""A pool of candidates → one score each.

Invariants: scaling a list's scores by a positive number, or adding to them all, changes nothing; a
candidate that is better in a part and no worse in the others does not score less; with all weight
on one list the order is that list's.
"""

from dataclasses import dataclass

import numpy as np

from headrace.retrieval.ranking.learned import PARTS, Weigher
from headrace.retrieval.ranking.pool import Evidence, Listed, Pool
from headrace.retrieval.ranking.settings import Fusing, RankingSettings
from headrace.retrieval.ranking.signals import signals
from headrace.retrieval.ranking.terms import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Fused:
    score_N: Floats
    note: str
    """How it came about, as a sentence."""


def fuse(pool: Pool, found: Evidence, settings: RankingSettings, weigher: Weigher) -> Fused:
    """Score every candidate."""
    lacking = [
        what
        for what, listed in (("keyword", pool.keyword), ("vector", pool.vector))
        if not listed.present_N.any()
    ]
    if settings.fusing is Fusing.RRF:
        k = settings.rrf_k
        score_N = _by_rank(pool.keyword, k) + _by_rank(pool.vector, k)
        return Fused(score_N=score_N, note=f"fused by reciprocal ranks, k = {k}")
    if lacking or settings.fusing is Fusing.CONVEX:
        weight = settings.keyword_weight
        why = f"the {lacking[0]} list is empty; " if lacking else ""
        return Fused(
            score_N=weight * pool.keyword.scaled_N + (1 - weight) * pool.vector.scaled_N,
            note=f"{why}fused by fixed weights: keyword {weight:.2f}, vector {1 - weight:.2f}",
        )
    weight_P = weigher.weights(signals(pool, found))
    said = ", ".join(f"{part} {w:.2f}" for part, w in zip(PARTS, weight_P, strict=True))
    return Fused(score_N=parts(pool, found) @ weight_P, note=f"weighed for this question: {said}")


def parts(pool: Pool, found: Evidence) -> Floats:
    """What is weighed, one column each of `PARTS`, all between 0 and 1."""
    columns = (pool.keyword.scaled_N, pool.vector.scaled_N, found.words.pairs_N)
    return np.stack(columns, axis=1)


def ordered(score_N: Floats, pool: Pool) -> list[int]:
    """Best first; scores equal to nine places by document and ordinal, so that an order is one."""
    keys = [
        (-round(float(s), 9), p.chunk.document, p.chunk.ordinal)
        for s, p in zip(score_N, pool.passages, strict=True)
    ]
    return sorted(range(len(pool)), key=keys.__getitem__)


def _by_rank(listed: Listed, k: int) -> Floats:
    return np.where(listed.present_N, 1.0 / (k + 1.0 + listed.rank_N), 0.0)
