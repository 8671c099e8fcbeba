"""What a token may look at: the two ways to attend, and the cache of keys and values.

The decoder calls `attend(layer, q, k, v, window)` once a layer and knows nothing else of where keys
live. Training and scoring pass `Packed(doc_T)`. Serving passes `Paged(kv, slots_T, spans)`:

    kv = KvCache.allocate(config, blocks=512, block_tokens=16, dtype=torch.float32, device="cpu")
    spans = [
        PagedSpan(row_start=0, row_end=1, blocks=[7, 3], context_tokens=21),   # decode: 1 new row
        PagedSpan(row_start=1, row_end=9, blocks=[4], context_tokens=8),       # prefill: 8 new rows
    ]
    attend = Paged(kv, slots(spans, kv.block_tokens, device), spans)
    hidden_TD = decoder.hidden(ids_T, pos_T, attend)

Row `row_start + i` of a span is position `context_tokens - (row_end - row_start) + i` of its
sequence, and its slot is `blocks[position // block_tokens] * block_tokens + position %
block_tokens`. One `Paged` is one step. Spans may come in any order but may not share rows.

Invariant: the same tokens give the same output (up to float rounding) whichever way they are cut
into steps and wherever their blocks lie. Sliding windows are the decoder's knowledge: the scheduler
hands over whole block tables.

Shapes: T rows, N query heads, K key heads, H head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from headrace.kernels.dispatch import kernels_for
from headrace.kernels.packed import PackedPlan, plan_packed
from headrace.kernels.paged import PagedPlan, PagedSpan, plan_paged
from headrace.model.config import ModelConfig

__all__ = ["Attend", "KvCache", "Packed", "Paged", "PagedSpan", "slots"]


class Attend(Protocol):
    """Rows of queries, keys and values of one layer to rows of outputs."""

    def __call__(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, window: int | None
    ) -> Tensor: ...


class Packed:
    """Whole documents in one row, a run of equal `doc_T` each: causal, and blind to each other."""

    def __init__(self, doc_T: Tensor) -> None:
        self.plan: PackedPlan = plan_packed(doc_T)

    def __call__(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, window: int | None
    ) -> Tensor:
        del layer  # all layers see the same documents
        kernels = kernels_for(q_TNH.device)
        return kernels.packed_attention(q_TNH, k_TKH, v_TKH, self.plan, window)


@dataclass(frozen=True, kw_only=True, slots=True)
class KvCache:
    """Keys and values of every layer in blocks: `[blocks, block_tokens, K, H]` each."""

    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    block_tokens: int

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        *,
        blocks: int,
        block_tokens: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> "KvCache":
        """An empty pool of `bytes_per_token(config, dtype) * blocks * block_tokens` bytes.

        `dtype` is the decoder's own.
        """
        shape = (blocks, block_tokens, config.num_key_value_heads, config.head_dim)

        def layers() -> tuple[Tensor, ...]:
            return tuple(
                torch.zeros(shape, dtype=dtype, device=device)
                for _ in range(config.num_hidden_layers)
            )

        return cls(k=layers(), v=layers(), block_tokens=block_tokens)

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
        """What one token of context occupies over all layers."""
        row = config.num_key_value_heads * config.head_dim * dtype.itemsize
        return 2 * config.num_hidden_layers * row

    @property
    def blocks(self) -> int:
        return self.k[0].shape[0]


class Paged:
    """One step over a `KvCache`: writes its rows' keys and values, then attends each sequence."""

    def __init__(self, kv: KvCache, slots_T: Tensor, spans: Sequence[PagedSpan]) -> None:
        self.kv = kv
        self.slots_T = slots_T
        self.spans = spans
        self._plans: dict[int | None, PagedPlan] = {}

    def __call__(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, window: int | None
    ) -> Tensor:
        kernels = kernels_for(q_TNH.device)
        k_cache, v_cache = self.kv.k[layer], self.kv.v[layer]
        kernels.write_cache(k_cache, v_cache, self.slots_T, k_TKH, v_TKH)
        plan = self._plans.get(window)
        if plan is None:
            plan = plan_paged(self.spans, self.kv.block_tokens, window, q_TNH.device)
            self._plans[window] = plan
        return kernels.paged_attention(q_TNH, k_TKH, v_TKH, k_cache, v_cache, plan)


def slots(
    spans: Sequence[PagedSpan], block_tokens: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The slot of every row of a step, int64 `[T]`."""
    rows: dict[int, int] = {}
    for span in spans:
        first = span.context_tokens - (span.row_end - span.row_start)
        for row in range(span.row_start, span.row_end):
            block, offset = divmod(first + row - span.row_start, block_tokens)
            rows[row] = span.blocks[block] * block_tokens + offset
    return torch.tensor([rows[row] for row in range(len(rows))], dtype=torch.int64, device=device)
