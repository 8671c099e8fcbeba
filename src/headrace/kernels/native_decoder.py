"""Packed layers → the structs that the library walks, and its two calls a step.

    model = NativeDecoder(shape, layers, kv=pools, embedding=..., head=..., ...)
    model.hidden(pool, scratch, rows, hidden_TD)
    model.logits(pool, scratch, hidden_RD, logits_RV)

Everything the structs point to is kept alive by the object that holds them.
"""

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int32, c_void_p
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headrace.kernels.library import KvStruct, MatrixStruct, SpansStruct
from headrace.kernels.native import Matrix, PagedKv, Pool, Scratch, check, require


class _LayerStruct(ctypes.Structure):
    """`hr_layer`."""

    _fields_ = (
        *((name, MatrixStruct) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c_void_p) for name in ("attention_norm", "feed_forward_norm", "q_norm", "k_norm")),
        ("kv", KvStruct),
        ("window", c_int32),
    )


class _DecoderStruct(ctypes.Structure):
    """`hr_decoder`."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in ("layers", "width", "heads", "kv_heads", "head_dim", "inner", "vocab")
        ),
        *((name, c_float) for name in ("eps", "attention_scale")),
        ("layer", c_void_p),
        *((name, MatrixStruct) for name in ("embedding", "head")),
        *((name, c_void_p) for name in ("final_norm", "cos", "sin")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a decoder, in the library's words."""

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    eps: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeLayer:
    """One layer: q, k, v and gate, up fused; norms float32."""

    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    attention_norm: Tensor
    feed_forward_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    window: int | None


class Rows(Protocol):
    """A step's rows, int32 and C-contiguous (`model.stack.Step`)."""

    @property
    def ids_T(self) -> NDArray[np.int32]: ...
    @property
    def pos_T(self) -> NDArray[np.int32]: ...
    @property
    def row_start_S1(self) -> NDArray[np.int32]: ...
    @property
    def context_S(self) -> NDArray[np.int32]: ...
    @property
    def blocks_SB(self) -> NDArray[np.int32]: ...


class NativeDecoder:
    """All layers and their KV pools, ready to run."""

    def __init__(
        self,
        shape: Shape,
        layers: Sequence[NativeLayer],
        *,
        kv: Sequence[PagedKv],
        embedding: Matrix,
        head: Matrix,
        final_norm: Tensor,
        cos_LP: Tensor,
        sin_LP: Tensor,
    ) -> None:
        """Join weights and pools.

        Args:
            shape: Sizes.
            layers: In order.
            kv: A pool a layer.
            embedding: [vocab, width]; may be `head` itself.
            head: [vocab, width].
            final_norm: float32 [width].
            cos_LP: Of each position up to the longest context, float32, with its rope's scale.
            sin_LP: Likewise.
        """
        self._library = require()
        self._alive = (layers, kv, embedding, head, final_norm, cos_LP, sin_LP)
        self._layers = (_LayerStruct * len(layers))(
            *(_layer(layer, pool) for layer, pool in zip(layers, kv, strict=True))
        )
        self._struct = _DecoderStruct(
            layers=len(layers),
            width=shape.width,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            inner=shape.inner,
            vocab=shape.vocab,
            eps=shape.eps,
            attention_scale=shape.head_dim**-0.5,
            layer=ctypes.addressof(self._layers),
            embedding=embedding.struct,
            head=head.struct,
            final_norm=final_norm.data_ptr(),
            cos=cos_LP.data_ptr(),
            sin=sin_LP.data_ptr(),
        )
        self._at = ctypes.addressof(self._struct)

    def hidden(self, pool: Pool, scratch: Scratch, rows: Rows, hidden_TD: Tensor) -> None:
        """Run a step; `hidden_TD` float32, contiguous, becomes its final, normed states."""
        spans = SpansStruct(
            rows=len(rows.ids_T),
            spans=len(rows.context_S),
            max_blocks=rows.blocks_SB.shape[1],
            row_start=rows.row_start_S1.ctypes.data,
            context=rows.context_S.ctypes.data,
            blocks=rows.blocks_SB.ctypes.data,
        )
        check(
            self._library.hr_hidden(
                pool.handle,
                scratch.handle,
                self._at,
                ctypes.addressof(spans),
                rows.ids_T.ctypes.data,
                rows.pos_T.ctypes.data,
                hidden_TD.data_ptr(),
            )
        )

    def logits(self, pool: Pool, scratch: Scratch, hidden_RD: Tensor, logits_RV: Tensor) -> None:
        """Project rows of hidden states; both float32 and contiguous."""
        check(
            self._library.hr_logits(
                pool.handle,
                scratch.handle,
                self._at,
                len(hidden_RD),
                hidden_RD.data_ptr(),
                logits_RV.data_ptr(),
            )
        )


def _layer(layer: NativeLayer, kv: PagedKv) -> _LayerStruct:
    return _LayerStruct(
        qkv=layer.qkv.struct,
        out=layer.out.struct,
        gate_up=layer.gate_up.struct,
        down=layer.down.struct,
        attention_norm=layer.attention_norm.data_ptr(),
        feed_forward_norm=layer.feed_forward_norm.data_ptr(),
        q_norm=None if layer.q_norm is None else layer.q_norm.data_ptr(),
        k_norm=None if layer.k_norm is None else layer.k_norm.data_ptr(),
        kv=kv.struct,
        window=layer.window or 0,
    )
