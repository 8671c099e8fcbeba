"""DPO's family, ORPO, KTO and reward models as tasks of the loop.

Legend: B pairs (or answers) of a batch, D model width. The unit of weight is a pair (KTO: an
answer); metrics are sums over units. Means over tokens (ORPO's and RPO's cross entropy) are over
the step's tokens, so how a step is cut into batches changes neither loss nor gradient.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.training.objectives.dpo import DpoSettings, PairLogps, dpo
from headrace.training.objectives.kto import KtoSettings, kto
from headrace.training.objectives.loss import Loss
from headrace.training.objectives.orpo import OrpoSettings, odds_ratio
from headrace.training.objectives.reward import RewardSettings, bradley_terry
from headrace.training.preference.batches import AnswerBatch, PairBatch
from headrace.training.preference.logps import answer_logps, document_sums, token_logps
from headrace.training.task import hidden


@dataclass(frozen=True, slots=True)
class Dpo:
    """Prefer the chosen answer by more than the reference does; IPO, hinge and their kin too."""

    settings: DpoSettings

    def weight(self, batch: PairBatch, /) -> float:
        return batch.pairs

    def loss(self, decoder: Decoder, batch: PairBatch, /) -> Loss:
        logp_B2 = answer_logps(decoder, batch.packed).unflatten(0, (-1, 2))
        reference_B2 = torch.from_numpy(batch.reference_B2).to(logp_B2.device)
        tokens_B2 = _answer_tokens(batch, logp_B2.device)
        pairs = PairLogps(
            chosen_B=logp_B2[:, 0],
            rejected_B=logp_B2[:, 1],
            reference_chosen_B=reference_B2[:, 0],
            reference_rejected_B=reference_B2[:, 1],
            chosen_tokens_B=tokens_B2[:, 0],
            rejected_tokens_B=tokens_B2[:, 1],
        )
        total = dpo(pairs, self.settings).sum()
        metrics = _preferred(
            self.settings.beta * pairs.chosen_ratio_B, self.settings.beta * pairs.rejected_ratio_B
        )
        if self.settings.sft_weight:
            scale = batch.step.pairs / batch.step.chosen_tokens
            entropy = -scale * logp_B2[:, 0].sum()
            total = total + self.settings.sft_weight * entropy
            metrics["sft_loss"] = float(entropy.detach())
        return Loss(sum=total, weight=batch.pairs, metrics=metrics)


@dataclass(frozen=True, slots=True)
class Orpo:
    """Cross entropy of the chosen conversation, and odds against the rejected answer."""

    settings: OrpoSettings

    def weight(self, batch: PairBatch, /) -> float:
        return batch.pairs

    def loss(self, decoder: Decoder, batch: PairBatch, /) -> Loss:
        supervised_T = batch.packed.weight_T != 0
        chosen_T = batch.packed.doc_T % 2 == 0
        whole = self.settings.sft_prompt
        wanted_T = supervised_T | chosen_T if whole else supervised_T
        logp_T = token_logps(decoder, batch.packed, wanted_T)
        device = logp_T.device
        answer_T = logp_T * torch.from_numpy(supervised_T).to(device)
        mean_B2 = document_sums(answer_T, batch.packed).unflatten(0, (-1, 2)) / _answer_tokens(
            batch, device
        )
        odds = odds_ratio(mean_B2[:, 0], mean_B2[:, 1]).sum()
        supervised = batch.step.chosen_positions if whole else batch.step.chosen_tokens
        entropy = -(logp_T * torch.from_numpy(chosen_T).to(device)).sum()
        entropy = entropy * batch.step.pairs / supervised
        beta = self.settings.beta
        metrics = _preferred(beta * mean_B2[:, 0], beta * mean_B2[:, 1])
        metrics |= {"sft_loss": float(entropy.detach()), "odds_loss": float(odds.detach())}
        return Loss(sum=entropy + beta * odds, weight=batch.pairs, metrics=metrics)


@dataclass(frozen=True, slots=True)
class Kto:
    """Good answers above the policy's drift from the reference, bad ones below it."""

    settings: KtoSettings

    def weight(self, batch: AnswerBatch, /) -> float:
        return len(batch.good_B)

    def loss(self, decoder: Decoder, batch: AnswerBatch, /) -> Loss:
        logp_B = answer_logps(decoder, batch.packed)
        ratio_B = logp_B - torch.from_numpy(batch.reference_B).to(logp_B.device)
        good_B = torch.from_numpy(batch.good_B).to(logp_B.device)
        losses_B = kto(ratio_B, good_B, ratio_B.new_tensor(batch.kl), self.settings)
        reward_B = self.settings.beta * ratio_B.detach()
        weight, answers, good = len(batch.good_B), batch.step.answers, batch.step.good
        right_B = (reward_B > self.settings.beta * batch.kl) == good_B
        metrics = {"accuracy": float(right_B.sum()), "kl": batch.kl * weight}
        if good:  # a mean over the good alone, as a sum over all
            metrics["good_reward"] = float(reward_B[good_B].sum()) * answers / good
        if good < answers:
            metrics["bad_reward"] = float(reward_B[~good_B].sum()) * answers / (answers - good)
        return Loss(sum=losses_B.sum(), weight=weight, metrics=metrics)


@dataclass(frozen=True, slots=True)
class Reward:
    """A scalar for a whole conversation, higher for the chosen one (Bradley-Terry)."""

    settings: RewardSettings
    head: nn.Linear
    """The hidden state of the one supervised position of each row -> its score."""

    def weight(self, batch: PairBatch, /) -> float:
        return batch.pairs

    def loss(self, decoder: Decoder, batch: PairBatch, /) -> Loss:
        rows = np.flatnonzero(batch.packed.weight_T)
        if len(rows) != 2 * batch.pairs:
            raise DataError(
                f"{len(rows)} positions of {2 * batch.pairs} rows are to be scored; a reward row "
                "has exactly one"
            )
        hidden_TD = hidden(decoder, batch.packed)
        hidden_SD = hidden_TD[torch.from_numpy(rows).to(hidden_TD.device)]
        score_S1 = self.head(hidden_SD.to(self.head.weight.dtype))
        score_B2 = score_S1.double().view(-1, 2)
        margin_B = torch.from_numpy(batch.margin_B).to(score_B2.device)
        losses_B = bradley_terry(score_B2[:, 0], score_B2[:, 1], margin_B, self.settings)
        metrics = _preferred(score_B2[:, 0], score_B2[:, 1])
        return Loss(sum=losses_B.sum(), weight=batch.pairs, metrics=metrics)


def _answer_tokens(batch: PairBatch, device: torch.device) -> Tensor:
    """Supervised tokens of each side, `[B, 2]`."""
    counts_S = np.bincount(batch.packed.doc_T, weights=batch.packed.weight_T != 0)
    return torch.from_numpy(counts_S.reshape(-1, 2)).to(device)


def _preferred(chosen_B: Tensor, rejected_B: Tensor) -> dict[str, float]:
    """How often and by how much the chosen side has the higher (implicit) reward."""
    margin_B = (chosen_B - rejected_B).detach()
    return {
        "accuracy": float((margin_B > 0).sum()),
        "margin": float(margin_B.sum()),
        "chosen_reward": float(chosen_B.detach().sum()),
        "rejected_reward": float(rejected_B.detach().sum()),
    }
