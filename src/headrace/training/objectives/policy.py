"""What a policy-gradient step is made of: importance ratios, clipped surrogates, KL and entropy.

    surrogate = clipped(logprob_R, rows, clip)        # one number a completion token, to be summed
    penalty_R = k3(logprob_R, rows.reference_R)

Legend: R completion tokens that count, S completions. R is in the order of S: the tokens of a
completion are neighbours.

Sources: PPO, arXiv 1707.06347; GRPO, arXiv 2402.03300; a higher upper bound (clip-higher), DAPO,
arXiv 2503.14476; ratios of whole completions, GSPO, arXiv 2507.18071; the k3 estimate of KL,
Schulman 2020, "Approximating KL Divergence".
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRows:
    """What is known of the completion tokens before the model is run."""

    sequence_R: Tensor
    """Which completion of the batch a token belongs to, from 0."""
    sequences: int
    """Completions of the batch, those without a token that counts included."""
    advantage_R: Tensor
    old_R: Tensor
    """Log-probability under the policy that sampled, by the training forward pass."""
    reference_R: Tensor | None = None
    """Log-probability under the reference policy; None = no KL term."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """How far a step may move a probability, and what counts as one decision."""

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    level: Literal["token", "sequence"] = "token"
    """sequence = one ratio a completion, the geometric mean of its tokens' (GSPO)."""


class Surrogate(NamedTuple):
    """Losses to be minimised and what is worth a look; all without gradient but the first."""

    loss_R: Tensor
    ratio_R: Tensor
    clipped_R: Tensor
    """1 where the bound is active, and with it no gradient flows."""


def clipped(logprob_R: Tensor, rows: PolicyRows, clip: Clip) -> Surrogate:
    """-min(ratio A, clamp(ratio, 1 - low, 1 + high) A) of each token."""
    log_ratio_R = logprob_R - rows.old_R
    if clip.level == "sequence":
        log_ratio_R = sequence_means(log_ratio_R, rows)[rows.sequence_R]
    ratio_R = log_ratio_R.exp()
    low, high = 1 - clip.epsilon_low, 1 + clip.epsilon_high
    free_R = ratio_R * rows.advantage_R
    bound_R = ratio_R.clamp(low, high) * rows.advantage_R
    ratio_R = ratio_R.detach()
    is_clipped_R = ((ratio_R < low) & (rows.advantage_R < 0)) | (
        (ratio_R > high) & (rows.advantage_R > 0)
    )
    return Surrogate(-torch.min(free_R, bound_R), ratio_R, is_clipped_R.to(ratio_R.dtype))


def k3(logprob_R: Tensor, reference_R: Tensor) -> Tensor:
    """r - log r - 1 with r = reference / policy: an unbiased estimate of KL(policy || reference),
    never negative."""
    log_R = reference_R - logprob_R
    return log_R.exp() - log_R - 1


def sequence_sums(x_R: Tensor, rows: PolicyRows) -> Tensor:
    """The sum over each completion's tokens, `[S]`; 0 where it has none."""
    return x_R.new_zeros(rows.sequences).index_add(0, rows.sequence_R, x_R)


def sequence_means(x_R: Tensor, rows: PolicyRows) -> Tensor:
    """The mean over each completion's tokens, `[S]`; 0 where it has none."""
    return sequence_sums(x_R, rows) / sequence_sums(torch.ones_like(x_R), rows).clamp(min=1)
