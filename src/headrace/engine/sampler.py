"""Logits become tokens: one `SampleRow` a row, in the order that `types.SamplingParams` states.

Invariants: a row's token depends on its own logits, parameters, history and (seed, choice,
position) only, never on the batch; ties go to the lowest id; a row that cannot be sampled becomes
`Unsampled` and leaves the others alone. Log-probabilities are of the raw logits.
Shapes: R rows, T rows of a prompt, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from headrace.engine.sample_rows import (
    History,
    Outcome,
    Sampled,
    SampleRow,
    Unsampled,
    check_sampling,
)
from headrace.engine.sampler_native import NativeSampling
from headrace.engine.sampler_torch import TorchSampling
from headrace.errors import ServiceError
from headrace.kernels import sampling
from headrace.kernels.native import Pool, library
from headrace.types import TokenLogprob

__all__ = [
    "Arithmetic",
    "History",
    "Outcome",
    "SampleRow",
    "Sampled",
    "Unsampled",
    "arithmetic_for",
    "check_sampling",
    "prompt_logprobs",
    "sample",
    "sample_by",
]


class Arithmetic(Protocol):
    """Who computes over the vocabulary: torch or the native kernels."""

    def draw(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        """A token a row, or `sampling.NOT_FINITE` or `sampling.NOTHING_LEFT`."""
        ...

    def score(
        self, logits_RV: Tensor, targets: Sequence[int], tops: Sequence[int]
    ) -> list[TokenLogprob] | None:
        """Log-probabilities of targets[r] and the tops[r] best tokens; None = not all finite."""
        ...


def arithmetic_for(logits_RV: Tensor, pool: Pool | None = None) -> Arithmetic:
    """The fastest that can take these logits.

    Args:
        logits_RV: Where they are decides.
        pool: Of the model, for the native kernels; None = they compute on the calling thread.
    """
    found = library()
    if found is None or not sampling.fits(logits_RV):
        return TorchSampling()
    return NativeSampling(found, pool)


def sample(
    logits_RV: Tensor, rows: Sequence[SampleRow], *, pool: Pool | None = None
) -> list[Outcome]:
    """Draw one token per row.

    Args:
        logits_RV: The model's float32 logits; not changed.
        rows: As many as logits_RV has rows.
        pool: As for `arithmetic_for`.
    """
    return sample_by(arithmetic_for(logits_RV, pool), logits_RV, rows) if rows else []


def sample_by(
    arithmetic: Arithmetic, logits_RV: Tensor, rows: Sequence[SampleRow]
) -> list[Outcome]:
    """`sample` of at least one row, with the arithmetic given."""
    tokens = arithmetic.draw(logits_RV, rows)
    scored = [
        r for r, row in enumerate(rows) if row.sampling.logprobs is not None and tokens[r] >= 0
    ]
    logprobs: dict[int, TokenLogprob] = {}
    if scored:
        found = arithmetic.score(
            logits_RV if len(scored) == len(rows) else logits_RV[scored],
            [tokens[r] for r in scored],
            [rows[r].sampling.logprobs or 0 for r in scored],
        )
        assert found is not None, "rows that gave a token are finite"
        logprobs = dict(zip(scored, found, strict=True))
    return [
        Sampled(token=token, logprob=logprobs.get(r))
        if token >= 0
        else Unsampled(reason=_why_not(token, rows[r]))
        for r, token in enumerate(tokens)
    ]


def prompt_logprobs(
    logits_TV: Tensor, targets: Sequence[int], *, k: int, pool: Pool | None = None
) -> list[TokenLogprob]:
    """Score targets[t] under row t, with the k best, `k` beyond the vocabulary meaning all of it.

    Raises: ServiceError where the logits are not finite.
    """
    if not targets:
        return []
    found = arithmetic_for(logits_TV, pool).score(logits_TV, targets, [k] * len(targets))
    if found is None:
        raise ServiceError("the model's logits over the prompt are not finite (NaN or infinity)")
    return found


def _why_not(code: int, row: SampleRow) -> str:
    if code == sampling.NOT_FINITE:
        return "the model's logits are not finite (NaN or infinity)"
    if row.position < row.sampling.min_tokens and row.end_ids:
        return "logit_bias, penalties and min_tokens together leave no token to choose"
    return "logit_bias and penalties leave no finite score to choose from"
