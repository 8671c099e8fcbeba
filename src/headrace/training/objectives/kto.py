"""Log-ratios of single answers, each labelled good or bad -> KTO's loss of each answer.

Legend: B answers, M mismatched ones. Source: Ethayarajh et al. 2024 (arXiv 2402.01306), eqs. 6-8;
the variant without a KL term is APO-zero, unpaired (arXiv 2408.06266), eq. 7.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from headrace.errors import ConfigError

KtoKind = Literal["kto", "apo_zero_unpaired"]


@dataclass(frozen=True, kw_only=True, slots=True)
class KtoSettings:
    """KTO's constants."""

    kind: KtoKind = "kto"
    beta: float = 0.1
    """How strongly the policy is held to the reference."""
    desirable_weight: float = 1.0
    """Of the losses of good answers. Its product with their number should be 1 to 4/3 of the bad
    ones' product."""
    undesirable_weight: float = 1.0
    """Of the losses of bad answers."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(KtoKind):
            known = ", ".join(get_args(KtoKind))
            raise ConfigError(f"kind {self.kind!r} is not of the KTO family: {known}")
        if not self.beta > 0:
            raise ConfigError(f"beta {self.beta} must be above 0; 0.1 is usual")
        for name in ("desirable_weight", "undesirable_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} {getattr(self, name)} must not be negative; 1 is usual")
        if not self.desirable_weight and not self.undesirable_weight:
            raise ConfigError("desirable_weight and undesirable_weight are both 0: nothing counts")

    @property
    def wants_kl(self) -> bool:
        """Whether answers are measured against the drift of mismatched ones."""
        return self.kind == "kto"


def drift(mismatched_M: Tensor) -> Tensor:
    """KTO's reference point z0: the mean log-ratio of mismatched answers, at least 0; no gradient.

    It estimates KL(policy || reference); biased, but cheap, and of low variance.
    """
    return mismatched_M.detach().mean().clamp(min=0)


def kto(ratio_B: Tensor, good_B: Tensor, kl: Tensor, settings: KtoSettings) -> Tensor:
    """The weighted loss of each answer.

    Args:
        ratio_B: log(pi / reference) of each answer, summed over its tokens.
        good_B: Which answers are desirable.
        kl: `drift` of the step's mismatched answers; unused by apo_zero_unpaired.
        settings: The constants.
    """
    gained_B = settings.beta * (ratio_B - kl if settings.wants_kl else ratio_B)
    return torch.where(
        good_B,
        settings.desirable_weight * torch.sigmoid(-gained_B),
        settings.undesirable_weight * torch.sigmoid(gained_B),
    )
