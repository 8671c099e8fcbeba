"""Rankings beside judgements → nDCG, hits, recall, reciprocal rank; two systems → a verdict.

nDCG has gains 2^g - 1 and discounts log2(rank + 1) (Burges et al. 2005; with one grade it is that
of Järvelin & Kekäläinen 2002). Differences are of the same questions, and questions of one article
or one file are no independent draws: the bootstrap draws clusters, not questions (Field & Welsh,
J. R. Statist. Soc. B 69, 2007). Measured: drawn singly, a difference of .005 looked certain that
was not.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headrace.errors import InvalidParameter

Floats = NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)
"""Of what is ranked."""
_AT_ONCE = 1 << 22
"""Drawn numbers of a bootstrap that are held at once."""


def ndcg(ranking: Sequence[Name], grades: Mapping[Name, float], k: int = 10) -> float:
    """Discounted gain of the first `k`, over that of the best ranking there could be; 0..1.

    What has no grade gains nothing; where nothing has one, the measure is 0.
    """
    best = _gain(sorted((g for g in grades.values() if g > 0), reverse=True)[: _checked(k)])
    return _gain([grades.get(name, 0.0) for name in ranking[:k]]) / best if best else 0.0


def _gain(grades: Sequence[float]) -> float:
    return sum(
        (2.0 ** max(grade, 0.0) - 1.0) / math.log2(rank + 2) for rank, grade in enumerate(grades)
    )


def hit(ranking: Sequence[Name], relevant: frozenset[Name], k: int = 10) -> float:
    """1 = one of the relevant is among the first `k`."""
    return float(any(name in relevant for name in ranking[: _checked(k)]))


def recall(ranking: Sequence[Name], relevant: frozenset[Name], k: int = 10) -> float:
    """Share of the relevant among the first `k`; 0 where nothing is relevant."""
    found = len(relevant & set(ranking[: _checked(k)]))
    return found / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[Name], relevant: frozenset[Name], k: int = 10) -> float:
    """1 over the rank of the first relevant one, 0 where none is among the first `k`."""
    places = (at for at, name in enumerate(ranking[: _checked(k)]) if name in relevant)
    return 1.0 / (1 + next(places, math.inf))


def _checked(k: int) -> int:
    if k < 1:
        raise InvalidParameter(f"`k` is {k}; a ranking is measured to depth 1 or more", param="k")
    return k


class Verdict(StrEnum):
    BETTER = "better"
    """The whole interval lies above the margin."""
    WORSE = "worse"
    """The whole interval lies below it."""
    INCONCLUSIVE = "inconclusive"
    """It has both: more questions, or more clusters, are needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One system less another, over the same questions."""

    difference: float
    """Mean over questions."""
    low: float
    high: float
    """Of the interval, both clustered."""
    confidence: float
    questions: int
    clusters: int
    margin: float
    """What the difference is held against."""
    detectable: float
    """The smallest difference from the margin that so many clusters show in 4 of 5 trials."""

    @property
    def verdict(self) -> Verdict:
        if self.low > self.margin:
            return Verdict.BETTER
        return Verdict.WORSE if self.high < self.margin else Verdict.INCONCLUSIVE


def compare(
    ours: ArrayLike,
    theirs: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by a paired bootstrap over clusters of questions.

    Args:
        ours: One number a question.
        theirs: Of the other system, in the same order.
        clusters: What each question belongs to; all different = questions are drawn singly.
        margin: "Better" is by more than this.
        seed: Equal seeds draw the same.

    Raises:
        InvalidParameter: Lengths differ, there is nothing to compare, or a number is none.
    """
    difference = _differences(ours, theirs, clusters)
    if not 0 < confidence < 1:
        raise InvalidParameter(f"`confidence` is {confidence}; it lies between 0 and 1")
    if resamples < 100:
        raise InvalidParameter(f"`resamples` is {resamples}; an interval needs 100 or more")
    sum_C, count_C = _per_cluster(difference, clusters)
    mean = float(difference.mean())
    drawn = _bootstrap(sum_C, count_C, resamples, seed)
    tail = 50.0 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Comparison(
        difference=mean,
        low=float(low),
        high=float(high),
        confidence=confidence,
        questions=len(difference),
        clusters=len(sum_C),
        margin=margin,
        detectable=detectable(standard_error(difference, clusters), confidence=confidence),
    )


def standard_error(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """Of the mean of values whose clusters are independent, but not what is within one.

    The linearised ratio estimator (Cochran, Sampling Techniques, 1977, 6.3), with C / (C - 1); for
    clusters of one value it is that of the mean. Infinite where there is one cluster only.
    """
    value = np.asarray(values, np.float64)
    sum_C, count_C = _per_cluster(value, clusters)
    if len(sum_C) < 2:
        return math.inf
    residual_C = sum_C - value.mean() * count_C
    scale = len(sum_C) / (len(sum_C) - 1)
    return math.sqrt(scale * float(residual_C @ residual_C)) / len(value)


def detectable(error: float, *, confidence: float = 0.95, power: float = 0.8) -> float:
    """The difference that a test of this standard error finds with this probability."""
    return (_quantile(0.5 + confidence / 2) + _quantile(power)) * error


def _quantile(probability: float) -> float:
    """Of the standard normal distribution."""
    return NormalDist().inv_cdf(probability)


def _differences(ours: ArrayLike, theirs: ArrayLike, clusters: Sequence[Hashable]) -> Floats:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if not len(a) == len(b) == len(clusters):
        raise InvalidParameter(
            f"{len(a)} and {len(b)} numbers of {len(clusters)} questions; all three must be equal"
        )
    if not len(a):
        raise InvalidParameter("there is no question to compare on")
    difference = a - b
    if not np.isfinite(difference).all():
        at = int(np.flatnonzero(~np.isfinite(difference))[0])
        raise InvalidParameter(f"question {at} has {a[at]} and {b[at]}: not both are numbers")
    return difference


def _per_cluster(value: Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sum and number of the values of each cluster."""
    numbers: dict[Hashable, int] = {}
    at = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], np.int64)
    return np.bincount(at, value).astype(np.float64), np.bincount(at).astype(np.float64)


def _bootstrap(sum_C: Floats, count_C: Floats, resamples: int, seed: int) -> Floats:
    """Means of as many clusters drawn with replacement, each weighed by its questions."""
    draws, clusters = np.random.default_rng(seed), len(sum_C)
    means: list[Floats] = []
    for begin in range(0, resamples, rows := max(1, _AT_ONCE // clusters)):
        picked = draws.integers(0, clusters, (min(rows, resamples - begin), clusters))
        means.append(sum_C[picked].sum(axis=1) / count_C[picked].sum(axis=1))
    return np.concatenate(means)
