"""The native KV cache and attention as numpy callers: what their tests share.

Everything goes through the C ABI (`kernels/native/headrace.h`). A `Cache` is one layer, at first
filled with 0xFF bytes: NaN wherever a kernel reads what nobody wrote.
"""

from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headrace.kernels.library import KvStruct, SpansStruct
from headrace.kernels.native import BF16, INT8
from native_isas import library, pool, scratch

FORMATS = {"bf16": BF16, "int8": INT8}
ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """New rows of one sequence of `context` tokens, these included."""

    rows: int
    context: int
    blocks: Sequence[int]


class Cache:
    """One layer's paged keys and values."""

    def __init__(
        self,
        isa: str,
        kv_format: int,
        *,
        blocks: int,
        block_tokens: int,
        kv_heads: int,
        head_dim: int,
        threads: int = 1,
    ) -> None:
        self._library, self._scratch = library(isa), scratch(isa)
        self._pool = pool(isa, threads)
        self.bytes = self._library.hr_kv_bytes(kv_format, blocks, block_tokens, kv_heads, head_dim)
        self._k, self._v = _aligned(self.bytes), _aligned(self.bytes)
        self._kv = KvStruct(
            format=kv_format,
            blocks=blocks,
            block_tokens=block_tokens,
            kv_heads=kv_heads,
            head_dim=head_dim,
            k=self._k.data_ptr(),
            v=self._v.data_ptr(),
        )

    def reshape(self, kv_format: int, *, block_tokens: int, head_dim: int) -> None:
        """Claim another layout over the same memory, to see it refused."""
        self._kv.format, self._kv.block_tokens = kv_format, block_tokens
        self._kv.head_dim = head_dim

    def write(self, spans: Sequence[Span], k_TKH: Tensor, v_TKH: Tensor) -> int:
        """Store the spans' rows; the library's status."""
        k, v = k_TKH.float().contiguous(), v_TKH.float().contiguous()
        row = k.shape[1] * k.shape[2]
        with _Arrays(spans) as arrays:
            return self._library.hr_kv_write(
                self._pool.handle,
                byref(self._kv),
                byref(arrays),
                k.data_ptr(),
                row,
                v.data_ptr(),
                row,
            )

    def attend(self, spans: Sequence[Span], q_TNH: Tensor, window: int = 0) -> Tensor:
        """The spans' rows attended; what the kernel leaves alone is NaN."""
        q = q_TNH.float().contiguous()
        out = torch.full_like(q, float("nan"))
        status = self.try_attend(spans, q, out, window)
        assert status == 0, status
        return out

    def try_attend(self, spans: Sequence[Span], q: Tensor, out: Tensor, window: int = 0) -> int:
        row = q.shape[1] * q.shape[2]
        with _Arrays(spans) as arrays:
            return self._library.hr_attend(
                self._pool.handle,
                self._scratch.handle,
                byref(self._kv),
                byref(arrays),
                q.shape[1],
                q.shape[2] ** -0.5,
                window,
                q.data_ptr(),
                row,
                out.data_ptr(),
                row,
            )


class _Arrays:
    """`hr_spans` over arrays that live while it is used."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._row_start = np.cumsum([0, *[span.rows for span in spans]], dtype=np.int32)
        self._context = np.array([span.context for span in spans], dtype=np.int32)
        width = max(len(span.blocks) for span in spans)
        self._blocks = np.full((len(spans), width), -1, dtype=np.int32)
        for row, span in zip(self._blocks, spans, strict=True):
            row[: len(span.blocks)] = span.blocks

    def __enter__(self) -> SpansStruct:
        return SpansStruct(
            rows=int(self._row_start[-1]),
            spans=len(self._context),
            max_blocks=self._blocks.shape[1],
            row_start=self._row_start.ctypes.data,
            context=self._context.ctypes.data,
            blocks=self._blocks.ctypes.data,
        )

    def __exit__(self, *_: object) -> None:
        return None


def _aligned(size: int) -> Tensor:
    whole = torch.full((size + ALIGNMENT,), 0xFF, dtype=torch.uint8)
    start = -whole.data_ptr() % ALIGNMENT
    return whole[start : start + size]
