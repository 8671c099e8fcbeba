"""Group-relative policy optimisation: the clipped surrogate, four ways of averaging it, KL.

The names are TRL's, and so are the numbers where a step is one micro-batch; where it is several,
each sum is divided by the whole step's weight, and the gradient does not depend on how it was cut.

    grpo     the mean over completions of the mean over their tokens (arXiv 2402.03300)
    bnpo     the mean over the step's tokens
    dr_grpo  the sum over tokens / (completions x longest completion allowed), which does not favour
             short right answers and long wrong ones (arXiv 2503.20783)
    dapo     the sum over tokens / (completions x tokens a completion has on average over the whole
             generation): like bnpo, with one divisor for all steps on a generation
             (arXiv 2503.14476)
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from headrace.training.objectives.loss import Loss
from headrace.training.objectives.policy import (
    Clip,
    PolicyRows,
    clipped,
    k3,
    sequence_means,
)

Average = Literal["grpo", "bnpo", "dr_grpo", "dapo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoTerms:
    """The objective's constants."""

    clip: Clip = field(default_factory=Clip)
    average: Average = "dapo"
    kl: float = 0.0
    """Times the k3 estimate of KL(policy || reference); 0 = no reference is needed."""
    entropy: float = 0.0
    """Times the mean entropy, which is added to what is maximised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What the averages divide by: facts of a micro-batch that the model does not change."""

    sequences: int
    tokens: int
    """Completion tokens that count."""
    max_completion_tokens: int
    mean_tokens: float
    """A completion's tokens that count, on average over the whole generation."""


def grpo_weight(average: Average, counts: Counts) -> float:
    """The divisor's share of a micro-batch; shares of a step add up."""
    match average:
        case "grpo":
            return float(counts.sequences)
        case "bnpo":
            return float(counts.tokens)
        case "dr_grpo":
            return float(counts.sequences * counts.max_completion_tokens)
        case "dapo":
            return counts.sequences * counts.mean_tokens


def grpo(
    logprob_R: Tensor, entropy_R: Tensor, rows: PolicyRows, counts: Counts, terms: GrpoTerms
) -> Loss:
    """The loss of one micro-batch.

    Args:
        logprob_R: Of each completion token that counts, under the policy being trained.
        entropy_R: Of the distribution it was drawn from.
        rows: The same tokens.
        counts: What to divide by.
        terms: Constants.
    """
    surrogate = clipped(logprob_R, rows, terms.clip)
    loss_R = surrogate.loss_R
    weight = grpo_weight(terms.average, counts)
    # Means over tokens, times the weight: then the step's metrics are weighted means of them.
    each = weight / max(1, counts.tokens)
    metrics = {
        "clipped": float(surrogate.clipped_R.sum()) * each,
        "ratio_error": float((surrogate.ratio_R - 1).abs().sum()) * each,
        "entropy": float(entropy_R.detach().sum()) * each,
    }
    if rows.reference_R is not None and terms.kl:
        kl_R = k3(logprob_R, rows.reference_R)
        loss_R = loss_R + terms.kl * kl_R
        metrics["kl"] = float(kl_R.detach().sum()) * each
    total = sequence_means(loss_R, rows).sum() if terms.average == "grpo" else loss_R.sum()
    if terms.entropy:
        total = total - terms.entropy * each * entropy_R.sum()
    return Loss(sum=total, weight=weight, metrics=metrics)
