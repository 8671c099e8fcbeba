"""A batch of k is k batches of one, bit for bit, whatever stands beside a row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arithmetics import draw as draw_tokens
from arithmetics import needs_native, params
from headrace.engine.sampler import History, SampleRow
from headrace.types import SamplingParams

SAMPLING = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.0, 3.0]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_k=st.sampled_from([0, 1, 5, 40, 10_000]),
    min_p=st.sampled_from([0.0, 0.1]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    presence_penalty=st.sampled_from([0.0, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.sampled_from([(), ((3, 5.0), (0, -100.0))]),
    logprobs=st.sampled_from([None, 0, 3]),
    min_tokens=st.sampled_from([0, 100]),
)


@st.composite
def rows(draw: st.DrawFn, vocab: int) -> SampleRow:
    sampling = draw(SAMPLING)
    tokens = st.lists(st.integers(0, vocab - 1), max_size=20)
    history = History.of(sampling, draw(tokens))
    completion = draw(tokens)
    if history is not None:
        for token in completion:
            history.push(token)
    return SampleRow(
        sampling=sampling,
        seed=draw(st.integers(0, 2**64 - 1)),
        choice=draw(st.integers(0, 3)),
        position=len(completion),
        history=history,
        end_ids=(1, 2),
    )


@pytest.mark.parametrize("how", params())
@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), vocab=st.sampled_from([7, 33, 129, 1031]), spread=st.sampled_from([0.1, 4.0])
)
def test_batch_of_k_is_k_batches_of_one(
    how: str, data: st.DataObject, vocab: int, spread: float
) -> None:
    batch = data.draw(st.lists(rows(vocab), min_size=1, max_size=9))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    # Rounded to bf16, as a real model's logits often are: many ties.
    logits_RV = (spread * torch.randn(len(batch), vocab, generator=generator)).bfloat16().float()
    together = draw_tokens(how, logits_RV, batch)
    alone = [draw_tokens(how, logits_RV[r : r + 1], [row])[0] for r, row in enumerate(batch)]
    assert together == alone
    order = data.draw(st.permutations(range(len(batch))))
    turned = draw_tokens(how, logits_RV[list(order)], [batch[r] for r in order])
    assert turned == [alone[r] for r in order]


@needs_native
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_threads_do_not_show(spread: float) -> None:
    """At a vocabulary at which rows, and single rows, are shared out: the same bits."""
    vocab = 130_001
    generator = torch.Generator().manual_seed(5)
    logits_RV = spread * torch.randn(9, vocab, generator=generator)
    kinds = (
        SamplingParams(logprobs=3),
        SamplingParams(temperature=0.7, min_p=1e-4),
        SamplingParams(temperature=0.8, top_p=0.95, logprobs=700),
        SamplingParams(top_k=3000, top_p=0.9, min_p=1e-3, frequency_penalty=0.2),
        SamplingParams(top_k=40, logit_bias=((5, 3.0),)),
    )
    batch = [
        SampleRow(sampling=kinds[r % 5], seed=r, choice=1, position=r, history=History())
        for r in range(9)
    ]
    shared = draw_tokens("native on two threads", logits_RV, batch)
    assert shared == draw_tokens("native", logits_RV, batch)
    for r, row in enumerate(batch):
        one_RV = logits_RV[r : r + 1]
        assert draw_tokens("native on two threads", one_RV, [row]) == [shared[r]]
