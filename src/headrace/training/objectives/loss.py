"""What an objective returns: sums and weights rather than means.

Micro-batches with unequal numbers of supervised tokens (or pairs) then add up to exactly the big
batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A sum over what is supervised, in nats, and how much (by weight) it is over."""

    sum: Tensor
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
