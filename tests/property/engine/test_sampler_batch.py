"""A batch of k is k batches of one, bit for bit, whatever stands beside a row."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engine.sampler import History, SampleRow, sample
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


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), vocab=st.sampled_from([7, 33, 129, 1031]), spread=st.sampled_from([0.1, 4.0])
)
def test_batch_of_k_is_k_batches_of_one(data: st.DataObject, vocab: int, spread: float) -> None:
    batch = data.draw(st.lists(rows(vocab), min_size=1, max_size=9))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    # Rounded to bf16, as a real model's logits often are: many ties.
    logits_RV = (spread * torch.randn(len(batch), vocab, generator=generator)).bfloat16().float()
    together = sample(logits_RV, batch)
    alone = [sample(logits_RV[r : r + 1], [row])[0] for r, row in enumerate(batch)]
    assert together == alone
    order = data.draw(st.permutations(range(len(batch))))
    assert sample(logits_RV[list(order)], [batch[r] for r in order]) == [alone[r] for r in order]
