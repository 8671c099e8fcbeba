"""Logits → tokens and log-probabilities by the native library (native/sampler.h).

`sample` and `logprobs` take what the kernels read and nothing of a request; which rules a row has,
and the same arithmetic in torch, is `engine.sampler`'s business. Shapes: R rows, V vocabulary.
"""

import functools
import struct
from collections.abc import Sequence
from ctypes import POINTER, c_double, c_int, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headrace.kernels.library import Library
from headrace.kernels.native import Pool, check

NOT_FINITE = -1
"""Instead of a token: a logit is NaN or infinite."""
NOTHING_LEFT = -2
"""Instead of a token: no score is finite after the edits."""

_RULE = struct.Struct("=QQqdddQQQq")
_MASK = (1 << 64) - 1
_I, _P = c_int, c_void_p


@functools.cache
def bind(library: Library) -> Library:
    """Declare this file's functions of a library.

    Raises: AttributeError: A library from before they existed.
    """
    library.hr_sample.argtypes = (_P, _I, _I, _P, c_int64, _P, POINTER(c_int32))
    library.hr_sample_logprobs.argtypes = (_P, _I, _I, _P, c_int64, _P, _P, _I, _P, _P, _P)
    library.hr_sample_uniform.argtypes = (c_uint64, c_uint64, c_uint64)
    library.hr_sample_uniform.restype = c_double
    return library


def fits(logits_RV: Tensor) -> bool:
    """Whether these logits lie as the library reads them."""
    return (
        logits_RV.device.type == "cpu"
        and logits_RV.dtype == torch.float32
        and logits_RV.stride(1) == 1
        and (len(logits_RV) == 1 or logits_RV.stride(0) >= logits_RV.shape[1])
    )


def rule(
    *,
    edit_ids: int,
    edit_scores: int,
    edits: int,
    temperature: float,
    top_p: float,
    min_p: float,
    top_k: int,
    seed: int,
    choice: int,
    position: int,
) -> bytes:
    """One row's `hr_sample_row`; `edit_ids` (int64) and `edit_scores` (float32) are addresses."""
    return _RULE.pack(
        edit_ids,
        edit_scores,
        edits,
        temperature,
        top_p,
        min_p,
        seed & _MASK,
        choice,
        position,
        max(0, top_k),
    )


def sample(
    library: Library, pool: Pool | None, logits_RV: Tensor, rules: Sequence[bytes]
) -> list[int]:
    """A token a row, or `NOT_FINITE` or `NOTHING_LEFT`; the logits stay as they were."""
    rows, vocab = logits_RV.shape
    tokens = (c_int32 * rows)()
    check(
        library.hr_sample(
            None if pool is None else pool.handle,
            rows,
            vocab,
            logits_RV.data_ptr(),
            _stride(logits_RV),
            b"".join(rules),
            tokens,
        )
    )
    return list(tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Natural-log probabilities of each row, float64."""

    own: list[float]
    """Of the row's target; NaN where the row is not finite."""
    best_ids: list[list[int]]
    """As many as the row that wants most; beyond what a row asked for: undefined."""
    best: list[list[float]]


def logprobs(
    library: Library,
    pool: Pool | None,
    logits_RV: Tensor,
    *,
    targets: Sequence[int],
    tops: Sequence[int],
) -> Scores:
    """Score one target a row, and its `tops[r]` (at most V) best tokens."""
    rows, vocab = logits_RV.shape
    width = max(tops)
    own_R = np.empty(rows)
    ids_RK = np.empty((rows, width), dtype=np.int32)
    best_RK = np.empty((rows, width))
    target_R = np.array(targets, dtype=np.int32)
    tops_R = np.array(tops, dtype=np.int32)
    check(
        library.hr_sample_logprobs(
            None if pool is None else pool.handle,
            rows,
            vocab,
            logits_RV.data_ptr(),
            _stride(logits_RV),
            target_R.ctypes.data,
            tops_R.ctypes.data,
            width,
            own_R.ctypes.data,
            ids_RK.ctypes.data,
            best_RK.ctypes.data,
        )
    )
    return Scores(own=own_R.tolist(), best_ids=ids_RK.tolist(), best=best_RK.tolist())


def _stride(logits_RV: Tensor) -> int:
    # The stride of a single row means nothing, and may be anything.
    return logits_RV.stride(0) if len(logits_RV) > 1 else logits_RV.shape[1]
