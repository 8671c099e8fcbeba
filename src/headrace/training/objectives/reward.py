"""Scores of chosen and rejected answers -> the Bradley-Terry loss of each pair.

Legend: B pairs. Sources: Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; margins, Llama 2 (arXiv
2307.09288), eq. 2; centring, Eisenstein et al. 2023 (arXiv 2312.09244), eq. 2.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from headrace.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardSettings:
    """A reward model's constants."""

    center_weight: float = 0.0
    """Of (chosen + rejected) squared, which keeps scores near 0; 0.01 is usual, 0 = off."""

    def __post_init__(self) -> None:
        if not self.center_weight >= 0:
            raise ConfigError(f"center_weight {self.center_weight} must not be negative; 0 = off")


def bradley_terry(
    chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor, settings: RewardSettings
) -> Tensor:
    """-log P(chosen is better by at least the margin) of each pair; margins are 0 where unknown."""
    loss_B = -logsigmoid(chosen_B - rejected_B - margin_B)
    if not settings.center_weight:
        return loss_B
    return loss_B + settings.center_weight * (chosen_B + rejected_B) ** 2
