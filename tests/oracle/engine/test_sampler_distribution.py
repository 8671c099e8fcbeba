"""The sampler against a slow, obvious float64 twin: chi-square over the exact distribution."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from arithmetics import draw, params
from headrace.engine.draws import philox, uniform
from headrace.engine.sampler import History, Sampled, SampleRow
from headrace.types import SamplingParams

DRAWS = 4000
SIGNIFICANCE = 1e-4
PROMPT = (0, 3, 3, 5)
COMPLETION = (1, 1, 1, 2, 5)
END_IDS = (4, 6)
LOGITS = (1.5, -0.5, 0.0, 2.0, 0.7, -3.0, 1.5, 0.2, -1.0, 1.1, 0.9)


def exact(logits: list[float], sampling: SamplingParams, position: int) -> list[float]:
    """The distribution that `SamplingParams` describes, one token and one rule at a time."""
    scores = [float(np.float32(x)) for x in logits]
    vocab = range(len(scores))
    for token, bias in sampling.logit_bias:
        scores[token] += bias
    for token in set(PROMPT) | set(COMPLETION):
        if scores[token] > 0:
            scores[token] /= sampling.repetition_penalty
        else:
            scores[token] *= sampling.repetition_penalty
    for token, count in Counter(COMPLETION).items():
        scores[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
    if position < sampling.min_tokens:
        for token in END_IDS:
            scores[token] = -math.inf
    order = sorted(vocab, key=lambda token: (-scores[token], token))
    if sampling.temperature == 0:
        return [float(token == order[0]) for token in vocab]
    weights = [math.exp((x - max(scores)) / sampling.temperature) for x in scores]
    if sampling.top_k:
        for token in order[sampling.top_k :]:
            weights[token] = 0.0
    total, before = sum(weights), 0.0
    kept = list[int]()
    for token in order:
        if not kept or before < sampling.top_p * total:
            kept.append(token)
        before += weights[token]
    if sampling.top_p >= 1:
        kept = order
    weights = [
        w if token in kept and w >= sampling.min_p else 0.0 for token, w in enumerate(weights)
    ]
    return [w / sum(weights) for w in weights]


def drawn(
    how: str, sampling: SamplingParams, *, logits: tuple[float, ...] = LOGITS, seed: int = 7
) -> Counter[int]:
    history = History.of(sampling, PROMPT)
    if history is not None:
        for token in COMPLETION:
            history.push(token)
    rows = [
        SampleRow(
            sampling=sampling,
            seed=seed + i,
            choice=i % 3,
            position=len(COMPLETION),
            history=history,
            end_ids=END_IDS,
        )
        for i in range(DRAWS)
    ]
    outcomes = draw(how, torch.tensor(logits).expand(DRAWS, -1).contiguous(), rows)
    return Counter(outcome.token for outcome in outcomes if isinstance(outcome, Sampled))


def assert_fits(counts: Counter[int], distribution: list[float]) -> None:
    assert sum(counts.values()) == DRAWS
    support = [token for token, p in enumerate(distribution) if p > 0]
    assert set(counts) <= set(support), "a token outside the support was drawn"
    expected = sorted((DRAWS * distribution[token], counts[token]) for token in support)
    # Chi-square needs about five expected in a cell: pool the rarest.
    cells: list[list[float]] = [[0.0, 0.0]]
    for want, got in expected:
        if cells[-1][0] >= 5:
            cells.append([0.0, 0.0])
        cells[-1][0] += want
        cells[-1][1] += got
    if cells[-1][0] < 5 and len(cells) > 1:
        last = cells.pop()
        cells[-1] = [cells[-1][0] + last[0], cells[-1][1] + last[1]]
    if len(cells) == 1:
        return
    p_value = stats.chisquare([got for _, got in cells], [want for want, _ in cells]).pvalue
    assert p_value > SIGNIFICANCE, (p_value, counts, distribution)


FIXED = {
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.3),
    "hot": SamplingParams(temperature=2.5),
    "tiny temperature": SamplingParams(temperature=1e-30),
    "greedy": SamplingParams(temperature=0.0),
    "top_k": SamplingParams(top_k=4),
    "top_k in a tie": SamplingParams(top_k=2),
    "top_k of everything": SamplingParams(top_k=len(LOGITS)),
    "top_k beyond the vocabulary": SamplingParams(top_k=1000),
    "top_p": SamplingParams(top_p=0.6),
    "top_p small": SamplingParams(top_p=0.01),
    "top_p zero": SamplingParams(top_p=0.0),
    "min_p": SamplingParams(min_p=0.2),
    "min_p one": SamplingParams(min_p=1.0),
    "frequency": SamplingParams(frequency_penalty=1.3),
    "frequency negative": SamplingParams(frequency_penalty=-0.7),
    "presence": SamplingParams(presence_penalty=1.9),
    "repetition": SamplingParams(repetition_penalty=1.7),
    "repetition below one": SamplingParams(repetition_penalty=0.6),
    "bias": SamplingParams(logit_bias=((2, 1.5), (3, -100.0), (5, 4.0))),
    "bias twice on a token": SamplingParams(logit_bias=((2, 1.0), (2, 0.5))),
    "min_tokens not reached": SamplingParams(min_tokens=9),
    "min_tokens reached": SamplingParams(min_tokens=5),
    "top_k, top_p": SamplingParams(top_k=5, top_p=0.8),
    "top_k, min_p": SamplingParams(top_k=6, min_p=0.3),
    "top_p, min_p": SamplingParams(top_p=0.9, min_p=0.25),
    "qwen3's own": SamplingParams(temperature=0.6, top_k=20, top_p=0.95),
    "penalties, greedy": SamplingParams(
        temperature=0.0, repetition_penalty=1.9, presence_penalty=0.5, frequency_penalty=0.5
    ),
    "all": SamplingParams(
        temperature=1.4,
        top_k=8,
        top_p=0.93,
        min_p=0.05,
        frequency_penalty=0.4,
        presence_penalty=-0.3,
        repetition_penalty=1.2,
        logit_bias=((8, 2.0), (1, -1.0)),
        min_tokens=6,
    ),
}


@pytest.mark.parametrize("how", params())
@pytest.mark.parametrize("sampling", FIXED.values(), ids=FIXED.keys())
def test_fixed_parameters(how: str, sampling: SamplingParams) -> None:
    assert_fits(drawn(how, sampling), exact(list(LOGITS), sampling, len(COMPLETION)))


@pytest.mark.parametrize("how", params())
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sampling=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.4, 0.9, 1.0, 1.7]),
        # Not values whose cumulative sums could fall on the threshold itself: that is a test of
        # rounding, and has its own below.
        top_p=st.sampled_from([1.0, 0.971, 0.83, 0.517, 0.21]),
        top_k=st.integers(0, 12),
        min_p=st.sampled_from([0.0, 0.013, 0.117, 0.531]),
        frequency_penalty=st.sampled_from([0.0, -0.61, 0.37, 1.93]),
        presence_penalty=st.sampled_from([0.0, -0.83, 1.21]),
        repetition_penalty=st.sampled_from([1.0, 0.77, 1.31]),
        logit_bias=st.lists(
            st.tuples(st.integers(0, 10), st.sampled_from([-100.0, -1.03, 0.57, 2.11])), max_size=3
        ).map(tuple),
        min_tokens=st.sampled_from([0, 9]),
    ),
    seed=st.integers(-(2**70), 2**70),
)
def test_combinations(how: str, sampling: SamplingParams, seed: int) -> None:
    assert_fits(drawn(how, sampling, seed=seed), exact(list(LOGITS), sampling, len(COMPLETION)))


@pytest.mark.parametrize("how", params())
@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 2), (0.51, 3), (0.75, 3), (0.25, 1), (0.2, 1)])
def test_top_p_keeps_the_token_that_crosses(how: str, top_p: float, kept: int) -> None:
    """Four equal tokens: 0.25 each is exact, so the threshold itself is tested, and ties by id."""
    logits = (1.0, 1.0, 1.0, 1.0, -1e30, -1e30, -1e30)
    counts = drawn(how, SamplingParams(top_p=top_p), logits=logits)
    assert set(counts) == set(range(kept))


@pytest.mark.parametrize("how", params())
def test_top_p_over_many_tokens(how: str) -> None:
    """Ten thousand equal tokens: far more than are simply sorted, the threshold exact again."""
    logits_V = torch.zeros(20_000)
    logits_V[10_000:] = -1e30
    rows = [
        SampleRow(sampling=SamplingParams(top_p=0.35), seed=seed, choice=0, position=0)
        for seed in range(400)
    ]
    outcomes = draw(how, logits_V.expand(400, -1).contiguous(), rows)
    tokens = [outcome.token for outcome in outcomes if isinstance(outcome, Sampled)]
    assert len(tokens) == 400
    assert max(tokens) < 3500
    assert stats.kstest([token / 3500 for token in tokens], "uniform").pvalue > SIGNIFICANCE


def test_philox_is_numpys() -> None:
    for counter, key in (
        ((5, 0, 0, 0), (7, 0)),
        ((2**64 - 2, 3, 9, 2**64 - 1), (2**63 + 11, 2**64 - 1)),
        ((1, 2, 3, 4), (0, 0)),
    ):
        # numpy adds one to the counter before its first block
        start = sum(word << (64 * i) for i, word in enumerate(counter)) - 1
        oracle = np.random.Philox(counter=start, key=key[0] | key[1] << 64)
        assert philox(counter, key) == tuple(int(word) for word in oracle.random_raw(4))


def test_uniform_is_uniform_along_every_axis() -> None:
    for axis in ("seed", "choice", "position"):
        numbers = [uniform(**{"seed": 1, "choice": 2, "position": 3, axis: i}) for i in range(5000)]
        assert stats.kstest(numbers, "uniform").pvalue > SIGNIFICANCE
        lag = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
        assert abs(lag) < 4 / math.sqrt(5000)
