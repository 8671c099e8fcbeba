"""Packed layers of an encoder → the structs that the library walks, and its one call a batch.

    model = NativeEncoderModel(shape, layers, tables)
    model.encode(pool, scratch, ids_T, start_C1, hidden_TD)

Everything the structs point to is kept alive by the object that holds them.
"""

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int32, c_void_p
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headrace.kernels.library import MatrixStruct
from headrace.kernels.native import Matrix, Pool, Scratch, check, require


class _LayerStruct(ctypes.Structure):
    """`hr_encoder_layer`."""

    _fields_ = (
        *((name, MatrixStruct) for name in ("qkv", "out", "up", "down")),
        *((name, c_void_p) for name in ("attention_norm", "attention_shift", "norm", "shift")),
    )


class _EncoderStruct(ctypes.Structure):
    """`hr_encoder`."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in ("layers", "width", "heads", "head_dim", "inner", "vocab", "positions")
        ),
        ("eps", c_float),
        ("layer", c_void_p),
        *((name, c_void_p) for name in ("words", "places", "kind", "norm", "shift")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderShape:
    """Sizes, as `hr_encoder` has them."""

    width: int
    heads: int
    head_dim: int
    inner: int
    vocab: int
    positions: int
    eps: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeEncoderLayer:
    """One layer; vectors are float32 and contiguous."""

    qkv: Matrix
    out: Matrix
    up: Matrix
    down: Matrix
    attention_norm: Tensor
    attention_shift: Tensor
    norm: Tensor
    shift: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderTables:
    """What rows begin as; float32 and contiguous."""

    words: Tensor
    places: Tensor
    """Of position 0 and on."""
    kind: Tensor
    norm: Tensor
    shift: Tensor


class NativeEncoderModel:
    """The library's view of an encoder."""

    def __init__(
        self, shape: EncoderShape, layers: Sequence[NativeEncoderLayer], tables: EncoderTables
    ) -> None:
        """Build the structs."""
        self._library = require()
        self._alive = (layers, tables)
        self._layers = (_LayerStruct * len(layers))(*(_layer(layer) for layer in layers))
        self._struct = _EncoderStruct(
            layers=len(layers),
            width=shape.width,
            heads=shape.heads,
            head_dim=shape.head_dim,
            inner=shape.inner,
            vocab=shape.vocab,
            positions=shape.positions,
            eps=shape.eps,
            layer=ctypes.addressof(self._layers),
            words=tables.words.data_ptr(),
            places=tables.places.data_ptr(),
            kind=tables.kind.data_ptr(),
            norm=tables.norm.data_ptr(),
            shift=tables.shift.data_ptr(),
        )
        self._at = ctypes.addressof(self._struct)

    def encode(
        self,
        pool: Pool,
        scratch: Scratch,
        ids_T: NDArray[np.int32],
        start_C1: NDArray[np.int32],
        hidden_TD: Tensor,
    ) -> None:
        """Run a batch; `hidden_TD` float32, contiguous, becomes its last hidden states."""
        check(
            pool.library.hr_encode(
                pool.handle,
                scratch.handle,
                self._at,
                len(start_C1) - 1,
                start_C1.ctypes.data,
                ids_T.ctypes.data,
                hidden_TD.data_ptr(),
            )
        )


def _layer(layer: NativeEncoderLayer) -> _LayerStruct:
    return _LayerStruct(
        qkv=layer.qkv.struct,
        out=layer.out.struct,
        up=layer.up.struct,
        down=layer.down.struct,
        attention_norm=layer.attention_norm.data_ptr(),
        attention_shift=layer.attention_shift.data_ptr(),
        norm=layer.norm.data_ptr(),
        shift=layer.shift.data_ptr(),
    )
