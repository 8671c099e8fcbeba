"""The seam between engine and arithmetic: a step's rows in, hidden states and logits out.

The engine decides which tokens of which sequences run (`Step`); a `Stack` holds the weights and the
KV pool and runs them. `EagerStack` is the torch decoder, on any device, and the reference of every
other: `native.NativeStack` (C++ on the CPU) and what captures CUDA graphs keep its contract.

Invariant: row r of `hidden` is the final, normed state of the step's row r, whatever else is in the
step; keys and values of every row are in the pool when it returns. What is returned is valid until
the next call on the same stack.

Shapes: T rows, S sequences, B blocks of the longest table, D model, R rows projected, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.kernels.native import Pool
from headrace.model.attend import KvCache, Paged, PagedSpan, slots
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder

Int32s = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The rows of one step, int32, C-contiguous; sequence s has rows `row_start[s : s + 2]`."""

    ids_T: Int32s
    pos_T: Int32s
    """Position of each row in its sequence."""
    row_start_S1: Int32s
    """First row of each sequence, and T."""
    context_S: Int32s
    """Tokens of each sequence, this step's included."""
    blocks_SB: Int32s
    """Physical blocks in order; beyond what the context needs, anything in range."""

    def spans(self, block_tokens: int) -> list[PagedSpan]:
        """The same, as the torch reference takes it."""
        bounds: list[int] = self.row_start_S1.tolist()
        contexts: list[int] = self.context_S.tolist()
        return [
            PagedSpan(
                row_start=bounds[s],
                row_end=bounds[s + 1],
                blocks=self.blocks_SB[s, : -(-context // block_tokens)].tolist(),
                context_tokens=context,
            )
            for s, context in enumerate(contexts)
        ]


class Stack(Protocol):
    """Weights and a KV pool, ready to run steps; nothing tracks gradients."""

    @property
    def name(self) -> str:
        """Which kernels run, for people: `torch`, `native avx512 int8`."""
        ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def context_tokens(self) -> int:
        """Longest sequence it can run."""
        ...

    @property
    def pool(self) -> Pool | None:
        """Its threads, free between two calls; None = it has none of its own."""
        ...

    def hidden(self, step: Step) -> Tensor:
        """Final hidden states `[T, D]`."""
        ...

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Scores over the vocabulary, of some rows of `hidden`'s result.

        float32 `[R, V]`, every time on the same device and contiguous.
        """
        ...


class EagerStack:
    """The torch decoder over a `KvCache`."""

    def __init__(self, decoder: Decoder, kv: KvCache) -> None:
        self._decoder = decoder
        self._kv = kv
        self.device = kv.k[0].device
        self.config = decoder.config
        self.context_tokens = decoder.context_tokens
        self.pool = None
        self.name = f"torch {str(decoder.norm.weight.dtype).removeprefix('torch.')}"

    @torch.inference_mode()
    def hidden(self, step: Step) -> Tensor:
        device = self.device
        spans = step.spans(self._kv.block_tokens)
        attend = Paged(self._kv, slots(spans, self._kv.block_tokens, device), spans)
        ids_T = torch.from_numpy(step.ids_T).to(device=device, dtype=torch.int64)
        pos_T = torch.from_numpy(step.pos_T).to(device=device, dtype=torch.int64)
        return self._decoder.hidden(ids_T, pos_T, attend)

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor) -> Tensor:
        return self._decoder.logits(hidden_RD)
