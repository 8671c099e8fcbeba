"""Measures against closed forms, and the bootstrap against scipy and the textbook."""

import math

import numpy as np
import pytest
from scipy import stats

from headrace.errors import InvalidParameter
from headrace.retrieval.measures import (
    Verdict,
    compare,
    detectable,
    hit,
    ndcg,
    recall,
    reciprocal_rank,
    standard_error,
)


def test_ndcg_of_one_right_answer_is_its_discount() -> None:
    assert ndcg(["x", "a"], {"a": 1}) == pytest.approx(1 / math.log2(3))
    assert ndcg(["a"], {"a": 1}) == 1.0
    assert ndcg(["x"] * 10 + ["a"], {"a": 1}) == 0.0


def test_ndcg_of_grades() -> None:
    got = 1 + 7 / math.log2(3)
    assert ndcg(["a", "b"], {"a": 1, "b": 3}) == pytest.approx(got / (7 + 1 / math.log2(3)))


def test_nothing_relevant_measures_nothing() -> None:
    assert ndcg(["a"], {}) == 0.0
    assert recall(["a"], frozenset()) == 0.0


def test_hit_recall_and_reciprocal_rank() -> None:
    relevant = frozenset({"a", "b"})
    assert hit(["x", "a"], relevant, 1) == 0.0
    assert hit(["x", "a"], relevant, 2) == 1.0
    assert recall(["x", "a"], relevant) == 0.5
    assert reciprocal_rank(["x", "a", "b"], relevant) == 0.5
    assert reciprocal_rank(["x"], relevant) == 0.0


def test_a_depth_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="`k` is 0"):
        hit(["a"], frozenset({"a"}), 0)


def test_standard_error_of_single_questions_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert standard_error(values, list(range(50))) == pytest.approx(stats.sem(values), rel=1e-9)
    assert standard_error([1.0, 2.0], ["a", "a"]) == math.inf


def test_interval_is_that_of_scipy_where_questions_are_drawn_singly() -> None:
    draws = np.random.default_rng(1)
    difference = draws.normal(0.02, 0.1, 400)
    ours = compare(difference, np.zeros(400), list(range(400)), resamples=5000)
    theirs = stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=5000, rng=draws
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=1e-3)
    assert ours.high == pytest.approx(theirs.high, abs=1e-3)


def test_equal_questions_of_a_cluster_count_once() -> None:
    """Ten copies of each question are not ten questions: the interval stays as wide."""
    draws = np.random.default_rng(2)
    value = draws.normal(0.02, 0.1, 30)
    once = compare(value, np.zeros(30), list(range(30)))
    often = compare(np.repeat(value, 10), np.zeros(300), np.repeat(range(30), 10).tolist())
    singly = compare(np.repeat(value, 10), np.zeros(300), list(range(300)))
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)
    assert singly.high - singly.low < 0.5 * (often.high - often.low)
    assert often.detectable == pytest.approx(once.detectable)


def test_three_verdicts() -> None:
    clusters = list(range(100))
    near = np.random.default_rng(3).normal(0, 0.01, 100)
    zero = np.zeros(100)
    assert compare(near + 0.1, zero, clusters).verdict is Verdict.BETTER
    assert compare(near - 0.1, zero, clusters).verdict is Verdict.WORSE
    assert compare(near, near[::-1], clusters).verdict is Verdict.INCONCLUSIVE
    assert compare(near + 0.1, zero, clusters, margin=0.2).verdict is Verdict.WORSE


def test_detectable_difference_is_the_textbook_s() -> None:
    assert detectable(1.0) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [([1.0], [1.0, 2.0], "all three"), ([], [], "no question"), ([math.nan], [1.0], "question 0")],
)
def test_what_cannot_be_compared_is_refused(
    ours: list[float], theirs: list[float], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        compare(ours, theirs, list(range(len(ours))))
