"""A torch `Encoder` → packed weights that the native kernels run, a batch a call.

The arithmetic is `model/encoder.py`'s: products of float32 or bfloat16 operands, added up in
float32; everything else, attention included, in float32.

Invariant (kernels/native/headrace.h): a row's result is the same bits whatever shares its batch.

Shapes: T packed tokens, D model, C documents.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from headrace.kernels import native
from headrace.kernels.native import Matrix
from headrace.kernels.native_encoder import (
    EncoderShape,
    EncoderTables,
    NativeEncoderLayer,
    NativeEncoderModel,
)
from headrace.model.encoder import Encoder, EncoderLayer

FORMATS = {"float32": "f32", "bfloat16": "bf16"}
"""What products are made in -> the packed format."""

_HEAD_DIM_STEP, _MOST_HEAD_DIM = 16, 256


def obstacle(encoder: Encoder, dtype: str) -> str | None:
    """Why this encoder cannot run natively here, for people; None = it can."""
    weight, config = encoder.norm.weight, encoder.config
    if weight.device.type != "cpu":
        return f"the native kernels are for CPUs, and the model is on {weight.device}"
    if (missing := native.why_not()) is not None:
        return missing
    if dtype not in FORMATS:
        return f"the native kernels multiply in {' or '.join(FORMATS)}, not in {dtype}"
    if config.activation != "gelu":
        return f"the native kernels have no {config.activation}"
    if config.head_dim % _HEAD_DIM_STEP or config.head_dim > _MOST_HEAD_DIM:
        return f"head_dim {config.head_dim} is not a multiple of 16 up to {_MOST_HEAD_DIM}"
    return None


class NativeEncoder:
    """An `EncoderStack` on the native kernels; for one thread at a time."""

    def __init__(self, encoder: Encoder, *, dtype: str, pool: native.Pool) -> None:
        """Pack an encoder for which there is no `obstacle`.

        Args:
            encoder: Its weights, best in float32 whatever `dtype` is.
            dtype: What products are made in: a key of `FORMATS`.
            pool: Threads.
        """
        config = encoder.config
        self._pool = pool
        self._scratch = native.Scratch(pool.library)
        self._width = config.hidden_size
        self.name = f"native {pool.library.isa} {dtype}"
        shape = EncoderShape(
            width=config.hidden_size,
            heads=config.num_attention_heads,
            head_dim=config.head_dim,
            inner=config.intermediate_size,
            vocab=config.vocab_size,
            positions=config.max_tokens,
            eps=config.layer_norm_eps,
        )
        tables = EncoderTables(
            words=_vector(encoder.words.weight),
            places=_vector(encoder.positions.weight[config.first_position :]),
            kind=_vector(encoder.types.weight[0]),
            norm=_vector(encoder.norm.weight),
            shift=_vector(encoder.norm.bias),
        )
        layers = [self._layer(layer, FORMATS[dtype]) for layer in encoder.layers]
        self._model = NativeEncoderModel(shape, layers, tables)

    @torch.inference_mode()
    def hidden(self, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """As `Encoder.hidden`."""
        start_C1 = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=start_C1[1:])
        hidden_TD = torch.empty(len(ids_T), self._width)
        ids = ids_T.to(torch.int32).numpy()
        self._model.encode(self._pool, self._scratch, ids, start_C1, hidden_TD)
        return hidden_TD

    def _layer(self, layer: nn.Module, format: str) -> NativeEncoderLayer:
        assert isinstance(layer, EncoderLayer)

        def matrix(linear: nn.Linear) -> Matrix:
            return Matrix.pack(self._pool, linear.weight, format=format, bias=linear.bias)

        return NativeEncoderLayer(
            qkv=matrix(layer.qkv),
            out=matrix(layer.out),
            up=matrix(layer.up),
            down=matrix(layer.down),
            attention_norm=_vector(layer.attention_norm.weight),
            attention_shift=_vector(layer.attention_norm.bias),
            norm=_vector(layer.norm.weight),
            shift=_vector(layer.norm.bias),
        )


def _vector(value: Tensor) -> Tensor:
    return value.detach().float().contiguous()
