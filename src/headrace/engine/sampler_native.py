"""Tokens and log-probabilities by the native kernels: what `sampler_torch` computes, far faster.

Only rows with edits are copied; the others are read where the model left them. Shapes: R rows, V
vocabulary, E rows with edits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headrace.engine.edits import apply_edits, edits
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
        edited = [r for r, row in enumerate(rows) if edits(row)]
        if not edited:
            rules = [_rule(row, 0) for row in rows]
            return sampling.sample(self._library, self._pool, logits_RV, rules)
        with torch.inference_mode():
            scores_EV = logits_RV[edited]
            apply_edits(scores_EV, [rows[r] for r in edited])
        first, step = scores_EV.data_ptr(), scores_EV.stride(0) * scores_EV.element_size()
        address = {r: first + e * step for e, r in enumerate(edited)}
        rules = [_rule(row, address.get(r, 0)) for r, row in enumerate(rows)]
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


def _rule(row: SampleRow, scores: int) -> bytes:
    params = row.sampling
    return sampling.rule(
        scores=scores,
        temperature=params.temperature,
        top_p=params.top_p,
        min_p=params.min_p,
        top_k=params.top_k,
        seed=row.seed,
        choice=row.choice,
        position=row.position,
    )
