"""GRPO and PPO as the loop's tasks: a batch of completions through the decoder, to a `Loss`.

Legend: T tokens of a batch, R tokens that count, D model width.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.training.logprobs import logprobs_entropy
from headrace.training.objectives.grpo import GrpoTerms, grpo, grpo_weight
from headrace.training.objectives.loss import Loss
from headrace.training.objectives.ppo import PpoTerms, ValueRows, ppo
from headrace.training.policy.batches import PolicyBatch
from headrace.training.task import hidden


class Seen(NamedTuple):
    """What the forward pass gives for the tokens that count."""

    hidden_RD: Tensor
    """Of the position before each: what it was drawn from."""
    logprob_R: Tensor
    entropy_R: Tensor


def see(decoder: Decoder, batch: PolicyBatch, *, temperature: float) -> Seen:
    """Run the model over a batch. The same parameters give the same bits each time."""
    hidden_TD = hidden(decoder, batch.packed)
    device = hidden_TD.device
    rows_R = torch.from_numpy(batch.rows_R).to(device)
    targets_R = torch.from_numpy(batch.packed.targets_T).to(device)[rows_R]
    hidden_RD = hidden_TD[rows_R]
    logprob_R, entropy_R = logprobs_entropy(
        hidden_RD, decoder.head_VD, targets_R, temperature=temperature
    )
    return Seen(hidden_RD, logprob_R, entropy_R)


@dataclass(frozen=True, slots=True)
class Grpo:
    """Group-relative policy optimisation."""

    terms: GrpoTerms = field(default_factory=GrpoTerms)
    temperature: float = 1.0
    """That the completions were drawn with."""

    def weight(self, batch: PolicyBatch, /) -> float:
        return grpo_weight(self.terms.average, batch.counts)

    def loss(self, decoder: Decoder, batch: PolicyBatch, /) -> Loss:
        seen = see(decoder, batch, temperature=self.temperature)
        rows = batch.policy_rows(seen.logprob_R)
        if self.terms.kl and rows.reference_R is None:
            raise DataError(f"kl {self.terms.kl} needs a reference, and the batch has none")
        found = grpo(seen.logprob_R, seen.entropy_R, rows, batch.counts, self.terms)
        return _with_stats(found, batch)


class ValueHead(nn.Module):
    """A hidden state -> the reward that is still to come; begins at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_RD: Tensor) -> Tensor:
        return hidden_RD.to(self.weight.dtype) @ self.weight + self.bias


@dataclass(frozen=True, slots=True)
class Ppo:
    """Proximal policy optimisation; the value head reads the policy's own hidden states."""

    head: ValueHead
    terms: PpoTerms = field(default_factory=PpoTerms)
    temperature: float = 1.0

    def weight(self, batch: PolicyBatch, /) -> float:
        return float(batch.counts.tokens)

    def loss(self, decoder: Decoder, batch: PolicyBatch, /) -> Loss:
        if batch.value_R is None or batch.return_R is None:
            raise DataError("PPO needs values and returns, and the batch has none")
        seen = see(decoder, batch, temperature=self.temperature)
        value_R = self.head(seen.hidden_RD).to(seen.logprob_R.dtype)
        values = ValueRows(
            old_R=torch.from_numpy(batch.value_R).to(value_R),
            return_R=torch.from_numpy(batch.return_R).to(value_R),
        )
        rows = batch.policy_rows(seen.logprob_R)
        found = ppo(seen.logprob_R, seen.entropy_R, value_R, rows, values, self.terms)
        return _with_stats(found, batch)


def _with_stats(loss: Loss, batch: PolicyBatch) -> Loss:
    stats = {name: value * loss.weight for name, value in batch.stats.items()}
    return Loss(sum=loss.sum, weight=loss.weight, metrics={**stats, **loss.metrics})
