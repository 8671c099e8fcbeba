"""Edges of the sampler: faults that stay in their row, ties, log-probabilities, limits."""

import math

import pytest
import torch

from arithmetics import arithmetic, params
from headrace.engine import sampler, sampler_torch
from headrace.engine.sampler import (
    History,
    Sampled,
    SampleRow,
    Unsampled,
    check_sampling,
    prompt_logprobs,
    sample,
)
from headrace.errors import InvalidParameter, ServiceError
from headrace.types import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(autouse=True, params=params())
def _each_arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(logits_RV: torch.Tensor, pool: object = None) -> sampler.Arithmetic:
        return arithmetic(request.param)

    monkeypatch.setattr(sampler, "arithmetic_for", chosen)


def row(sampling: SamplingParams, **more: object) -> SampleRow:
    return SampleRow(**{"sampling": sampling, "seed": 1, "choice": 0, "position": 0, **more})  # pyright: ignore[reportArgumentType]


def token(outcome: object) -> int:
    assert isinstance(outcome, Sampled), outcome
    return outcome.token


def test_no_rows() -> None:
    assert sample(torch.zeros(0, 5), []) == []


def test_greedy_takes_the_lowest_id_of_a_tie() -> None:
    logits_RV = torch.tensor([[0.0, 3.0, 3.0, 1.0], [-0.0, 0.0, -1.0, -1.0]])
    assert [token(x) for x in sample(logits_RV, [row(GREEDY)] * 2)] == [1, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "sampling",
    [GREEDY, SamplingParams(), SamplingParams(top_p=0.5, logprobs=2), SamplingParams(top_k=2)],
)
def test_a_row_with_bad_logits_fails_alone(bad: float, sampling: SamplingParams) -> None:
    good_RV = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    bad_RV = good_RV.clone()
    bad_RV[1, 4] = bad
    rows = [row(sampling, seed=i) for i in range(3)]
    got, want = sample(bad_RV, rows), sample(good_RV, rows)
    assert isinstance(got[1], Unsampled)
    assert "not finite" in got[1].reason
    assert [got[0], got[2]] == [want[0], want[2]]


def test_a_whole_row_of_nan() -> None:
    assert isinstance(sample(torch.full((1, 4), math.nan), [row(SamplingParams())])[0], Unsampled)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_left_to_choose_fails_alone(temperature: float) -> None:
    hungry = SamplingParams(temperature=temperature, min_tokens=2)
    rows = [row(hungry, end_ids=(0, 1)), row(hungry, end_ids=(0,))]
    outcomes = sample(torch.zeros(2, 2), rows)
    assert isinstance(outcomes[0], Unsampled)
    assert "min_tokens" in outcomes[0].reason
    assert token(outcomes[1]) == 1


def test_a_bias_beyond_float32_fails_alone() -> None:
    outcomes = sample(
        torch.zeros(2, 2), [row(SamplingParams(logit_bias=((0, 1e300),))), row(SamplingParams())]
    )
    assert isinstance(outcomes[0], Unsampled)
    assert "logit_bias" in outcomes[0].reason
    assert isinstance(outcomes[1], Sampled)


def test_the_logits_stay_as_they_were() -> None:
    logits_RV = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    before_RV = logits_RV.clone()
    sampling = SamplingParams(logit_bias=((1, 5.0),), frequency_penalty=1.0, min_tokens=3)
    sample(logits_RV, [row(sampling, history=History(), end_ids=(2,)), row(GREEDY)])
    assert torch.equal(logits_RV, before_RV)


def test_logprobs_are_of_the_raw_logits() -> None:
    logits_RV = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampling = SamplingParams(temperature=0.0, logit_bias=((3, 100.0),), logprobs=2)
    (outcome,) = sample(logits_RV, [row(sampling)])
    want_V = torch.log_softmax(logits_RV.double(), -1)[0]
    assert isinstance(outcome, Sampled)
    assert outcome.logprob is not None
    assert outcome.token == outcome.logprob.token == 3
    assert outcome.logprob.logprob == pytest.approx(want_V[3].item(), abs=1e-6)
    assert [best for best, _ in outcome.logprob.top] == [0, 1]
    assert outcome.logprob.top[1][1] == pytest.approx(want_V[1].item(), abs=1e-6)


@pytest.mark.parametrize(("k", "length"), [(0, 0), (3, 3), (4, 4), (99, 4)])
def test_logprobs_count(k: int, length: int) -> None:
    (outcome,) = sample(torch.zeros(1, 4), [row(SamplingParams(logprobs=k))])
    assert isinstance(outcome, Sampled)
    assert outcome.logprob is not None
    assert [best for best, _ in outcome.logprob.top] == list(range(length))


def test_logprobs_only_where_asked_for() -> None:
    rows = [row(GREEDY), row(SamplingParams(temperature=0.0, logprobs=1)), row(GREEDY)]
    outcomes = sample(torch.zeros(3, 4), rows)
    assert [isinstance(x, Sampled) and x.logprob is not None for x in outcomes] == [0, 1, 0]


def test_prompt_logprobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_torch, "_CHUNK_ENTRIES", 3 * 11)  # several chunks
    logits_TV = torch.randn(10, 11, generator=torch.Generator().manual_seed(2))
    targets = [(3 * t) % 11 for t in range(10)]
    scored = prompt_logprobs(logits_TV, targets, k=20)
    want_TV = torch.log_softmax(logits_TV.double(), -1)
    assert [score.token for score in scored] == targets
    for t, score in enumerate(scored):
        assert score.logprob == pytest.approx(want_TV[t, targets[t]].item(), abs=1e-5)
        assert len(score.top) == 11
        assert [best for best, _ in score.top] == want_TV[t].argsort(descending=True).tolist()
    assert prompt_logprobs(logits_TV[:0], [], k=1) == []
    with pytest.raises(ServiceError, match="not finite"):
        prompt_logprobs(torch.full((1, 3), math.nan), [0], k=1)


def test_history_counts_the_completion_only() -> None:
    history = History(prompt=[5, 5, 9])
    for made in [9, 1, 9, *range(100, 300)]:
        history.push(made)
    counts = dict(zip(history.ids.tolist(), history.counts.tolist(), strict=True))
    assert len(counts) == len(history.ids) == 203
    assert (counts[5], counts[9], counts[1], counts[299]) == (0, 2, 1, 1)


def test_history_only_where_a_penalty_reads_it() -> None:
    assert History.of(SamplingParams(top_p=0.5), [1]) is None
    only_completion = History.of(SamplingParams(presence_penalty=0.1), [1])
    assert only_completion is not None
    assert only_completion.ids.tolist() == []
    both = History.of(SamplingParams(repetition_penalty=1.1), [1, 1])
    assert both is not None
    assert both.ids.tolist() == [1]


@pytest.mark.parametrize("bad", [-1, 8, 1 << 40])
def test_ids_beyond_the_vocabulary_are_refused_by_name(bad: int) -> None:
    with pytest.raises(InvalidParameter, match=r"logit_bias.*0 to 7"):
        check_sampling(SamplingParams(logit_bias=((bad, 1.0),)), vocab_size=8)
    with pytest.raises(InvalidParameter, match="stop_token_ids"):
        check_sampling(SamplingParams(stop_token_ids=(bad,)), vocab_size=8)
    check_sampling(SamplingParams(logit_bias=((7, 1.0),), stop_token_ids=(0,)), vocab_size=8)
