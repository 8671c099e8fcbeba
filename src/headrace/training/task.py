"""What a training method is to the loop: batches in, a sum and its weight out.

A method is a `Task`: a frozen value that holds what the method needs beside the model (a reference,
a temperature, a value head). Everything else (accumulation, ranks, clipping, schedules, resuming)
is the loop's and the same for all of them.

Invariants: `weight` is known before the forward pass and is what `loss(...).weight` will say, so
that each gradient is divided by the whole step's weight however the step is cut into micro-batches
and ranks; `loss` changes nothing but the gradient.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from headrace.data.pack import PackedBatch
from headrace.errors import DataError
from headrace.model.attend import Packed
from headrace.model.decoder import Decoder
from headrace.training import objectives
from headrace.training.objectives import Loss


class Batch(Protocol):
    """What one forward and backward pass sees: any type that can be counted."""

    @property
    def tokens(self) -> int:
        """Positions that go through the model, for tokens a second."""
        ...


B_contra = TypeVar("B_contra", bound=Batch, contravariant=True)


class Task(Protocol[B_contra]):
    """One method over batches of one type."""

    def weight(self, batch: B_contra, /) -> float:
        """Supervised units of the batch (tokens or pairs, by weight), without running the model."""
        ...

    def loss(self, decoder: Decoder, batch: B_contra, /) -> Loss:
        """The sum over those units, differentiable; its metrics are sums over them as well."""
        ...


def hidden(decoder: Decoder, batch: PackedBatch) -> Tensor:
    """hidden_TD of a packed batch; documents do not see each other."""
    device = decoder.norm.weight.device
    return decoder.hidden(
        torch.from_numpy(batch.ids_T).to(device),
        torch.from_numpy(batch.pos_T).to(device),
        Packed(torch.from_numpy(batch.doc_T)),
    )


def supervised_tokens(batch: PackedBatch) -> float:
    """The sum of the batch's target weights."""
    return float(batch.weight_T.sum(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class NextToken:
    """Pre-training: cross entropy of every next token."""

    def weight(self, batch: PackedBatch, /) -> float:
        return supervised_tokens(batch)

    def loss(self, decoder: Decoder, batch: PackedBatch, /) -> Loss:
        return objectives.next_token(hidden(decoder, batch), decoder.head_VD, batch)


@dataclass(frozen=True, slots=True)
class Sft:
    """Chat tuning: cross entropy of the supervised tokens alone."""

    def weight(self, batch: PackedBatch, /) -> float:
        """As `Task.weight`.

        Raises:
            DataError: A document in which nothing is supervised; it would train on nothing.
        """
        heavy = np.bincount(batch.doc_T, weights=batch.weight_T)
        if (heavy <= 0).any():
            raise DataError(
                f"document {int(np.argmax(heavy <= 0))} of the batch has no supervised token; its "
                "mask is empty - give it an assistant message, or drop it"
            )
        return supervised_tokens(batch)

    def loss(self, decoder: Decoder, batch: PackedBatch, /) -> Loss:
        return objectives.sft(hidden(decoder, batch), decoder.head_VD, batch)
