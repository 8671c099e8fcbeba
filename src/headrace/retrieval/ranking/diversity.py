"""Ranked passages → the same with less said twice, or with what is old further down."""

from collections.abc import Sequence

import numpy as np

from headrace.retrieval.ranking.features import recency
from headrace.retrieval.ranking.pool import Vectors
from headrace.retrieval.ranking.terms import Floats
from headrace.types import Passage


def spread(score_N: Floats, vectors_ND: Vectors, k: int, diversity: float) -> list[int]:
    """The first `k` by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998).

    Scores are scaled to 0..1, so that they weigh against cosines. The best comes first whatever it
    is like; with a diversity of 0 the order is that of the scores, ties by position.
    """
    span = float(np.ptp(score_N)) if len(score_N) else 0.0
    relevance_N = (score_N - score_N.min()) / span if span else np.ones(len(score_N))
    nearest_N = np.zeros(len(score_N))
    chosen: list[int] = []
    open_N = np.ones(len(score_N), bool)
    for _ in range(min(k, len(score_N))):
        value_N = (1 - diversity) * relevance_N - diversity * nearest_N
        best = int(np.argmax(np.where(open_N, value_N, -np.inf)))
        chosen.append(best)
        open_N[best] = False
        nearest_N = np.maximum(nearest_N, vectors_ND @ vectors_ND[best])
    return chosen


def faded(
    score_N: Floats, passages: Sequence[Passage], *, now_s: float, half_life_s: float, decay: float
) -> Floats:
    """Scores of which `decay` fades by half in each half-life; of undated passages it is gone.

    Scores are scaled to 0..1 first: what fades is a share of what sets passages apart.
    """
    low = score_N.min(initial=np.inf)
    span = float(np.ptp(score_N)) if len(score_N) else 0.0
    scaled_N = (score_N - low) / span if span else np.ones(len(score_N))
    age_N = np.array([recency(p, now_s, half_life_s) for p in passages])
    return scaled_N * (1 - decay + decay * age_N)
