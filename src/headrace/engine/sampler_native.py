"""Tokens and log-probabilities by the native kernels: what `sampler_torch` computes, far faster.

Logits are read where the model left them; edits are in them during the call only. Shapes: R rows, V
vocabulary, E edited entries of a row.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headrace.engine.edits import RowEdits, has_edits
from headrace.engine.sample_rows import SampleRow
from headrace.kernels import sampling
from headrace.kernels.library import Library
from headrace.kernels.native import Pool
from headrace.types import TokenLogprob


class NativeSampling:
    """`sampler.Arithmetic` by the library, over logits that `sampling.fits` approves of."""

    def __init__(self, library: Library, pool: Pool | None) -> None:
        """Share a pool with the model, or compute on the calling thread alone."""
        self._library = sampling.bind(library)
        self._pool = pool

    def draw(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        """A token a row, or `NOT_FINITE` or `NOTHING_LEFT`."""
        edited = {r: _edited(logits_RV, r, row) for r, row in enumerate(rows) if has_edits(row)}
        rules = [_rule(row, edited.get(r, _NO_EDITS)) for r, row in enumerate(rows)]
        return sampling.sample(self._library, self._pool, logits_RV, rules)

    def score(
        self, logits_RV: Tensor, targets: Sequence[int], tops: Sequence[int]
    ) -> list[TokenLogprob] | None:
        """Log-probabilities of targets[r] and the tops[r] best tokens; None = not all finite."""
        vocab = logits_RV.shape[1]
        tops = [min(k, vocab) for k in tops]
        found = sampling.logprobs(self._library, self._pool, logits_RV, targets=targets, tops=tops)
        if any(map(math.isnan, found.own)):
            return None
        return [
            TokenLogprob(token=target, logprob=own, top=tuple(zip(ids[:k], best[:k], strict=True)))
            for target, k, own, ids, best in zip(
                targets, tops, found.own, found.best_ids, found.best, strict=True
            )
        ]


class _Scores(NamedTuple):
    """A row's edited entries, in memory that outlives the call."""

    ids_E: NDArray[np.int64]
    scores_E: NDArray[np.float32]


_NO_EDITS = _Scores(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


def _edited(logits_RV: Tensor, r: int, row: SampleRow) -> _Scores:
    edits = RowEdits(row)
    x_V: NDArray[np.float32] = logits_RV[r].numpy()
    scores_E = x_V[edits.ids_E]
    edits.apply(scores_E)
    return _Scores(edits.ids_E, scores_E)


def _rule(row: SampleRow, edited: _Scores) -> bytes:
    params = row.sampling
    count = len(edited.ids_E)
    return sampling.rule(
        edit_ids=edited.ids_E.ctypes.data if count else 0,
        edit_scores=edited.scores_E.ctypes.data if count else 0,
        edits=count,
        temperature=params.temperature,
        top_p=params.top_p,
        min_p=params.min_p,
        top_k=params.top_k,
        seed=row.seed,
        choice=row.choice,
        position=row.position,
    )
