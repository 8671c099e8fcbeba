"""A policy, prompts and rewards -> the batches of every step: sampled, judged, and kept while used.

A generation is `prompts x group` completions. Its first use samples it; then it is cut into
`minibatches` shares, over which `epochs` passes are made, a share a step. Old log-probabilities
come from the training forward pass over exactly the batches that will be trained on, so that on the
first inner step the importance ratio is exactly 1: the sampler's own, computed a token at a time,
differ by rounding, and by how much is logged (`mismatch_kl`, `mismatch_max`).

Invariant: a generation is a function of (seed, its number, the parameters); what is in use is part
of a checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.data import order
from headrace.model.decoder import Decoder
from headrace.training.policy.batches import (
    PolicyBatch,
    Reals,
    as_tensors,
    from_tensors,
    per_token,
    shares,
    with_stats,
)
from headrace.training.policy.estimates import (
    Scale,
    gae,
    group_advantages,
    token_rewards,
    whitened,
)
from headrace.training.policy.rewards import Record, Reward, scores
from headrace.training.policy.rollouts import Asking, Completion, Sampler, roll_out
from headrace.training.policy.tasks import ValueHead, see

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A prompt, ready to be continued, and what its rewards read."""

    prompt_ids: tuple[int, ...]
    record: Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Uses:
    """How a generation is used."""

    prompts: int
    """A generation."""
    minibatches: int = 1
    """Steps that one pass makes."""
    epochs: int = 1
    """Passes."""
    batch_tokens: int = 4096
    """Positions a forward pass holds."""
    mask_truncated: bool = False
    """Completions that were cut off teach nothing."""

    @property
    def steps(self) -> int:
        return self.minibatches * self.epochs


class Advantage(Protocol):
    """What makes rewards advantages."""

    @property
    def head(self) -> ValueHead | None:
        """To be run over every batch before it is called."""
        ...

    def __call__(
        self, batches: Sequence[PolicyBatch], reward_S: Floats, /
    ) -> tuple[list[PolicyBatch], Mapping[str, float]]:
        """The batches with advantages, and what was measured; S in the batches' order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRelative:
    """GRPO's: a completion against its group."""

    group: int
    scale: Scale = "group"
    head: ValueHead | None = None

    def __call__(
        self, batches: Sequence[PolicyBatch], reward_S: Floats, /
    ) -> tuple[list[PolicyBatch], Mapping[str, float]]:
        found = group_advantages(reward_S, group=self.group, scale=self.scale)
        done: list[PolicyBatch] = []
        start = 0
        for batch in batches:
            end = start + batch.counts.sequences
            advantage_R = per_token(batch, found.advantage_S[start:end])
            done.append(replace(batch, advantage_R=advantage_R))
            start = end
        groups = len(reward_S) // self.group
        return done, {
            "reward_std": found.mean_std,
            "equal_groups": found.equal_groups / groups,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ThroughTime:
    """PPO's: generalised advantage estimates with a value head, and KL in the reward."""

    head: ValueHead
    gamma: float = 1.0
    lam: float = 0.95
    kl: float = 0.05
    """Times log(policy / reference), taken off each token's reward."""
    whiten: bool = True

    def __call__(
        self, batches: Sequence[PolicyBatch], reward_S: Floats, /
    ) -> tuple[list[PolicyBatch], Mapping[str, float]]:
        done: list[PolicyBatch] = []
        start, log_ratio = 0, 0.0
        for batch in batches:
            assert batch.value_R is not None, "the head ran"
            end = start + batch.counts.sequences
            reference_R = batch.old_R if batch.reference_R is None else batch.reference_R
            log_ratio_R = batch.old_R.astype(np.float64) - reference_R.astype(np.float64)
            reward_R = token_rewards(reward_S[start:end], log_ratio_R, batch.sequence_R, kl=self.kl)
            value_R = batch.value_R.astype(np.float64)
            found = gae(reward_R, value_R, batch.sequence_R, gamma=self.gamma, lam=self.lam)
            done.append(replace(batch, advantage_R=found.advantage_R, return_R=found.return_R))
            start, log_ratio = end, log_ratio + float(log_ratio_R.sum())
        every: Floats = np.concatenate([batch.advantage_R for batch in done]).astype(np.float64)
        stats = {
            "reward_std": float(reward_S.std()),
            "kl": log_ratio / max(1, len(every)),
            "value": _mean([batch.value_R for batch in done]),
            "return": _mean([batch.return_R for batch in done]),
        }
        if self.whiten:
            white = np.split(
                whitened(every), np.cumsum([batch.counts.tokens for batch in done])[:-1]
            )
            done = [replace(b, advantage_R=part) for b, part in zip(done, white, strict=True)]
        return done, stats


@dataclass(frozen=True, kw_only=True, slots=True)
class Collector:
    """Everything that a generation takes."""

    decoder: Decoder
    sampler: Sampler
    """Of the same parameters."""
    questions: Sequence[Question]
    rewards: Sequence[Reward]
    spell: Callable[[Sequence[int]], str]
    """Ids -> text that the rewards read."""
    asking: Asking
    uses: Uses
    advantage: Advantage
    reference: Decoder | None = None
    seed: int = 0

    def collect(self, generation: int) -> list[list[PolicyBatch]]:
        """The shares of a generation, each as batches."""
        chosen = [
            self.questions[index]
            for index in order.documents(
                seed=self.seed,
                step=generation,
                count=len(self.questions),
                per_step=self.uses.prompts,
            )
        ]
        completions = roll_out(
            self.sampler,
            [question.prompt_ids for question in chosen],
            self.asking,
            seed=(self.seed << 40) + generation * self.uses.prompts,
        )
        reward_S, stats = self._judged(completions, chosen)
        cut = shares(
            completions,
            parts=self.uses.minibatches,
            max_tokens=self.uses.batch_tokens,
            max_completion_tokens=self.asking.max_tokens,
            mask_truncated=self.uses.mask_truncated,
        )
        observed = [self._observed(batch) for share in cut for batch in share]
        mismatch = _mismatch([o.mismatch_R for o in observed])
        batches, measured = self.advantage([o.batch for o in observed], reward_S)
        stats = {**stats, **mismatch, **measured}
        flat = iter(with_stats(batch, stats) for batch in batches)
        return [[next(flat) for _ in share] for share in cut]

    def _judged(
        self, completions: Sequence[Completion], chosen: Sequence[Question]
    ) -> tuple[Floats, dict[str, float]]:
        answers = [self.spell(completion.ids) for completion in completions]
        records = [chosen[completion.prompt].record for completion in completions]
        each = scores(self.rewards, answers, records)
        reward_S = each @ np.array([one.factor for one in self.rewards])
        stats = {
            "reward": float(reward_S.mean()),
            "truncated": sum(c.truncated for c in completions) / len(completions),
            "completion_tokens": sum(len(c.ids) for c in completions) / len(completions),
        }
        for one, column in zip(self.rewards, each.T, strict=True):
            stats[f"reward_{one.name}"] = float(column.mean())
        return reward_S, stats

    @torch.no_grad()
    def _observed(self, batch: PolicyBatch) -> "_Observed":
        temperature = self.asking.temperature
        seen = see(self.decoder, batch, temperature=temperature)
        plain_R = seen.logprob_R
        if temperature != 1.0:  # the sampler tells what it saw before temperature
            plain_R = see(self.decoder, batch, temperature=1.0).logprob_R
        head, reference = self.advantage.head, self.reference
        known: dict[str, Reals] = {"old_R": seen.logprob_R.cpu().numpy()}
        if head is not None:
            known["value_R"] = head(seen.hidden_RD).cpu().numpy()
        if reference is not None:
            theirs = see(reference, batch, temperature=temperature)
            known["reference_R"] = theirs.logprob_R.cpu().numpy()
        mismatch_R: Floats = plain_R.double().cpu().numpy() - batch.sampled_R.astype(np.float64)
        return _Observed(batch=replace(batch, **known), mismatch_R=mismatch_R)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Observed:
    batch: PolicyBatch
    mismatch_R: Floats
    """log(trained / sampled)."""


class Experience:
    """The batches of each step; a generation is sampled when its first step asks for it."""

    def __init__(self, collect: Callable[[int], list[list[PolicyBatch]]], uses: Uses) -> None:
        self._collect = collect
        self._uses = uses
        self._held: list[list[PolicyBatch]] = []

    def batches(self, step: int) -> Sequence[PolicyBatch]:
        """`loop.Trainee.batches`."""
        generation, use = divmod(step, self._uses.steps)
        if use == 0:
            self._held = self._collect(generation)
        return self._held[use % self._uses.minibatches]

    def state(self) -> dict[str, Tensor]:
        """As `state.Memory`."""
        return {
            f"{place}.{number}.{name}": tensor
            for place, share in enumerate(self._held)
            for number, batch in enumerate(share)
            for name, tensor in as_tensors(batch).items()
        }

    def restore(self, state: Mapping[str, Tensor], /) -> None:
        """As `state.Memory`."""
        parts: dict[int, dict[int, dict[str, Tensor]]] = {}
        for key, tensor in state.items():
            place, number, name = key.split(".", 2)
            parts.setdefault(int(place), {}).setdefault(int(number), {})[name] = tensor
        self._held = [
            [from_tensors(batch) for _, batch in sorted(share.items())]
            for _, share in sorted(parts.items())
        ]


def _mismatch(parts: Sequence[Floats]) -> dict[str, float]:
    log_R = np.concatenate(parts)
    if not len(log_R):
        return {"mismatch_kl": 0.0, "mismatch_max": 0.0}
    return {
        "mismatch_kl": float((np.expm1(log_R) - log_R).mean()),
        "mismatch_max": float(np.abs(log_R).max()),
    }


def _mean(parts: Sequence[Reals | None]) -> float:
    known = np.concatenate([part for part in parts if part is not None])
    return float(known.mean()) if len(known) else 0.0
