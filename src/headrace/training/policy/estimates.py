"""Rewards -> advantages: relative to a group of completions (GRPO), or through time (PPO).

Pure functions over numpy. Legend: S completions, R completion tokens in the completions' order.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headrace.errors import DataError

Floats = NDArray[np.float64]
Scale = Literal["group", "batch", "none"]

_TINY = 1e-4  # TRL's and DeepSeek's: a group that all but agrees must not become all noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouped:
    """Advantages of completions, and how their groups fared."""

    advantage_S: Floats
    equal_groups: int
    """Groups in which all rewards are equal: nothing is learned from them."""
    mean_std: float
    """The standard deviation within a group, on average."""


def group_advantages(reward_S: Floats, *, group: int, scale: Scale) -> Grouped:
    """(reward - group's mean) / standard deviation; a group is `group` neighbours.

    Args:
        reward_S: Finite numbers.
        group: Completions a prompt.
        scale: Whose deviation divides: the group's, the whole batch's, or nobody's
            (arXiv 2503.20783, which shows that dividing weights easy and hard prompts up).

    Raises:
        DataError: No whole number of groups, groups of one, or a reward that is no number.
    """
    if group < 2 or len(reward_S) % group or not len(reward_S):
        raise DataError(
            f"{len(reward_S)} completions in groups of {group}: an advantage is relative to the "
            "group, so give groups of at least 2, and whole ones"
        )
    if not np.isfinite(reward_S).all():
        raise DataError(f"reward {int(np.argmin(np.isfinite(reward_S)))} is not a finite number")
    reward_GN = reward_S.reshape(-1, group)
    centred_GN = reward_GN - reward_GN.mean(1, keepdims=True)
    equal_G = (reward_GN == reward_GN[:, :1]).all(1)
    centred_GN[equal_G] = 0.0  # a mean of equal numbers may be off by a rounding
    std_G1 = reward_GN.std(1, ddof=1, keepdims=True)
    if scale == "group":
        centred_GN = centred_GN / (std_G1 + _TINY)
    elif scale == "batch":
        centred_GN = centred_GN / (reward_S.std(ddof=1) + _TINY)
    return Grouped(
        advantage_S=centred_GN.reshape(-1),
        equal_groups=int(equal_G.sum()),
        mean_std=float(std_G1.mean()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Gae:
    """Of each completion token."""

    advantage_R: Floats
    return_R: Floats
    """What the value head should have said: advantage + value."""


def gae(
    reward_R: Floats, value_R: Floats, sequence_R: NDArray[np.int64], *, gamma: float, lam: float
) -> Gae:
    """Generalised advantage estimates (arXiv 1506.02438, equation 16).

    `value_R` is of the state before each token. A completion's end is an end: the value after its
    last token is 0, whether it stopped by itself or was cut off.
    """
    advantage_R = np.zeros_like(reward_R)
    running, next_value = 0.0, 0.0
    for t in range(len(reward_R) - 1, -1, -1):
        if t + 1 == len(reward_R) or sequence_R[t + 1] != sequence_R[t]:
            running = next_value = 0.0
        delta = reward_R[t] + gamma * next_value - value_R[t]
        running = delta + gamma * lam * running
        advantage_R[t], next_value = running, value_R[t]
    return Gae(advantage_R=advantage_R, return_R=advantage_R + value_R)


def token_rewards(
    reward_S: Floats, log_ratio_R: Floats, sequence_R: NDArray[np.int64], *, kl: float
) -> Floats:
    """A completion's reward on its last token, less `kl` times log(policy / reference) on each.

    The k1 estimate of KL, in the reward rather than in the loss (InstructGPT, arXiv 2203.02155,
    equation 2). A completion without a token that counts gets none.
    """
    reward_R = -kl * log_ratio_R
    last_R = np.flatnonzero(np.diff(sequence_R, append=-1))
    reward_R[last_R] += reward_S[sequence_R[last_R]]
    return reward_R


def whitened(x_R: Floats) -> Floats:
    """Mean 0 and variance 1 over all tokens of a generation."""
    return (x_R - x_R.mean()) / np.sqrt(x_R.var() + 1e-8) if len(x_R) else x_R
