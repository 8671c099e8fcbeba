"""Where a question's terms stand → how well each passage answers it in words.

Shape suffixes as in `terms`. All measures but the first lie between 0 and 1, and none depends on
the order of the passages.
"""

from dataclasses import dataclass

import numpy as np

from headrace.retrieval.ranking.terms import Floats, Places, Question

K1, B = 1.2, 0.75
"""Robertson & Zaragoza, "The Probabilistic Relevance Framework", 2009; what FTS5 uses too."""
SPAN = 24
"""Words of a window: about a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lexical:
    """What the words of each passage say."""

    bm25_N: Floats
    coverage_N: Floats
    """Share of the question's weight that stands anywhere in it."""
    span_N: Floats
    """The most of it that stands in one window."""
    pairs_N: Floats
    """Share of the pairs of terms that follow each other as in the question."""
    near_N: Floats
    """Weight of the terms that stand beside another term, over all."""
    rare_N: Floats
    """Share of the rarest third of the terms."""
    marked_N: Floats
    """Share of names, codes and numbers; 0 where the question has none."""
    early_N: Floats
    """1 = the first term stands at the very start, 0 = there is none."""


def rarity(count_T: Floats, total: int) -> Floats:
    """Weight of terms that stand in so many of `total` passages: the idf of BM25, never below 0."""
    return np.log1p((total - count_T + 0.5) / (count_T + 0.5))


def lexical(asked: Question, found: Places, idf_T: Floats, mean_length: float) -> Lexical:
    """Measure every passage.

    Args:
        idf_T: Weight of each term.
        mean_length: Words of a passage on average.
    """
    present_NT = found.count_NT > 0
    weight = float(idf_T.sum()) or 1.0
    rare_T = _rarest(idf_T)
    marked_T = np.array(asked.marked, bool)
    return Lexical(
        bm25_N=bm25(found, idf_T, mean_length),
        coverage_N=present_NT @ idf_T / weight,
        span_N=_best(found, _spans(found, idf_T)) / weight,
        pairs_N=_pairs(asked, found, idf_T),
        near_N=_near(found, idf_T) / weight,
        rare_N=_share(present_NT, idf_T * rare_T),
        marked_N=_share(present_NT, idf_T * marked_T),
        early_N=_best(found, 1.0 / (1.0 + found.place_E / SPAN)),
    )


def bm25(found: Places, idf_T: Floats, mean_length: float) -> Floats:
    length_N = K1 * (1 - B + B * found.length_N / max(mean_length, 1.0))
    return (found.count_NT * (K1 + 1) / (found.count_NT + length_N[:, None])) @ idf_T


def _rarest(idf_T: Floats) -> Floats:
    """Marks the third of the terms, at least one, that weighs most."""
    count = -(-len(idf_T) // 3)
    return (idf_T >= np.sort(idf_T)[::-1][:count].min(initial=np.inf)).astype(np.float64)


def _share(present_NT: np.ndarray, weight_T: Floats) -> Floats:
    return present_NT @ weight_T / (float(weight_T.sum()) or 1.0)


def _best(found: Places, value_E: Floats) -> Floats:
    """The largest of each passage's places; 0 where it has none."""
    best_N = np.zeros(found.passages)
    np.maximum.at(best_N, found.passage_E, value_E)
    return best_N


def _spans(found: Places, idf_T: Floats) -> Floats:
    """Weight of the terms in the window that begins at each place."""
    return (found.next_ET - found.place_E[:, None] < SPAN) @ idf_T


def _pairs(asked: Question, found: Places, idf_T: Floats) -> Floats:
    if not asked.pairs:
        return np.zeros(found.passages)
    first, second, gap = np.array(asked.pairs).T
    distance_EP = found.next_ET[:, second] - found.place_E[:, None]
    hit_EP = (found.term_E[:, None] == first) & (distance_EP <= gap) & (distance_EP > 0)
    any_NP = np.zeros((found.passages, len(first)), bool)
    np.logical_or.at(any_NP, found.passage_E, hit_EP)
    weight_P = np.minimum(idf_T[first], idf_T[second])
    return _share(any_NP, weight_P)


def _near(found: Places, idf_T: Floats) -> Floats:
    """Each term counts once, with what stands next to it: 1 beside, 1/4 two words off, ... ."""
    best_NT = np.zeros_like(found.count_NT)
    if len(found.place_E) < 2:
        return best_NT @ idf_T
    gap = np.diff(found.place_E)
    close = (np.diff(found.passage_E) == 0) & (np.diff(found.term_E) != 0)
    value = np.where(close, 1.0 / np.maximum(gap, 1) ** 2, 0.0)
    for side in (slice(None, -1), slice(1, None)):
        np.maximum.at(best_NT, (found.passage_E[side], found.term_E[side]), value)
    return best_NT @ idf_T
