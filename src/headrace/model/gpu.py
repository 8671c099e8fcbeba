"""A torch `Decoder` → weights as the GPU kernels read them, and one step over them.

    model = GpuDecoder.take(decoder)
    hidden_TD = model.hidden(tables, kv)        # tables: a step on the device
    logits_RV = model.logits(hidden_RD)

The arithmetic is `model/decoder.py`'s, in nine kernels a layer: norms and residual sums are done by
their neighbours. Matrices that read the same input are one; where they are plain, the decoder's own
parameters become views of it, so that nothing is kept twice.

Invariant: no state but weights; what a step computes is a function of its tables and of the cache.

Legend: T rows, D model, R rows that are projected, V vocabulary, C positions, P pairs of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from headrace.kernels import tiles
from headrace.kernels import triton as kernels
from headrace.kernels.triton.attention import paged_attention, query_rows
from headrace.kernels.triton.linear import gated_linear, linear, normed_linear
from headrace.kernels.triton.matrix import Matrix, join
from headrace.kernels.triton.norm import rms_norm
from headrace.kernels.triton.rope import rotate_and_write
from headrace.kernels.triton.tables import Tables
from headrace.model.attend import KvCache
from headrace.model.config import ModelConfig
from headrace.model.decoder import Attention, Decoder, FeedForward, Layer, RmsNorm
from headrace.model.quantized import Fp8Linear, QuantizedEmbedding, QuantizedLinear

_MOST_HEAD_DIM = 256
_FP8_CAPABILITY = (8, 9)
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def obstacle(decoder: Decoder) -> str | None:
    """Why this decoder cannot run on the GPU kernels here, for people; None = it can."""
    weight, config = decoder.norm.weight, decoder.config
    if weight.device.type != "cuda":
        return f"the GPU kernels are for CUDA devices, and the model is on {weight.device}"
    if (missing := kernels.why_not()) is not None:
        return missing
    if weight.dtype not in _DTYPES:
        return f"the GPU kernels compute in 16 or 32 bits, and the weights are {weight.dtype}"
    if config.head_dim > _MOST_HEAD_DIM:
        return f"head_dim {config.head_dim} exceeds {_MOST_HEAD_DIM}"
    capability = torch.cuda.get_device_capability(weight.device)
    fp8 = any(isinstance(module, Fp8Linear) for module in decoder.modules())
    if fp8 and capability < _FP8_CAPABILITY:
        return "fp8 weights need a GPU of compute capability 8.9 or newer; quantize to int8"
    for layer in _layers(decoder):
        for parts in (_reads_stream(layer.self_attn), _gates(layer.mlp)):
            if len({_kind(part) for part in parts}) > 1:
                return "linears that run as one (q, k and v; gate and up) differ in their formats"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuLayer:
    """One layer's weights."""

    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    attention_norm: Tensor
    feed_forward_norm: Tensor
    head_norms: tuple[Tensor, Tensor] | None
    """Of queries and keys, where the model has them."""
    window: int
    """Tokens a row sees; 0 = all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuDecoder:
    """A model on a GPU."""

    config: ModelConfig
    context_tokens: int
    dtype: torch.dtype
    layers: Sequence[GpuLayer]
    embedding: Matrix
    head: Matrix
    final_norm: Tensor
    table: tuple[Tensor, Tensor]
    """Cosine and sine of every position, float32 `[C, P]`."""
    fp8_rows: bool
    """Round activations to fp8 where weights are fp8 and rows more than one."""

    @classmethod
    @torch.no_grad()
    def take(cls, decoder: Decoder, *, fp8_rows: bool = False) -> "GpuDecoder":
        """Repack a decoder's weights where they are.

        Quantized modules are left without their weights: the decoder cannot be called afterwards.
        """
        layers = [_layer(layer) for layer in _layers(decoder)]
        weight = decoder.norm.weight
        embedding, head = _ends(decoder)
        angles = decoder.rope.angles(torch.arange(decoder.context_tokens, device=weight.device))
        return cls(
            config=decoder.config,
            context_tokens=decoder.context_tokens,
            dtype=weight.dtype,
            layers=layers,
            embedding=embedding,
            head=head,
            final_norm=weight.detach(),
            table=(angles.cos_TP.contiguous(), angles.sin_TP.contiguous()),
            fp8_rows=fp8_rows,
        )

    @property
    def device(self) -> torch.device:
        return self.final_norm.device

    @property
    def windows(self) -> tuple[int, ...]:
        """The widths that occur; 0 = none."""
        return tuple(sorted({layer.window for layer in self.layers}))

    @property
    def tile_rows(self) -> int:
        """Rows of a tile of queries, for `tables.lay_out`."""
        config = self.config
        return query_rows(
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, self.dtype
        )

    @property
    def weight_bytes(self) -> int:
        """What one decode step reads: every matrix once."""
        matrices = [
            matrix
            for layer in self.layers
            for matrix in (layer.qkv, layer.out, layer.gate_up, layer.down)
        ]
        return sum(matrix.size_bytes for matrix in (*matrices, self.head))

    def hidden(self, tables: Tables, kv: KvCache) -> Tensor:
        """Final, normed hidden state of each row; its keys and values are then in the cache."""
        x_TD = self._embed(tables.ids_T)
        for layer, k_cache, v_cache in zip(self.layers, kv.k, kv.v, strict=True):
            self._run(layer, x_TD, k_cache, v_cache, tables)
        return rms_norm(x_TD, self.final_norm, self.config.rms_norm_eps)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Scores over the vocabulary, float32."""
        return linear(hidden_RD.contiguous(), self.head).float()

    def _embed(self, ids_T: Tensor) -> Tensor:
        if self.embedding.scale is None:
            return functional.embedding(ids_T, self.embedding.data)
        return self.embedding.look_up(ids_T).to(self.dtype)

    def _run(
        self, layer: GpuLayer, x_TD: Tensor, k_cache: Tensor, v_cache: Tensor, tables: Tables
    ) -> None:
        """One layer, on the residual stream in place."""
        config, eps = self.config, self.config.rms_norm_eps
        fp8_rows = self.fp8_rows
        qkv_TX = normed_linear(x_TD, layer.attention_norm, eps, layer.qkv, fp8_rows=fp8_rows)
        q_TNH = rotate_and_write(
            qkv_TX,
            self.table,
            tables.pos_T,
            tables.slots_T,
            k_cache,
            v_cache,
            heads=config.num_attention_heads,
            norms=layer.head_norms,
            eps=eps,
        )
        o_TNH = paged_attention(
            q_TNH, k_cache, v_cache, tables, window=layer.window, scale=config.head_dim**-0.5
        )
        linear(o_TNH.flatten(1), layer.out, stream=x_TD, fp8_rows=fp8_rows)
        gated_TF = gated_linear(
            x_TD, layer.feed_forward_norm, eps, layer.gate_up, fp8_rows=fp8_rows
        )
        linear(gated_TF, layer.down, stream=x_TD, fp8_rows=fp8_rows)


def _layers(decoder: Decoder) -> list[Layer]:
    return [layer for layer in decoder.layers if isinstance(layer, Layer)]


def _reads_stream(attention: Attention) -> tuple[nn.Module, ...]:
    return attention.q_proj, attention.k_proj, attention.v_proj


def _gates(feed_forward: FeedForward) -> tuple[nn.Module, ...]:
    return feed_forward.gate_proj, feed_forward.up_proj


def _kind(part: nn.Module) -> tuple[str, int]:
    if isinstance(part, QuantizedLinear):
        return part.format, part.group
    return ("fp8" if isinstance(part, Fp8Linear) else "dense"), 0


def _layer(layer: Layer) -> GpuLayer:
    attention, feed_forward = layer.self_attn, layer.mlp
    q_norm, k_norm = attention.q_norm, attention.k_norm
    head_norms = None
    if isinstance(q_norm, RmsNorm) and isinstance(k_norm, RmsNorm):
        head_norms = (q_norm.weight.detach(), k_norm.weight.detach())
    return GpuLayer(
        qkv=_joined(_reads_stream(attention)),
        out=_matrix(attention.o_proj),
        gate_up=_joined(_gates(feed_forward)),
        down=_matrix(feed_forward.down_proj),
        attention_norm=layer.input_layernorm.weight.detach(),
        feed_forward_norm=layer.post_attention_layernorm.weight.detach(),
        head_norms=head_norms,
        window=attention.window or 0,
    )


def _joined(parts: Sequence[nn.Module]) -> Matrix:
    """Modules that read the same input as one matrix; plain ones keep a view of it."""
    matrix = join([_matrix(part) for part in parts])
    start = 0
    for part in parts:
        if isinstance(part, nn.Linear):
            part.weight.data = matrix.data[start : start + part.out_features]
            start += part.out_features
    return matrix


def _matrix(module: nn.Module) -> Matrix:
    bias = getattr(module, "bias", None)
    bias = bias.detach() if isinstance(bias, Tensor) else None
    if isinstance(module, QuantizedLinear):
        q_OI, scale_OG = tiles.unpack(
            module.packed, module.format, module.rows, module.cols, module.group
        )
        module.packed = module.packed.new_empty(0)
        return Matrix.quantized(q_OI, scale_OG, format=module.format, group=module.group, bias=bias)
    if isinstance(module, Fp8Linear):
        matrix = Matrix.fp8(module.weight, module.weight_scale, bias=bias)
        module.weight = module.weight.new_empty(0)
        return matrix
    assert isinstance(module, nn.Linear | nn.Embedding)
    return Matrix.dense(module.weight.detach(), bias=bias)


def _ends(decoder: Decoder) -> tuple[Matrix, Matrix]:
    """Embedding and head; one matrix where they are tied."""
    table, head = decoder.embed_tokens, decoder.lm_head
    if head is None:
        shared = _matrix(table)
        return shared, shared
    matrix = _matrix(head)
    if isinstance(table, QuantizedEmbedding):
        return matrix, matrix
    return _matrix(table), matrix
