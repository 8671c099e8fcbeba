"""A teacher's best tokens at every supervised position, computed once: it need not run again.

    kept = store(teacher, rows, k=64, temperature=1.0, max_tokens=4096, path=..., key=...)
    batches = [batch, ...] = kept.batches(numbers, max_tokens=4096)     # of rows by their numbers

Legend: N rows, R supervised positions of a batch, P of all rows, K tokens that are kept,
J = K + 1 outcomes.

Invariant: a row's entries stand in the order of its supervised positions; a file is used only for
the teacher, rows, K and temperature that it was made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headrace.data.pack import PackedBatch, TokenRow
from headrace.model.decoder import Decoder
from headrace.training import objectives
from headrace.training.objectives.divergence import (
    BestTokens,
    Divergence,
    Scored,
    best_tokens,
    divergence_from_best,
)
from headrace.training.objectives.loss import Loss
from headrace.training.preference.batches import bundled
from headrace.training.task import hidden, supervised_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBatch:
    """Rows that run together, and what the teacher said of them."""

    packed: PackedBatch
    ids_RK: Tensor
    logprob_RJ: Tensor

    @property
    def tokens(self) -> int:
        return self.packed.tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Rows and the teacher's best tokens."""

    rows: Sequence[TokenRow]
    ids_PK: Tensor
    logprob_PJ: Tensor
    start_N1: NDArray[np.int64]
    """Where each row's entries begin among P, and P."""

    def batches(self, numbers: Sequence[int], *, max_tokens: int) -> list[StoredBatch]:
        """Some rows, packed, longest first so that they fit tightly."""
        chosen = sorted(numbers, key=lambda number: -len(self.rows[number].ids))
        made: list[StoredBatch] = []
        for bundle in bundled([(self.rows[n],) for n in chosen], max_tokens=max_tokens):
            spans = [self.start_N1[chosen[g] : chosen[g] + 2].tolist() for g in bundle.groups]
            at_R = torch.cat([torch.arange(start, end) for start, end in spans])
            made.append(
                StoredBatch(
                    packed=bundle.packed,
                    ids_RK=self.ids_PK[at_R].long(),
                    logprob_RJ=self.logprob_PJ[at_R],
                )
            )
        return made


@torch.no_grad()
def store(
    teacher: Decoder,
    rows: Sequence[TokenRow],
    *,
    k: int,
    temperature: float,
    max_tokens: int,
    path: Path,
    key: str,
) -> Stored:
    """Run the teacher over every row once, or take what an earlier call kept in `path`.

    Args:
        teacher: Of the rows' vocabulary.
        rows: All that will be trained on.
        k: Tokens of each position.
        temperature: Of the divergence.
        max_tokens: Positions a forward pass holds.
        path: The file.
        key: Of teacher, rows, `k` and `temperature`; another one's file is written over.
    """
    counts = [int(np.count_nonzero(row.weights[1:])) for row in rows]
    start_N1 = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    found = _kept(path, key)
    if found is None:
        found = _computed(teacher, rows, start_N1, k, temperature, max_tokens)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({"ids": found.ids_TK, "logprob": found.logprob_TJ}, partial, {"key": key})
        partial.replace(path)
    return Stored(rows=rows, ids_PK=found.ids_TK, logprob_PJ=found.logprob_TJ, start_N1=start_N1)


@dataclass(frozen=True, slots=True)
class DistillStored:
    """`Distill` from what was stored of the teacher."""

    kind: Divergence = field(default_factory=Divergence)
    text: float = 0.0
    """The share of the text itself; 0 = the teacher alone."""

    def weight(self, batch: StoredBatch, /) -> float:
        return supervised_tokens(batch.packed)

    def loss(self, decoder: Decoder, batch: StoredBatch, /) -> Loss:
        hidden_TD = hidden(decoder, batch.packed)
        weight_T = torch.from_numpy(batch.packed.weight_T).to(hidden_TD.device)
        rows_R = weight_T.nonzero().squeeze(1)
        best = BestTokens(batch.ids_RK.to(rows_R.device), batch.logprob_RJ.to(rows_R.device))
        own = Scored(hidden_TD[rows_R], decoder.head_VD)
        apart = divergence_from_best(own, best, weight_T[rows_R], self.kind)
        total = apart if not self.text else (1 - self.text) * apart
        metrics = {"divergence": float(apart.detach())}
        if self.text:
            spoken = objectives.next_token(hidden_TD, decoder.head_VD, batch.packed)
            total = total + self.text * spoken.sum
            metrics["text_loss"] = float(spoken.sum.detach())
        return Loss(sum=total, weight=self.weight(batch), metrics=metrics)


def _computed(
    teacher: Decoder,
    rows: Sequence[TokenRow],
    start_N1: NDArray[np.int64],
    k: int,
    temperature: float,
    max_tokens: int,
) -> BestTokens:
    width = min(k, teacher.head_VD.shape[0])
    ids_PK = torch.empty(int(start_N1[-1]), width, dtype=torch.int32)
    logprob_PJ = torch.empty(int(start_N1[-1]), width + 1, dtype=torch.float32)
    for bundle in bundled([(row,) for row in rows], max_tokens=max_tokens):
        hidden_TD = hidden(teacher, bundle.packed)
        rows_R = torch.from_numpy(np.flatnonzero(bundle.packed.weight_T)).to(hidden_TD.device)
        best = best_tokens(
            Scored(hidden_TD[rows_R], teacher.head_VD), width, temperature=temperature
        )
        spans = [(int(start_N1[n]), int(start_N1[n + 1])) for n in bundle.groups]
        at_R = torch.cat([torch.arange(start, end) for start, end in spans])
        ids_PK[at_R] = best.ids_TK.to("cpu", torch.int32)
        logprob_PJ[at_R] = best.logprob_TJ.to("cpu", torch.float32)
    return BestTokens(ids_PK, logprob_PJ)


def _kept(path: Path, key: str) -> BestTokens | None:
    """What the file holds, if it is whole and of the same key; else it is made again."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return BestTokens(file.get_tensor("ids"), file.get_tensor("logprob"))
    except (OSError, SafetensorError):
        return None
