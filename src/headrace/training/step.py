"""Micro-batches -> one update, with the gradient of the whole batch.

Invariant: k micro-batches give the gradient of their union, however the supervised tokens are
spread over them, because every sum is divided by the weight of the whole step.
"""

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
    """Scale the gradients down to `max_norm` where they are larger; the norm before."""
    return float(nn.utils.clip_grad_norm_(parameters, max_norm))
