"""`ModelConfig` -> the hyperparameters of a GGUF file, under llama.cpp's names.

Invariant: what llama.cpp would compute otherwise than headrace does is refused by its name, and
never written as something near it. Sources: gguf-py's constants.py, llama.cpp's llama-hparams and
src/models/{llama,qwen2,qwen3}.cpp.
"""

import math
from typing import TYPE_CHECKING

from headrace.errors import UnsupportedModel
from headrace.model.config import ModelConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Family -> llama.cpp's architecture."""


def check(config: ModelConfig) -> None:
    """Refuse what llama.cpp's architecture of this family does not compute.

    Raises:
        UnsupportedModel: Says what.
    """
    if config.quantization is not None:
        raise UnsupportedModel(
            f"the model is quantized to {config.quantization.format}; export the model it was "
            "made from, with --type q8_0 or q4_0"
        )
    narrow = [w for w in config.windows if w is not None and w < config.context_tokens]
    if narrow:
        raise UnsupportedModel(
            f"GGUF: sliding_window {narrow[0]} has no place in llama.cpp's "
            f"{ARCHITECTURES[config.family]} architecture"
        )
    if config.family == "qwen3" and (config.qkv_bias or config.o_bias):
        raise UnsupportedModel(
            "GGUF: attention_bias has no place in llama.cpp's qwen3 architecture"
        )
    _check_rope(config)


def _check_rope(config: ModelConfig) -> None:
    rope = config.rope
    if rope.kind not in ("default", "linear", "llama3", "yarn"):
        raise UnsupportedModel(
            f"GGUF: rope type {rope.kind!r} cannot be exported; default, linear, llama3 and yarn "
            "can"
        )
    if rope.kind == "llama3" and ARCHITECTURES[config.family] != "llama":
        raise UnsupportedModel(
            f"GGUF: rope type 'llama3' has no place in llama.cpp's {config.family} architecture"
        )
    if rope.kind == "yarn" and not rope.truncate:
        raise UnsupportedModel("GGUF: yarn with truncate false cannot be exported")
    if rope.kind == "yarn" and (rope.mscale or rope.mscale_all_dim):
        raise UnsupportedModel("GGUF: yarn with mscale or mscale_all_dim cannot be exported")


def write(writer: "GGUFWriter", config: ModelConfig) -> None:
    """Put the hyperparameters; `check` has passed."""
    writer.add_context_length(config.context_tokens)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_vocab_size(config.vocab_size)
    _write_rope(writer, config)


def _write_rope(writer: "GGUFWriter", config: ModelConfig) -> None:
    from gguf import RopeScalingType

    rope = config.rope
    if rope.kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.factor or 1.0)
    elif rope.kind == "yarn":
        factor = rope.factor or 1.0
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(rope.original_tokens or config.max_position_embeddings)
        writer.add_rope_scaling_yarn_beta_fast(rope.beta_fast or 32.0)
        writer.add_rope_scaling_yarn_beta_slow(rope.beta_slow or 1.0)
        if rope.attention_factor is not None:
            # llama.cpp multiplies its own 1 + 0.1 ln(factor) by this.
            usual = 1.0 + 0.1 * math.log(factor)
            writer.add_rope_scaling_attn_factors(rope.attention_factor / usual)
