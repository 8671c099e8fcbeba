"""A GGUF file -> our `Decoder`, by gguf-py's reader and dequantizers: what exports are held to.

Written from llama.cpp's names and conventions, apart from the exporter's own tables.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder

_OURS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def fields(path: Path) -> dict[str, Any]:
    """The metadata, as plain values."""
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def decoder(path: Path, config: ModelConfig) -> Decoder:
    """The model of the file; of `config` only what a GGUF file cannot say."""
    reader = gguf.GGUFReader(path)
    told = fields(path)
    arch = told["general.architecture"]
    seen = replace(
        config,
        vocab_size=told[f"{arch}.vocab_size"],
        hidden_size=told[f"{arch}.embedding_length"],
        intermediate_size=told[f"{arch}.feed_forward_length"],
        num_hidden_layers=told[f"{arch}.block_count"],
        num_attention_heads=told[f"{arch}.attention.head_count"],
        num_key_value_heads=told[f"{arch}.attention.head_count_kv"],
        head_dim=told[f"{arch}.attention.key_length"],
        rms_norm_eps=told[f"{arch}.attention.layer_norm_rms_epsilon"],
        tie_word_embeddings="output.weight" not in {tensor.name for tensor in reader.tensors},
    )
    made = Decoder(seen)
    state: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        *layer, own, kind = tensor.name.split(".")
        name = f"{_OURS[own]}.{kind}"
        if layer:
            name = f"layers.{layer[1]}.{name}"
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        values = values.reshape([int(side) for side in reversed(tensor.shape)])
        if arch == "llama" and own in ("attn_q", "attn_k"):
            pairs = seen.head_dim // 2
            heads = values.shape[0] // seen.head_dim
            rest = values.shape[1:]
            values = values.reshape(heads, pairs, 2, *rest).swapaxes(1, 2).reshape(values.shape)
        state[name] = torch.from_numpy(np.array(values, dtype=np.float32))
    made.load_state_dict(state)
    return made.eval()
