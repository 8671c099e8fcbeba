"""Micro-batches -> one update, with the gradient of the whole batch.

Invariant: k micro-batches give the gradient of their union, however the supervised tokens are
spread over them, because every sum is divided by the weight of the whole step.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.training.task import Batch, Task

B = TypeVar("B", bound=Batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLoss:
    """One step's numbers."""

    loss: float
    """A supervised unit's mean: nats a token, or a pair's loss."""
    weight: float
    """Supervised units."""
    tokens: int
    metrics: Mapping[str, float]
    """Means over the units."""


def accumulate(decoder: Decoder, task: Task[B], batches: Sequence[B]) -> StepLoss:
    """Add the step's gradient to the parameters' `grad`.

    Raises:
        DataError: Nothing in the step is supervised.
    """
    weight = sum(task.weight(batch) for batch in batches)
    if not weight > 0:
        raise DataError("the step has no supervised token; its masks are empty")
    total = 0.0
    metrics: dict[str, float] = {}
    for batch in batches:
        loss = task.loss(decoder, batch)
        (loss.sum / weight).backward()
        total += float(loss.sum.detach())
        for name, value in loss.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    return StepLoss(
        loss=total / weight,
        weight=weight,
        tokens=sum(batch.tokens for batch in batches),
        metrics={name: value / weight for name, value in metrics.items()},
    )


def clip(parameters: Iterable[Tensor], max_norm: float) -> float:
    """The gradients' norm; where it is above a `max_norm` other than 0 they are scaled down to it.

    A norm that is no number leaves them as they are; the step is not to be made then.
    """
    held = [param for param in parameters if param.grad is not None]
    total = nn.utils.get_total_norm([param.grad for param in held if param.grad is not None])
    norm = float(total)
    if max_norm and norm > max_norm and math.isfinite(norm):
        nn.utils.clip_grads_with_norm_(held, max_norm, total)
    return norm
