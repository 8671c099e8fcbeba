"""Knowledge distillation as the loop's task: student and teacher over the same batch.

Which batches is not decided here: texts of a data set (logit distillation), or the student's own
completions (on-policy, GKD: arXiv 2306.13649).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from headrace.data.pack import PackedBatch
from headrace.model.decoder import Decoder
from headrace.training import objectives
from headrace.training.objectives.divergence import Divergence, Scored, divergence
from headrace.training.objectives.loss import Loss
from headrace.training.task import hidden, supervised_tokens


@dataclass(frozen=True, slots=True)
class Distill:
    """(1 - text) x divergence from the teacher + text x cross entropy of the batch's tokens."""

    teacher: Decoder
    kind: Divergence = field(default_factory=Divergence)
    text: float = 0.0
    """The share of the text itself; 0 = the teacher alone."""

    def weight(self, batch: PackedBatch, /) -> float:
        return supervised_tokens(batch)

    def loss(self, decoder: Decoder, batch: PackedBatch, /) -> Loss:
        own = Scored(hidden(decoder, batch), decoder.head_VD)
        apart = self._apart(own, batch)
        total = apart if not self.text else (1 - self.text) * apart
        metrics = {"divergence": float(apart.detach())}
        if self.text:
            spoken = objectives.next_token(*own, batch)
            total = total + self.text * spoken.sum
            metrics["text_loss"] = float(spoken.sum.detach())
        return Loss(sum=total, weight=supervised_tokens(batch), metrics=metrics)

    @torch.no_grad()
    def measure(self, decoder: Decoder, batch: PackedBatch) -> Loss:
        """The divergence alone, to look at."""
        own = Scored(hidden(decoder, batch), decoder.head_VD)
        return Loss(sum=self._apart(own, batch), weight=supervised_tokens(batch))

    def _apart(self, own: Scored, batch: PackedBatch) -> Tensor:
        with torch.no_grad():
            theirs = Scored(hidden(self.teacher, batch), self.teacher.head_VD)
        weight_T = torch.from_numpy(batch.weight_T).to(own.hidden_TD.device)
        return divergence(own, theirs, weight_T, self.kind)
