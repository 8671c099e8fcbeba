"""Scores before temperature: logit_bias, the three penalties, min_tokens, in this order.

Invariant: an edit touches the entries it names and no others, and costs their number, not the
vocabulary's. In float32, as the logits are. Shapes: E edited entries of one row, H of them of its
history.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sample_rows import History, SampleRow


def has_edits(row: SampleRow) -> bool:
    """Whether this row's scores are not simply its logits."""
    params = row.sampling
    return bool(
        params.logit_bias
        or History.read_by(params)
        or (row.position < params.min_tokens and row.end_ids)
    )


class RowEdits:
    """What changes in one row of logits: first which entries, then, given their logits, to what."""

    def __init__(self, row: SampleRow) -> None:
        params = row.sampling
        self._row = row
        self._history: History | None = None
        if History.read_by(params):
            assert row.history is not None, "a row with penalties comes with its history"
            self._history = row.history
        others: dict[int, int] = {}
        self._bias_at = self._places([token for token, _ in params.logit_bias], others)
        ends = row.end_ids if row.position < params.min_tokens else ()
        self._ends_at = self._places(ends, others)
        named = np.fromiter(others, dtype=np.int64, count=len(others))
        self.ids_E: NDArray[np.int64] = (
            named if self._history is None else np.concatenate((self._history.ids, named))
        )
        """Distinct."""

    def _places(self, tokens: Sequence[int], others: dict[int, int]) -> list[int]:
        """Where in `ids_E` each of the tokens is: the history's first, then the others."""
        history = self._history
        if history is None:
            return [others.setdefault(token, len(others)) for token in tokens]
        size = len(history.ids)
        places: list[int] = []
        for token in tokens:
            at = history.slot(token)
            places.append(others.setdefault(token, size + len(others)) if at is None else at)
        return places

    def apply(self, x_E: NDArray[np.float32]) -> None:
        """Make the logits of `ids_E` their scores, in place; they may become infinite or NaN."""
        params = self._row.sampling
        with np.errstate(all="ignore"):
            if self._bias_at:
                bias = np.array([bias for _, bias in params.logit_bias]).astype(np.float32)
                np.add.at(x_E, self._bias_at, bias)
            if self._history is not None:
                self._penalize(x_E[: len(self._history.ids)], self._history)
            if self._ends_at:
                x_E[self._ends_at] = -np.inf

    def _penalize(self, x_H: NDArray[np.float32], history: History) -> None:
        params = self._row.sampling
        repetition = np.float32(params.repetition_penalty)
        if repetition != 1.0:
            x_H[:] = np.where(x_H > 0, x_H / repetition, x_H * repetition)
        if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
            counts = history.counts
            x_H -= np.float32(params.frequency_penalty) * counts
            x_H -= np.float32(params.presence_penalty) * (counts > 0)
