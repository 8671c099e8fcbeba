"""Proximal policy optimisation: the clipped surrogate and the clipped value loss, token by token.

    A_t = sum_l (gamma lambda)^l delta_{t+l},  delta_t = r_t + gamma V_{t+1} - V_t
    loss = mean_t[-min(ratio A, clamp(ratio) A)
                  + value 1/2 max((V - R)^2, (V_old + clamp(V - V_old, +-range) - R)^2)
                  - entropy H]

Sources: arXiv 1707.06347, equations 7 and 9; the clipped value loss is that of the authors' code
(baselines, ppo2/model.py), kept by InstructGPT's successors.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from headrace.training.objectives.loss import Loss
from headrace.training.objectives.policy import Clip, PolicyRows, clipped


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoTerms:
    """The objective's constants."""

    clip: Clip = field(default_factory=Clip)
    value: float = 0.1
    """Times the value loss."""
    value_range: float = 0.2
    """How far a value may move from the one at sampling before its loss stops pulling."""
    entropy: float = 0.0
    """Times the entropy, which is added to what is maximised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueRows:
    """What the value head is to say, a number a completion token."""

    old_R: Tensor
    """What it said when the completion was sampled."""
    return_R: Tensor


def value_loss(value_R: Tensor, rows: ValueRows, value_range: float) -> Tensor:
    """Half the larger of two squared errors: the value's, and the bounded value's."""
    bounded_R = rows.old_R + (value_R - rows.old_R).clamp(-value_range, value_range)
    free_R, bound_R = (value_R - rows.return_R).square(), (bounded_R - rows.return_R).square()
    return torch.max(free_R, bound_R) / 2


def ppo(
    logprob_R: Tensor,
    entropy_R: Tensor,
    value_R: Tensor,
    rows: PolicyRows,
    values: ValueRows,
    terms: PpoTerms,
) -> Loss:
    """The loss of one micro-batch; its weight is the number of completion tokens that count."""
    surrogate = clipped(logprob_R, rows, terms.clip)
    value_loss_R = value_loss(value_R, values, terms.value_range)
    loss_R = surrogate.loss_R + terms.value * value_loss_R
    if terms.entropy:
        loss_R = loss_R - terms.entropy * entropy_R
    return Loss(
        sum=loss_R.sum(),
        weight=float(len(logprob_R)),
        metrics={
            "clipped": float(surrogate.clipped_R.sum()),
            "ratio_error": float((surrogate.ratio_R - 1).abs().sum()),
            "entropy": float(entropy_R.detach().sum()),
            "value_loss": float(value_loss_R.detach().sum()),
        },
    )
