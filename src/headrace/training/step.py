"""Micro-batches -> one update, with the gradient of the whole batch.

Invariant: k micro-batches give the gradient of their union, however the supervised tokens are
spread over them and over ranks, because every sum is divided by the weight of the whole step.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.training.parallel import ALONE, Ranks, whole
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


def accumulate(
    decoder: Decoder, task: Task[B], batches: Sequence[B], ranks: Ranks = ALONE
) -> StepLoss:
    """Add the step's gradient to the parameters' `grad`; the numbers are all ranks' together.

    Raises:
        DataError: Nothing in the step is supervised.
    """
    weight = sum(task.weight(batch) for batch in batches)
    if not weight > 0:
        raise DataError("the step has no supervised token; its masks are empty")
    own: dict[str, float] = {"": 0.0}
    for share in ranks.share(batches):
        loss = task.loss(decoder, share.batch)
        (loss.sum * (share.scale / weight)).backward()
        if share.scale:
            own[""] += float(loss.sum.detach())
            for name, value in loss.metrics.items():
                own[name] = own.get(name, 0.0) + value
    sums: dict[str, float] = {}
    for part in ranks.gather(own):
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return StepLoss(
        loss=sums.pop("") / weight,
        weight=weight,
        tokens=sum(batch.tokens for batch in batches),
        metrics={name: value / weight for name, value in sums.items()},
    )


def clip(parameters: Iterable[Tensor], max_norm: float) -> float:
    """The gradients' norm; where it is above a `max_norm` other than 0 they are scaled down to it.

    A norm that is no number leaves them as they are; the step is not to be made then.
    """
    gradients = [param.grad for param in parameters if param.grad is not None]
    norm = float(whole(nn.utils.get_total_norm(gradients)))
    if max_norm and max_norm < norm < math.inf:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return norm
