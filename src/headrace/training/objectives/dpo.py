"""Log-probabilities of chosen and rejected answers -> the DPO family's loss of each pair.

Legend: B pairs. `margin` is how much further than the reference the policy prefers the chosen
answer: (log pi(chosen) - log ref(chosen)) - (log pi(rejected) - log ref(rejected)).

Sources: DPO, Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; its label smoothing, Mitchell 2023
(ericmitchell.ai/cdpo.pdf); hinge, SLiC-HF (2305.10425); IPO, Azar et al. (2310.12036), eq. 17, over
the mean of a side's tokens, which is how its authors computed it; robust DPO (2403.00409); EXO
(2402.00856), eq. 16; NCA (2402.05369); BCO (2404.04656); SPPO (2405.00675); APO (2408.06266), eqs.
7 and 8; DiscoPOP (2406.08414), eq. 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from headrace.errors import ConfigError

DpoKind = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair",
    "sppo_hard", "apo_zero", "apo_down", "discopop",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLogps:
    """What policy and reference say of each pair, summed over the tokens of an answer."""

    chosen_B: Tensor
    rejected_B: Tensor
    reference_chosen_B: Tensor
    reference_rejected_B: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_B: Tensor

    @property
    def chosen_ratio_B(self) -> Tensor:
        """log (pi / reference) of the chosen answers."""
        return self.chosen_B - self.reference_chosen_B

    @property
    def rejected_ratio_B(self) -> Tensor:
        return self.rejected_B - self.reference_rejected_B

    @property
    def margin_B(self) -> Tensor:
        return self.chosen_ratio_B - self.rejected_ratio_B

    @property
    def mean_margin_B(self) -> Tensor:
        """The margin of log-ratios a token, so that length does not count."""
        chosen_B = self.chosen_ratio_B / self.chosen_tokens_B
        return chosen_B - self.rejected_ratio_B / self.rejected_tokens_B


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoSettings:
    """Which loss of the family, and its constants."""

    kind: DpoKind = "sigmoid"
    """sigmoid = DPO; sigmoid_norm = the same of log-ratios a token."""
    beta: float = 0.1
    """How strongly the policy is held to the reference; for ipo, its tau."""
    label_smoothing: float = 0.0
    """The share of pairs taken to be labelled the wrong way round; for sigmoid, robust and exo_pair
    alone, and exo_pair needs it."""
    sft_weight: float = 0.0
    """Of the cross entropy of the chosen answers, added to the loss (RPO, arXiv 2404.19733)."""
    discopop_tau: float = 0.05
    """Temperature of discopop's blend."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(DpoKind):
            known = ", ".join(get_args(DpoKind))
            raise ConfigError(f"kind {self.kind!r} is not of the DPO family: {known}")
        if not self.beta > 0:
            raise ConfigError(f"beta {self.beta} must be above 0; 0.1 is usual")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing {self.label_smoothing} must be in [0, 0.5)")
        if self.label_smoothing and self.kind not in _SMOOTHED:
            raise ConfigError(
                f"label_smoothing {self.label_smoothing} means nothing to kind {self.kind}; set it "
                f"to 0, or take one of {', '.join(_SMOOTHED)}"
            )
        if self.kind == "exo_pair" and not self.label_smoothing:
            raise ConfigError("kind exo_pair needs label_smoothing above 0; 0.001 is usual")
        if not self.sft_weight >= 0:
            raise ConfigError(f"sft_weight {self.sft_weight} must not be negative")
        if not self.discopop_tau > 0:
            raise ConfigError(f"discopop_tau {self.discopop_tau} must be above 0; 0.05 is usual")


def dpo(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    """The loss of each pair, `[B]`; the cross entropy of `sft_weight` is not in it."""
    return _KINDS[settings.kind](pairs, settings)


def _sigmoid(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    scaled_B, flipped = settings.beta * pairs.margin_B, settings.label_smoothing
    if not flipped:
        return -logsigmoid(scaled_B)
    return -(1 - flipped) * logsigmoid(scaled_B) - flipped * logsigmoid(-scaled_B)


def _sigmoid_norm(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    return -logsigmoid(settings.beta * pairs.mean_margin_B)


def _hinge(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    return torch.relu(1 - settings.beta * pairs.margin_B)


def _ipo(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    return (pairs.mean_margin_B - 1 / (2 * settings.beta)) ** 2


def _robust(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    scaled_B, flipped = settings.beta * pairs.margin_B, settings.label_smoothing
    clean_B, noise_B = (1 - flipped) * logsigmoid(scaled_B), flipped * logsigmoid(-scaled_B)
    return (noise_B - clean_B) / (1 - 2 * flipped)


def _exo_pair(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    scaled_B = settings.beta * pairs.margin_B
    flipped = torch.tensor(settings.label_smoothing, dtype=scaled_B.dtype, device=scaled_B.device)
    won_B = torch.sigmoid(scaled_B) * (logsigmoid(scaled_B) - torch.log1p(-flipped))
    return won_B + torch.sigmoid(-scaled_B) * (logsigmoid(-scaled_B) - torch.log(flipped))


def _nca_pair(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    chosen_B, rejected_B = _rewards(pairs, settings)
    return -logsigmoid(chosen_B) - 0.5 * logsigmoid(-chosen_B) - 0.5 * logsigmoid(-rejected_B)


def _bco_pair(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    chosen_B, rejected_B = _rewards(pairs, settings)
    return -logsigmoid(chosen_B) - logsigmoid(-rejected_B)


def _sppo_hard(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    target = 0.5 / settings.beta
    return (pairs.chosen_ratio_B - target) ** 2 + (pairs.rejected_ratio_B + target) ** 2


def _apo_zero(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    chosen_B, rejected_B = _rewards(pairs, settings)
    return torch.sigmoid(-chosen_B) + torch.sigmoid(rejected_B)


def _apo_down(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    chosen_B, rejected_B = _rewards(pairs, settings)
    return torch.sigmoid(chosen_B) + torch.sigmoid(rejected_B - chosen_B)


def _discopop(pairs: PairLogps, settings: DpoSettings) -> Tensor:
    scaled_B = settings.beta * pairs.margin_B
    blend_B = torch.sigmoid(scaled_B / settings.discopop_tau)
    return -logsigmoid(scaled_B) * (1 - blend_B) + torch.exp(-scaled_B) * blend_B


def _rewards(pairs: PairLogps, settings: DpoSettings) -> tuple[Tensor, Tensor]:
    return settings.beta * pairs.chosen_ratio_B, settings.beta * pairs.rejected_ratio_B


_KINDS: dict[DpoKind, Callable[[PairLogps, DpoSettings], Tensor]] = {
    "sigmoid": _sigmoid,
    "sigmoid_norm": _sigmoid_norm,
    "hinge": _hinge,
    "ipo": _ipo,
    "robust": _robust,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
}
_SMOOTHED = ("sigmoid", "robust", "exo_pair")
