"""Native sampling against the torch reference: the same token for the same draw.

The two add up float64 weights in different orders, so where they differ the draw, or a threshold,
must lie within 1e-12 of a boundary; `margin` measures that in extended precision.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from arithmetics import ISAS, arithmetic, needs_native
from headrace.engine.draws import uniform
from headrace.engine.edits import RowEdits
from headrace.engine.sampler import History, SampleRow, arithmetic_for
from headrace.engine.sampler_native import NativeSampling
from headrace.engine.sampler_torch import TorchSampling
from headrace.kernels.native import library
from headrace.types import SamplingParams

pytestmark = needs_native

BOUNDARY = 1e-12
VOCABS = (1, 2, 63, 64, 65, 130, 511, 513, 700, 1031, 5000, 20_011)

SAMPLING = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-30, 1e-3, 0.3, 0.7, 1.0, 2.0, 50.0, 1e30]),
    top_p=st.sampled_from([1.0, 1.0, 0.999999, 0.95, 0.6, 0.2, 1e-9, 0.0]),
    top_k=st.sampled_from([0, 0, 0, 1, 2, 20, 64, 512, 513, 900, 3000, 30_000]),
    min_p=st.sampled_from([0.0, 0.0, 1e-9, 0.013, 0.4, 1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    logit_bias=st.sampled_from([(), (), ((0, 5.0),), ((0, -math.inf),), ((0, 1e300),)]),
    min_tokens=st.sampled_from([0, 0, 9]),
)


@st.composite
def logits(draw: st.DrawFn, rows: int) -> torch.Tensor:
    """Normal, tied, flat, peaked, extreme, or not finite in some rows."""
    vocab = draw(st.sampled_from(VOCABS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 1e-20, 0.05, 1.0, 4.0, 1e6, 1e37]))
    x_RV = spread * torch.randn(rows, vocab, generator=generator)
    if draw(st.booleans()):
        x_RV = x_RV.bfloat16().float()  # as a real model's logits often are: many ties
    where = draw(st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, vocab - 1)),
                          max_size=3))  # fmt: skip
    for r, token in where:
        x_RV[r, token] = draw(
            st.sampled_from([0.0, -0.0, 30.0, -80.0, 3e38, -3e38, math.nan, math.inf, -math.inf])
        )
    return x_RV


def a_row(draw: st.DrawFn, vocab: int) -> SampleRow:
    sampling = draw(SAMPLING)
    tokens = st.lists(st.integers(0, vocab - 1), max_size=5)
    history = History.of(sampling, draw(tokens))
    if history is not None:
        for token in draw(tokens):
            history.push(token)
    return SampleRow(
        sampling=sampling,
        seed=draw(st.integers(-(2**63), 2**64 - 1)),
        choice=draw(st.integers(0, 3)),
        position=draw(st.integers(0, 5)),
        history=history,
        end_ids=(0,),
    )


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, list[SampleRow]]:
    x_RV = draw(logits(draw(st.integers(1, 6))))
    return x_RV, [a_row(draw, x_RV.shape[1]) for _ in range(len(x_RV))]


def ranked(x_V: NDArray[np.float32], row: SampleRow) -> tuple[NDArray[np.longdouble], list[float]]:
    """The kept weights in the order of the draw, and how near the cuts were: see `margin`."""
    params = row.sampling
    x = x_V.astype(np.longdouble)
    ordered = 0 < params.top_k < len(x) or params.top_p < 1.0
    order = np.lexsort((np.arange(len(x)), -x)) if ordered else np.arange(len(x))
    weights = np.exp((x[order] - x.max()) / np.longdouble(params.temperature))
    if 0 < params.top_k < len(x):
        weights = weights[: params.top_k]
    near: list[float] = []
    kept = np.ones(len(weights), dtype=bool)
    if params.top_p < 1.0:
        before = np.cumsum(weights) - weights
        limit = params.top_p * weights.sum()
        near.append(float(np.abs(before[1:] - limit).min(initial=np.inf) / weights.sum()))
        kept = before < limit
        kept[0] = True
    if params.min_p > 0.0:
        near.append(float(np.abs(weights - params.min_p).min()))
        kept &= weights >= params.min_p
    return weights * kept, near


def margin(x_V: NDArray[np.float32], row: SampleRow) -> float:
    """How near this draw is to giving another token, as a share of the total weight."""
    weights, near = ranked(x_V, row)
    cdf = np.cumsum(weights) / weights.sum()
    u = uniform(seed=row.seed, choice=row.choice, position=row.position)
    return min(float(np.abs(cdf - u).min()), *near, np.inf)


def edited(x_V: torch.Tensor, row: SampleRow) -> NDArray[np.float32]:
    scores_V: NDArray[np.float32] = x_V.numpy().copy()
    edits = RowEdits(row)
    scores_E = scores_V[edits.ids_E]
    edits.apply(scores_E)
    scores_V[edits.ids_E] = scores_E
    return scores_V


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=250, deadline=None)
@given(batch=batches())
def test_the_same_tokens(isa: str, batch: tuple[torch.Tensor, list[SampleRow]]) -> None:
    x_RV, rows = batch
    with torch.inference_mode():
        want = TorchSampling().draw(x_RV, rows)
        before_RV = x_RV.clone()
        got = arithmetic(isa).draw(x_RV, rows)
    assert torch.equal(x_RV.view(torch.int32), before_RV.view(torch.int32))  # NaN as they were
    for r, row in enumerate(rows):
        if got[r] != want[r]:
            assert min(got[r], want[r]) >= 0, (got[r], want[r])
            assert row.sampling.temperature > 0.0
            assert margin(edited(x_RV[r], row), row) < BOUNDARY, (got[r], want[r], row)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.8),
        SamplingParams(temperature=0.8, top_p=0.95),
        SamplingParams(temperature=1.5, top_p=0.95),
        SamplingParams(temperature=0.6, top_k=20, top_p=0.95),
        SamplingParams(top_k=5000, min_p=1e-3),
    ],
)
def test_the_same_tokens_at_a_real_vocabulary(sampling: SamplingParams) -> None:
    generator = torch.Generator().manual_seed(11)
    x_RV = 2.5 * torch.randn(24, 151_936, generator=generator)
    x_RV[::2] = x_RV[::2].bfloat16().float()
    rows = [SampleRow(sampling=sampling, seed=r, choice=0, position=r) for r in range(24)]
    with torch.inference_mode():
        want, got = TorchSampling().draw(x_RV, rows), arithmetic("native").draw(x_RV, rows)
    differ = [r for r in range(24) if got[r] != want[r]]
    assert all(margin(x_RV[r].numpy(), rows[r]) < BOUNDARY for r in differ)


def test_the_margin_sees_a_boundary_and_nothing_else() -> None:
    def row(**params: float) -> SampleRow:
        return SampleRow(sampling=SamplingParams(**params), seed=3, choice=0, position=0)  # pyright: ignore[reportArgumentType]

    four = np.zeros(4, dtype=np.float32)
    assert margin(four, row(top_p=0.5)) == 0.0  # two tokens reach one half exactly
    assert margin(four, row(min_p=1.0)) == 0.0
    assert margin(four, row(top_p=0.6)) > 1e-3
    u = uniform(seed=3, choice=0, position=0)
    at_u = np.array([math.log(u), math.log1p(-u)], dtype=np.float32)
    assert margin(at_u, row()) < 1e-6
    assert margin(at_u + np.array([0.1, 0.0], dtype=np.float32), row()) > 1e-3


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=150, deadline=None)
@given(
    x_RV=logits(2),
    tops=st.lists(st.sampled_from([0, 1, 3, 20, 600, 10**6]), min_size=2, max_size=2),
    at=st.floats(0, 1, exclude_max=True),
)
def test_the_same_logprobs(isa: str, x_RV: torch.Tensor, tops: list[int], at: float) -> None:
    vocab = x_RV.shape[1]
    assume(vocab <= 5000 or max(tops) < vocab)
    targets = [int(at * vocab)] * 2
    want = TorchSampling().score(x_RV, targets, tops)
    got = arithmetic(isa).score(x_RV, targets, tops)
    assert (got is None) == (want is None)
    for mine, true in zip(got or (), want or (), strict=True):
        assert mine.token == true.token
        assert [token for token, _ in mine.top] == [token for token, _ in true.top]
        numbers = [value for _, value in (*mine.top, (0, mine.logprob))]
        expected = [value for _, value in (*true.top, (0, true.logprob))]
        with np.errstate(over="ignore"):  # the reference's are float32, ours float64
            numbers = np.array(numbers).astype(np.float32).tolist()
        assert numbers == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(seed=st.integers(0, 2**64 - 1), choice=st.integers(0, 99), position=st.integers(0, 2**40))
@example(seed=2**64 - 1, choice=0, position=0)
def test_the_same_uniform_numbers(seed: int, choice: int, position: int) -> None:
    found = library()
    assert found is not None
    NativeSampling(found, None)  # declares the functions
    assert found.hr_sample_uniform(seed, choice, position) == uniform(
        seed=seed, choice=choice, position=position
    )


def test_rows_need_not_lie_together() -> None:
    whole = torch.randn(6, 700, generator=torch.Generator().manual_seed(1))
    rows = [SampleRow(sampling=SamplingParams(), seed=r, choice=0, position=0) for r in range(3)]
    for view in (whole[::2], whole[:3, 100:], whole[:1].expand(3, -1), whole.T[:3]):
        chosen = arithmetic_for(view)
        assert chosen.draw(view, rows) == TorchSampling().draw(view, rows)
    assert isinstance(arithmetic_for(whole[::2]), NativeSampling)
    assert isinstance(arithmetic_for(whole.T), TorchSampling)
    assert isinstance(arithmetic_for(whole[:1].expand(3, -1)), TorchSampling)
    assert isinstance(arithmetic_for(whole.double()), TorchSampling)
