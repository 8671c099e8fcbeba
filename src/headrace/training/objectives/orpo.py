"""Mean log-probabilities of chosen and rejected answers -> ORPO's odds-ratio loss; no reference.

Legend: B pairs. The whole objective is the cross entropy of the chosen conversations plus `beta`
times this (the paper's lambda). Source: Hong et al. 2024 (arXiv 2403.07691), eqs. 4, 6 and 7.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from headrace.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class OrpoSettings:
    """ORPO's constants."""

    beta: float = 0.1
    """Weight of the odds ratio; the paper's lambda."""
    sft_prompt: bool = True
    """The cross entropy is over the prompt's tokens too, as in the authors' code; false = over the
    chosen answer's alone."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta {self.beta} must be above 0; 0.1 is usual")


def odds_ratio(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """-log sigmoid(log odds(chosen) - log odds(rejected)) of each pair.

    Args:
        chosen_B: Log-probability of each chosen answer, the mean over its tokens.
        rejected_B: The same of each rejected one.
    """
    odds_B = (chosen_B - rejected_B) - (_log1mexp(chosen_B) - _log1mexp(rejected_B))
    return -logsigmoid(odds_B)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, without cancellation at either end (Maechler 2012)."""
    near_zero = x > -math.log(2)
    # The branch not taken must not bring infinities into the gradient.
    small, large = x.where(near_zero, x.new_tensor(-0.5)), x.where(~near_zero, x.new_tensor(-1.0))
    return torch.where(near_zero, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
