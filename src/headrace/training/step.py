"""Micro-batches -> one update, with the gradient of the whole batch.

Invariant: k micro-batches give the gradient of their union, however the supervised tokens are
spread over them, because every sum is divided by the count of the whole step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headrace.data.pack import PackedBatch
from headrace.errors import DataError
from headrace.model.attend import Packed
from headrace.model.decoder import Decoder
from headrace.training.objectives import Loss

Objective = Callable[[Tensor, Tensor, PackedBatch], Loss]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLoss:
    """One step's numbers."""

    loss: float
    """Nats a supervised token."""
    supervised_tokens: float
    tokens: int


def forward(decoder: Decoder, batch: PackedBatch) -> Tensor:
    """hidden_TD of a packed batch; documents do not see each other."""
    return decoder.hidden(
        torch.from_numpy(batch.ids_T),
        torch.from_numpy(batch.pos_T),
        Packed(torch.from_numpy(batch.doc_T)),
    )


def accumulate(decoder: Decoder, objective: Objective, batches: Sequence[PackedBatch]) -> StepLoss:
    """Add the step's gradient to the parameters' `grad`.

    Raises:
        DataError: Nothing in the step is supervised.
    """
    weight = float(sum(batch.weight_T.sum(dtype="float64") for batch in batches))
    if not weight > 0:
        raise DataError("the step has no supervised token; its masks are empty")
    total = 0.0
    for batch in batches:
        loss = objective(forward(decoder, batch), decoder.head_VD, batch)
        (loss.sum / weight).backward()
        total += float(loss.sum.detach())
    return StepLoss(
        loss=total / weight,
        supervised_tokens=weight,
        tokens=sum(batch.tokens for batch in batches),
    )


def clip(decoder: nn.Module, max_norm: float) -> float:
    """Scale the gradients down to `max_norm` where they are larger; the norm before."""
    return float(nn.utils.clip_grad_norm_(decoder.parameters(), max_norm))
