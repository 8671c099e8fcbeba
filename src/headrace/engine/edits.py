"""Scores before temperature: logit_bias, the three penalties, min_tokens, in this order.

Invariant: an edit touches the entries it names and no others, and costs their number, not the
vocabulary's. Shapes: R rows, V vocabulary, E edited entries.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.engine.sample_rows import History, SampleRow


def edits(row: SampleRow) -> bool:
    """Whether this row's scores are not simply its logits."""
    params = row.sampling
    return bool(
        params.logit_bias
        or params.repetition_penalty != 1.0
        or params.frequency_penalty != 0.0
        or params.presence_penalty != 0.0
        or (row.position < params.min_tokens and row.end_ids)
    )


def apply_edits(scores_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    """Make logits the scores that tokens are drawn from, in place."""
    for wanted, apply in (
        (_wants_bias, _add_bias),
        (_wants_repetition, _penalize_repetition),
        (_wants_counts, _penalize_counts),
        (_wants_min_tokens, _forbid_ends),
    ):
        picks = [r for r, row in enumerate(rows) if wanted(row)]
        if picks:
            apply(scores_RV, rows, picks)


def _wants_bias(row: SampleRow) -> bool:
    return bool(row.sampling.logit_bias)


def _wants_repetition(row: SampleRow) -> bool:
    return row.sampling.repetition_penalty != 1.0


def _wants_counts(row: SampleRow) -> bool:
    return row.sampling.frequency_penalty != 0.0 or row.sampling.presence_penalty != 0.0


def _wants_min_tokens(row: SampleRow) -> bool:
    return row.position < row.sampling.min_tokens and len(row.end_ids) > 0


def _add_bias(scores_RV: Tensor, rows: Sequence[SampleRow], picks: Sequence[int]) -> None:
    entries = [(r, token, bias) for r in picks for token, bias in rows[r].sampling.logit_bias]
    row_E, id_E, bias_E = zip(*entries, strict=True)
    where = _where(scores_RV, row_E, id_E)
    scores_RV.index_put_(where, _floats(scores_RV, bias_E), accumulate=True)


def _penalize_repetition(
    scores_RV: Tensor, rows: Sequence[SampleRow], picks: Sequence[int]
) -> None:
    def penalties(row: SampleRow, history: History) -> NDArray[np.float32]:
        return np.full(len(history.ids), row.sampling.repetition_penalty, dtype=np.float32)

    where, penalty_E = _history_entries(scores_RV, rows, picks, penalties)
    x_E = scores_RV[where]
    scores_RV[where] = torch.where(x_E > 0, x_E / penalty_E, x_E * penalty_E)


def _penalize_counts(scores_RV: Tensor, rows: Sequence[SampleRow], picks: Sequence[int]) -> None:
    def penalties(row: SampleRow, history: History) -> NDArray[np.float32]:
        frequency = np.float32(row.sampling.frequency_penalty)
        presence = np.float32(row.sampling.presence_penalty)
        return frequency * history.counts + presence * (history.counts > 0)

    where, penalty_E = _history_entries(scores_RV, rows, picks, penalties)
    scores_RV[where] -= penalty_E


def _forbid_ends(scores_RV: Tensor, rows: Sequence[SampleRow], picks: Sequence[int]) -> None:
    entries = [(r, token) for r in picks for token in rows[r].end_ids]
    row_E, id_E = zip(*entries, strict=True)
    scores_RV[_where(scores_RV, row_E, id_E)] = -torch.inf


def _history_entries(
    scores_RV: Tensor,
    rows: Sequence[SampleRow],
    picks: Sequence[int],
    penalties: Callable[[SampleRow, History], NDArray[np.float32]],
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    row_parts: list[NDArray[np.int64]] = []
    id_parts: list[NDArray[np.int64]] = []
    penalty_parts: list[NDArray[np.float32]] = []
    for r in picks:
        history = rows[r].history
        assert history is not None, "a row with penalties comes with its history"
        row_parts.append(np.full(len(history.ids), r, dtype=np.int64))
        id_parts.append(history.ids)
        penalty_parts.append(penalties(rows[r], history))
    where = _where(scores_RV, np.concatenate(row_parts), np.concatenate(id_parts))
    return where, _floats(scores_RV, np.concatenate(penalty_parts))


def _where(
    scores_RV: Tensor,
    row_E: Sequence[int] | NDArray[np.int64],
    id_E: Sequence[int] | NDArray[np.int64],
) -> tuple[Tensor, Tensor]:
    device = scores_RV.device
    return torch.as_tensor(row_E, device=device), torch.as_tensor(id_E, device=device)


def _floats(scores_RV: Tensor, values_E: Sequence[float] | NDArray[np.float32]) -> Tensor:
    return torch.as_tensor(values_E, dtype=scores_RV.dtype, device=scores_RV.device)
