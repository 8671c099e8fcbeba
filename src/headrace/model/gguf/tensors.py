"""Tensors of a checkpoint -> tensors of a GGUF file: names, order of rows, types.

llama.cpp's `llama` architecture turns neighbouring elements of a head, (0, 1), (2, 3), ..., where
checkpoints pair the halves, (0, H/2), (1, H/2 + 1), ...: rows of its queries and keys are
interleaved, biases too. `qwen2` and `qwen3` pair the halves as checkpoints do.

Types: matrices in the type that was asked for; vectors in float32, as llama.cpp wants them. With
q4_0 the output matrix (the embedding, where the two are tied) is q8_0: its error goes into every
token, and llama.cpp's own quantizer spares it as well. Rows that are no multiple of a block of 32
stay float16.
"""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.model.config import ModelConfig
from headrace.model.gguf.header import ARCHITECTURES
from headrace.model.rope import frequencies

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

TYPES = ("f16", "q8_0", "q4_0")
BLOCK = 32
"""Elements that share a scale, along a row."""
ROPE_FACTORS = "rope_freqs.weight"
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_TURNED = re.compile(r"\.self_attn\.([qk])_proj\.")


def name_of(name: str) -> str:
    """A checkpoint's tensor name -> llama.cpp's."""
    if name in _TOP:
        return _TOP[name]
    matched = _LAYER.fullmatch(name)
    if matched is None or matched[2] not in _IN_LAYER:
        raise CheckpointError(f"GGUF has no name for the tensor {name!r}")
    return f"blk.{matched[1]}.{_IN_LAYER[matched[2]]}.{matched[3]}"


def type_of(
    name: str, shape: tuple[int, ...], wanted: str, config: ModelConfig
) -> "GGMLQuantizationType":
    """How a tensor is stored where the file is of the type `wanted`."""
    from gguf import GGMLQuantizationType as Stored

    if len(shape) < 2:
        return Stored.F32
    if wanted == "f16" or shape[-1] % BLOCK:
        return Stored.F16
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return Stored.Q8_0 if wanted == "q8_0" or name == head else Stored.Q4_0


def arranged(name: str, tensor: Tensor, config: ModelConfig) -> NDArray[np.float32]:
    """The values in float32, rows in llama.cpp's order."""
    values: NDArray[np.float32] = tensor.to(torch.float32).numpy()
    matched = _TURNED.search(name)
    if matched is None or ARCHITECTURES[config.family] != "llama":
        return values
    count = config.num_attention_heads if matched[1] == "q" else config.num_key_value_heads
    rest = values.shape[1:]
    return (
        values.reshape(count, 2, config.head_dim // 2, *rest).swapaxes(1, 2).reshape(values.shape)
    )


def encoded(name: str, values: NDArray[np.float32], stored: "GGMLQuantizationType") -> NDArray[Any]:
    """The bytes of a tensor, by gguf-py's own quantizers.

    Raises:
        CheckpointError: A value that is no number, or beyond float16 where it is to be one.
    """
    from gguf import GGMLQuantizationType as Stored
    from gguf import quantize

    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest):
        raise CheckpointError(f"{name} has a value that is not a finite number")
    # A block's scale is a float16 too: the largest over 127 or over 8.
    limit = {Stored.F16: 1.0, Stored.Q8_0: 127.0, Stored.Q4_0: 8.0}.get(stored)
    if limit is not None and largest > limit * float(np.finfo(np.float16).max):
        raise CheckpointError(
            f"{name} has a value of {largest:g}, which float16 cannot hold; this model cannot be "
            f"stored as {stored.name}"
        )
    return quantize(np.ascontiguousarray(values), stored)


def rope_factors(config: ModelConfig) -> NDArray[np.float32] | None:
    """By how much llama3's rope slows each pair; None = the file needs none."""
    if config.rope.kind != "llama3":
        return None
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    slowed, _ = frequencies(config, config.context_tokens)
    return (1.0 / (config.rope.theta**exponents) / slowed).numpy()
