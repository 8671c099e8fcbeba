"""Completions, advantages and what older models thought of them -> batches, and back to tensors.

Legend: T tokens of a batch, R of them that count (tokens of completions that are not left out), S
completions.

Invariant: every array of length R is in the order in which the tokens that count stand in the
batch; `weight_T` is 1 exactly there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.data.pack import PackedBatch, TokenRow, pack
from headrace.errors import DataError
from headrace.training.objectives.grpo import Counts
from headrace.training.objectives.policy import PolicyRows
from headrace.training.policy.rollouts import Completion

Reals = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyBatch:
    """Completions that run together."""

    packed: PackedBatch
    sampled_R: Reals
    """Log-probability as the sampler saw it, at temperature 1."""
    advantage_R: Reals
    old_R: Reals
    """Log-probability by the training forward pass over this batch, before the first update."""
    counts: Counts
    reference_R: Reals | None = None
    value_R: Reals | None = None
    """What the value head said of the state before each token."""
    return_R: Reals | None = None
    stats: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of the whole generation, the same in each of its batches; logged with every step on it."""

    @property
    def tokens(self) -> int:
        return self.packed.tokens

    @property
    def rows_R(self) -> NDArray[np.int64]:
        """Where the tokens that count stand among T."""
        return np.flatnonzero(self.packed.weight_T)

    @property
    def sequence_R(self) -> NDArray[np.int64]:
        """Which completion of the batch each belongs to."""
        return self.packed.doc_T[self.rows_R]

    def policy_rows(self, like: Tensor) -> PolicyRows:
        """For the objectives, in the type and on the device of `like`."""

        def tensor(values: Reals) -> Tensor:
            return torch.from_numpy(values).to(like)

        return PolicyRows(
            sequence_R=torch.from_numpy(self.sequence_R).to(like.device),
            sequences=self.counts.sequences,
            advantage_R=tensor(self.advantage_R),
            old_R=tensor(self.old_R),
            reference_R=None if self.reference_R is None else tensor(self.reference_R),
        )


def shares(
    completions: Sequence[Completion],
    *,
    parts: int,
    max_tokens: int,
    max_completion_tokens: int,
    mask_truncated: bool = False,
) -> list[list[PolicyBatch]]:
    """The completions in `parts` shares of equal size, each as batches; nothing known of them yet.

    Shares are of neighbours, so that a group stays together where groups divide evenly.

    Args:
        completions: Of one generation.
        parts: Updates that one pass over the generation makes.
        max_tokens: Positions a batch holds.
        max_completion_tokens: The longest a completion may be.
        mask_truncated: Completions that were cut off count as completions, and none of their tokens
            does.

    Raises:
        DataError: Shares of unequal size, a completion that no batch holds, or none that counts.
    """
    if parts < 1 or len(completions) % parts or not completions:
        raise DataError(
            f"{len(completions)} completions cannot be {parts} shares of equal size; make "
            "prompts_per_rollout x group a multiple of minibatches"
        )
    kept = [not (mask_truncated and completion.truncated) for completion in completions]
    tokens = sum(
        len(completion.ids) for completion, keep in zip(completions, kept, strict=True) if keep
    )
    if not tokens:
        raise DataError(
            f"all {len(completions)} completions reached {max_completion_tokens} tokens and "
            "mask_truncated leaves them out; raise max_tokens, or set mask_truncated=false"
        )
    mean_tokens = tokens / len(completions)
    size = len(completions) // parts
    return [
        [
            _batch(members, [kept[n] for n in numbers], mean_tokens, max_completion_tokens)
            for numbers in _bins(completions, range(start, start + size), max_tokens)
            for members in [[completions[n] for n in numbers]]
        ]
        for start in range(0, len(completions), size)
    ]


def per_token(batch: PolicyBatch, value_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """A completion's number on each of its tokens that count; S are the batch's own."""
    return value_S[batch.sequence_R]


def _bins(completions: Sequence[Completion], numbers: range, max_tokens: int) -> list[list[int]]:
    """In order, as many together as fit."""
    bins: list[list[int]] = [[]]
    room = max_tokens
    for number in numbers:
        size = len(completions[number].prompt_ids) + len(completions[number].ids) - 1
        if size > max_tokens:
            raise DataError(
                f"a prompt with its completion has {size} positions, a batch holds {max_tokens}; "
                f"raise batch_tokens to {size}"
            )
        if size > room and bins[-1]:
            bins.append([])
            room = max_tokens
        bins[-1].append(number)
        room -= size
    return bins


def _batch(
    members: Sequence[Completion],
    kept: Sequence[bool],
    mean_tokens: float,
    max_completion_tokens: int,
) -> PolicyBatch:
    rows = [
        TokenRow(
            ids=np.array([*member.prompt_ids, *member.ids], np.int32),
            weights=np.repeat(
                np.array([0.0, keep], np.float32), [len(member.prompt_ids), len(member.ids)]
            ),
        )
        for member, keep in zip(members, kept, strict=True)
    ]
    size = sum(len(row.ids) - 1 for row in rows)
    (packed,) = pack(rows, max_tokens=size)
    sampled_R = np.array(
        [x for member, keep in zip(members, kept, strict=True) if keep for x in member.logprobs],
        np.float64,
    )
    zero_R = np.zeros(len(sampled_R))
    counts = Counts(
        sequences=len(members),
        tokens=len(sampled_R),
        max_completion_tokens=max_completion_tokens,
        mean_tokens=mean_tokens,
    )
    return PolicyBatch(
        packed=packed, sampled_R=sampled_R, advantage_R=zero_R, old_R=zero_R, counts=counts
    )


# --- to tensors and back, for checkpoints ------------------------------------------------------

_PACKED = tuple(f.name for f in fields(PackedBatch))
_ARRAYS = ("sampled_R", "advantage_R", "old_R", "reference_R", "value_R", "return_R")


def as_tensors(batch: PolicyBatch) -> dict[str, Tensor]:
    """Everything a batch holds."""
    found = {name: getattr(batch.packed, name) for name in _PACKED}
    found |= {name: getattr(batch, name) for name in _ARRAYS}
    tensors = {name: torch.from_numpy(a) for name, a in found.items() if a is not None}
    counts = batch.counts
    tensors["counts"] = torch.tensor(
        [counts.sequences, counts.tokens, counts.max_completion_tokens, counts.mean_tokens],
        dtype=torch.float64,
    )
    for name, value in batch.stats.items():
        tensors[f"stats.{name}"] = torch.tensor([value], dtype=torch.float64)
    return tensors


def from_tensors(tensors: Mapping[str, Tensor]) -> PolicyBatch:
    """Exactly what `as_tensors` was given."""
    sequences, tokens, longest, mean_tokens = tensors["counts"].tolist()
    arrays = {name: tensors[name].numpy() for name in _ARRAYS if name in tensors}
    return PolicyBatch(
        packed=PackedBatch(**{name: tensors[name].numpy() for name in _PACKED}),
        counts=Counts(
            sequences=int(sequences),
            tokens=int(tokens),
            max_completion_tokens=int(longest),
            mean_tokens=mean_tokens,
        ),
        stats={
            name.removeprefix("stats."): float(value)
            for name, value in tensors.items()
            if name.startswith("stats.")
        },
        **arrays,
    )


def with_stats(batch: PolicyBatch, stats: Mapping[str, float]) -> PolicyBatch:
    """The batch, with what its generation measured."""
    return replace(batch, stats=dict(stats))
