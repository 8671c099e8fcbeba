"""Two versions of a model on the same held-out text: both perplexities, and how far apart.

The first version's hidden states are kept, so that the second may be made from it in place. The
divergence is KL(first || second) of the next token, in nats, a number a position: the mean says how
far the second is off, the 99th percentile how badly it can be (the report of llama.cpp's
`perplexity --kl-divergence`).

Shapes: T rows of a batch, R rows of a chunk, D model, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from headrace.data.pack import PackedBatch
from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.training.task import hidden as forward

_CHUNK_ROWS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What became of a model; losses in nats a token."""

    tokens: int
    loss_before: float
    loss_after: float
    kl_mean: float
    kl_p99: float
    same_choice: float
    """Share of positions at which both hold the same token likeliest."""

    @property
    def loss_increase(self) -> float:
        return self.loss_after - self.loss_before

    @property
    def perplexity_before(self) -> float:
        return math.exp(self.loss_before)

    @property
    def perplexity_after(self) -> float:
        return math.exp(self.loss_after)


class Baseline(NamedTuple):
    """The first version: what it made of each batch, and its head."""

    batches: Sequence[PackedBatch]
    hidden: Sequence[Tensor]
    head_VD: Tensor


@torch.no_grad()
def baseline(decoder: Decoder, batches: Sequence[PackedBatch]) -> Baseline:
    """Run the first version.

    Raises:
        DataError: No batch.
    """
    if not batches:
        raise DataError("nothing was held out to measure on; give more text")
    hidden = [forward(decoder, batch) for batch in batches]
    return Baseline(batches=batches, hidden=hidden, head_VD=decoder.head_VD.detach())


@torch.no_grad()
def compare(before: Baseline, decoder: Decoder) -> Quality:
    """Run the second version and compare."""
    chunks = list(_chunks(before, decoder))
    rows = sum(len(chunk.kl_R) for chunk in chunks)
    kl = torch.cat([chunk.kl_R for chunk in chunks])
    return Quality(
        tokens=rows,
        loss_before=sum(chunk.nats_before for chunk in chunks) / rows,
        loss_after=sum(chunk.nats_after for chunk in chunks) / rows,
        kl_mean=float(kl.mean()),
        kl_p99=float(kl.sort().values[math.ceil(0.99 * rows) - 1]),
        same_choice=sum(chunk.same for chunk in chunks) / rows,
    )


class _Chunk(NamedTuple):
    nats_before: float
    nats_after: float
    kl_R: Tensor
    same: int


def _chunks(before: Baseline, decoder: Decoder) -> Iterator[_Chunk]:
    for batch, first_TD in zip(before.batches, before.hidden, strict=True):
        targets_T = torch.from_numpy(batch.targets_T)
        parts = (first_TD, forward(decoder, batch), targets_T)
        for first_RD, second_RD, targets_R in zip(
            *(part.split(_CHUNK_ROWS) for part in parts), strict=True
        ):
            first_RV = functional.linear(first_RD, before.head_VD).float().log_softmax(-1)
            second_RV = decoder.logits(second_RD).log_softmax(-1)
            yield _Chunk(
                nats_before=_nats(first_RV, targets_R),
                nats_after=_nats(second_RV, targets_R),
                kl_R=(first_RV.exp() * (first_RV - second_RV)).sum(-1),
                same=int((first_RV.argmax(-1) == second_RV.argmax(-1)).sum()),
            )


def _nats(logprobs_RV: Tensor, targets_R: Tensor) -> float:
    return -float(logprobs_RV.gather(1, targets_R[:, None]).double().sum())
