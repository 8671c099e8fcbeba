"""A question and its two lists → numbers that tell which of them to trust.

Nothing here looks at a document that the lists do not have. The signals are of four kinds: how the
scores of each list fall, how far the lists agree, how rare the question's terms are and how many
of them the best passages hold, and what the question looks like.
"""

import numpy as np

from headrace.retrieval.ranking.pool import Evidence, Listed, Pool
from headrace.retrieval.ranking.terms import Floats

SIGNALS = (
    "keyword_gap",
    "keyword_tenth",
    "keyword_mean",
    "vector_gap",
    "vector_tenth",
    "vector_mean",
    "overlap",
    "vector_of_keyword_best",
    "keyword_of_vector_best",
    "coverage_of_keyword_best",
    "coverage_of_vector_best",
    "pairs_of_keyword_best",
    "span_of_keyword_best",
    "terms",
    "marked",
    "unknown",
    "rarest",
)
"""What `signals` returns, in order."""
_TOP = 10


def signals(pool: Pool, found: Evidence) -> Floats:
    """Measure one question; both lists must have something."""
    keyword_N, vector_N = pool.keyword.scaled_N, pool.vector.scaled_N
    best_keyword = int(np.argmin(pool.keyword.rank_N))
    best_vector = int(np.argmin(pool.vector.rank_N))
    in_keyword = pool.keyword.rank_N < _TOP
    in_vector = pool.vector.rank_N < _TOP
    present_T = (found.places.count_NT > 0).sum(axis=0)
    words, asked = found.words, found.question
    known_T = present_T[present_T > 0]
    return np.array(
        [
            *_fall(pool.keyword, keyword_N),
            *_fall(pool.vector, vector_N),
            float((in_keyword & in_vector).sum()) / _TOP,
            vector_N[best_keyword],
            keyword_N[best_vector],
            words.coverage_N[best_keyword],
            words.coverage_N[best_vector],
            words.pairs_N[best_keyword],
            words.span_N[best_keyword],
            float(np.log1p(len(asked.terms))),
            sum(asked.marked) / max(1, len(asked.terms)),
            float((present_T == 0).sum()) / max(1, len(asked.terms)),
            float(np.log((len(pool) + 1.0) / known_T.min())) if len(known_T) else 0.0,
        ]
    )


def _fall(listed: Listed, scaled_N: Floats) -> tuple[float, float, float]:
    """How far the second and the tenth lie below the first, and where the mean of all is."""
    in_order = np.sort(scaled_N[listed.present_N])[::-1]
    second, tenth = min(1, len(in_order) - 1), min(_TOP, len(in_order)) - 1
    return (1.0 - float(in_order[second]), 1.0 - float(in_order[tenth]), float(in_order.mean()))
