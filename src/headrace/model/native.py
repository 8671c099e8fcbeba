"""A torch `Decoder` → packed weights and a KV pool that the native kernels run, a step a call.

    weights = pack(decoder, threads=2, quantization="int8", group=32)
    stack = NativeStack(weights, blocks=512, block_tokens=32, kv_format="bfloat16")

The arithmetic is `model/decoder.py`'s: the same norms, rotary angles and head order, with bfloat16
or quantized weights, activations quantized per row and group where the weights are, a float32
residual stream and bfloat16 or int8 keys and values.

Invariant (kernels/native/headrace.h): a row's result is the same bits whatever shares its step,
however its prompt was cut and wherever its blocks lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headrace.kernels import native, tiles
from headrace.kernels.native import TILE_ROWS, Matrix
from headrace.kernels.native_decoder import NativeDecoder, NativeLayer, Shape
from headrace.model.config import ModelConfig
from headrace.model.decoder import Attention, Decoder, FeedForward, Layer, RmsNorm
from headrace.model.quantized import QuantizedEmbedding, QuantizedLinear
from headrace.model.stack import Step

KvFormat = Literal["bfloat16", "int8"]
_KV_CODES = {"bfloat16": native.BF16, "int8": native.INT8}
_HEAD_DIM_STEP, _MOST_HEAD_DIM, _BLOCK_STEP = 16, 256, 16


def obstacle(decoder: Decoder, block_tokens: int) -> str | None:
    """Why this decoder cannot run natively here, for people; None = it can."""
    weight, config = decoder.norm.weight, decoder.config
    if weight.device.type != "cpu":
        return f"the native kernels are for CPUs, and the model is on {weight.device}"
    if (missing := native.why_not()) is not None:
        return missing
    if weight.dtype != torch.bfloat16:
        name = str(weight.dtype).removeprefix("torch.")
        return (
            f"the native kernels compute in bfloat16 or quantized, and the weights are {name}; "
            "--dtype bfloat16 rounds them"
        )
    if config.head_dim % _HEAD_DIM_STEP or config.head_dim > _MOST_HEAD_DIM:
        return f"head_dim {config.head_dim} is not a multiple of 16 up to {_MOST_HEAD_DIM}"
    if block_tokens % _BLOCK_STEP:
        return f"engine.block_tokens = {block_tokens} is not a multiple of {_BLOCK_STEP}"
    for layer in _layers(decoder):
        for parts in (_reads_stream(layer.self_attn), _gates(layer.mlp)):
            if len({_format(part) for part in parts}) > 1:
                return "linears that run as one (q, k and v; gate and up) differ in their formats"
    return None


def block_bytes(config: ModelConfig, kv_format: KvFormat, block_tokens: int) -> int:
    """What one KV block occupies over all layers, keys and values."""
    layer = native.kv_bytes(
        _KV_CODES[kv_format],
        blocks=1,
        block_tokens=block_tokens,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
    )
    return 2 * config.num_hidden_layers * layer


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeWeights:
    """A model as the library reads it, and the threads that packed it and will run it."""

    config: ModelConfig
    context_tokens: int
    pool: native.Pool
    layers: Sequence[NativeLayer]
    embedding: Matrix
    head: Matrix
    final_norm: Tensor
    cos_LP: Tensor
    sin_LP: Tensor


def pack(
    decoder: Decoder,
    *,
    threads: int,
    quantization: native.QuantizedFormat | None = None,
    group: int = 32,
) -> NativeWeights:
    """Pack a decoder's weights, rounding them to int8 or int4 where `quantization` says so.

    Linears that are quantized already are taken as they are.
    """
    packer = _Packer(pool=native.Pool(threads), quantization=quantization, group=group)
    layers = [packer.layer(layer) for layer in _layers(decoder)]
    table = decoder.embed_tokens
    head = packer.matrix(table if decoder.lm_head is None else decoder.lm_head)
    tied = decoder.lm_head is None or isinstance(table, QuantizedEmbedding)
    embedding = head if tied else Matrix.pack(packer.pool, table.weight)
    angles = decoder.rope.angles(torch.arange(decoder.context_tokens))
    return NativeWeights(
        config=decoder.config,
        context_tokens=decoder.context_tokens,
        pool=packer.pool,
        layers=layers,
        embedding=embedding,
        head=head,
        final_norm=_norm(decoder.norm),
        cos_LP=angles.cos_TP.contiguous(),
        sin_LP=angles.sin_TP.contiguous(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Packer:
    pool: native.Pool
    quantization: native.QuantizedFormat | None
    group: int

    def layer(self, layer: Layer) -> NativeLayer:
        attention, feed_forward = layer.self_attn, layer.mlp
        q_norm, k_norm = attention.q_norm, attention.k_norm
        return NativeLayer(
            qkv=self.matrix(*_reads_stream(attention)),
            out=self.matrix(attention.o_proj),
            gate_up=self.matrix(*_gates(feed_forward)),
            down=self.matrix(feed_forward.down_proj),
            attention_norm=_norm(layer.input_layernorm),
            feed_forward_norm=_norm(layer.post_attention_layernorm),
            q_norm=_norm(q_norm) if isinstance(q_norm, RmsNorm) else None,
            k_norm=_norm(k_norm) if isinstance(k_norm, RmsNorm) else None,
            window=attention.window,
        )

    def matrix(self, *parts: nn.Module) -> Matrix:
        """One matrix of modules that read the same input, their outputs one after the other."""
        biases = [bias for part in parts if (bias := getattr(part, "bias", None)) is not None]
        bias = torch.cat(biases) if biases else None
        quantized = [part for part in parts if isinstance(part, QuantizedLinear)]
        if quantized:
            return self._quantized(quantized, bias)
        weights = [part.weight for part in parts if isinstance(part, nn.Linear | nn.Embedding)]
        if not _whole_tiles(weights):
            weights = [torch.cat(weights)]
        matrix = Matrix.allocate(
            format=self.quantization or "bf16",
            rows=sum(map(len, weights)),
            cols=weights[0].shape[1],
            group=self.group if self.quantization else 0,
            bias=bias,
        )
        row = 0
        for weight in weights:
            matrix.put(self.pool, row, weight)
            row += len(weight)
        return matrix

    def _quantized(self, parts: Sequence[QuantizedLinear], bias: Tensor | None) -> Matrix:
        first = parts[0]
        if any(part.rows % TILE_ROWS for part in parts[:-1]):
            values = [tiles.unpack(p.packed, p.format, p.rows, p.cols, p.group) for p in parts]
            joined = native.Quantized(
                q_OI=torch.cat([value.q for value in values]),
                scales_OG=torch.cat([value.scale for value in values]),
            )
            return Matrix.from_quantized(
                self.pool, joined, format=_integers(first.format), group=first.group, bias=bias
            )
        matrix = Matrix.allocate(
            format=first.format,
            rows=sum(part.rows for part in parts),
            cols=first.cols,
            group=first.group,
            bias=bias,
        )
        row = 0
        for part in parts:
            matrix.put_packed(row, part.packed, part.rows)
            row += part.rows
        return matrix


def _whole_tiles(weights: Sequence[Tensor]) -> bool:
    return all(len(weight) % TILE_ROWS == 0 for weight in weights[:-1])


def _layers(decoder: Decoder) -> list[Layer]:
    return [layer for layer in decoder.layers if isinstance(layer, Layer)]


def _reads_stream(attention: Attention) -> tuple[nn.Module, ...]:
    return attention.q_proj, attention.k_proj, attention.v_proj


def _gates(feed_forward: FeedForward) -> tuple[nn.Module, ...]:
    return feed_forward.gate_proj, feed_forward.up_proj


def _integers(format: str) -> native.QuantizedFormat:
    return "int4" if format == "int4" else "int8"


def _format(part: nn.Module) -> tuple[str, int]:
    return (part.format, part.group) if isinstance(part, QuantizedLinear) else ("bfloat16", 0)


def _norm(norm: RmsNorm) -> Tensor:
    return norm.weight.detach().float().contiguous()


class NativeStack:
    """A `Stack` on the library: packed weights over a pool of keys and values."""

    def __init__(
        self, weights: NativeWeights, *, blocks: int, block_tokens: int, kv_format: KvFormat
    ) -> None:
        """Allocate the pool.

        Args:
            weights: The model.
            blocks: KV blocks.
            block_tokens: Tokens a block; a multiple of 16.
            kv_format: What keys and values are kept in.
        """
        config = weights.config
        self.config = config
        self.device = torch.device("cpu")
        self.context_tokens = weights.context_tokens
        kv = "" if kv_format == "bfloat16" else f", {kv_format} KV"
        self.name = f"native {native.require().isa} {weights.layers[0].down.describe()}{kv}"
        self.pool = weights.pool
        self._scratch = native.Scratch()
        self._model = NativeDecoder(
            Shape(
                width=config.hidden_size,
                heads=config.num_attention_heads,
                kv_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                inner=config.intermediate_size,
                vocab=config.vocab_size,
                eps=config.rms_norm_eps,
            ),
            weights.layers,
            kv=[
                native.PagedKv.allocate(
                    _KV_CODES[kv_format],
                    blocks=blocks,
                    block_tokens=block_tokens,
                    kv_heads=config.num_key_value_heads,
                    head_dim=config.head_dim,
                )
                for _ in weights.layers
            ],
            embedding=weights.embedding,
            head=weights.head,
            final_norm=weights.final_norm,
            cos_LP=weights.cos_LP,
            sin_LP=weights.sin_LP,
        )
        self._hidden = _Rows(config.hidden_size)
        self._logits = _Rows(config.vocab_size)

    def hidden(self, step: Step) -> Tensor:
        hidden_TD = self._hidden.first(len(step.ids_T))
        self._model.hidden(self.pool, self._scratch, step, hidden_TD)
        return hidden_TD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        logits_RV = self._logits.first(hidden_RD.shape[0])
        self._model.logits(self.pool, self._scratch, hidden_RD.contiguous(), logits_RV)
        return logits_RV


class _Rows:
    """The first rows of a buffer that grows.

    While their number stays they are the same tensor: after a step the caches hold weights, and
    each call into torch then costs some ten microseconds.
    """

    def __init__(self, width: int) -> None:
        self._buffer = torch.empty(0, width)
        self._size = self._count = 0
        self._rows = self._buffer

    def first(self, count: int) -> Tensor:
        if count != self._count:
            if count > self._size:
                self._size = count
                self._buffer = torch.empty(count, self._buffer.shape[1])
            self._count = count
            self._rows = self._buffer[:count]
        return self._rows
