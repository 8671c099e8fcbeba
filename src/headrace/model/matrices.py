"""`ModelConfig` → names and shapes of the matrices that can be quantized, as in its files.

Loads no torch. The embedding is among them only where it is the head too (`lm_head`).
"""

from headrace.model.config import ModelConfig
from headrace.model.quantization import HEAD

Shape = tuple[int, int]
"""Rows (outputs) and columns (inputs)."""


def matrices(config: ModelConfig) -> dict[str, Shape]:
    """Every linear of the decoder by its name in a checkpoint file, in the order they run."""
    width, inner = config.hidden_size, config.intermediate_size
    heads, key_heads = (
        count * config.head_dim
        for count in (config.num_attention_heads, config.num_key_value_heads)
    )
    shapes: dict[str, Shape] = {
        "self_attn.q_proj": (heads, width),
        "self_attn.k_proj": (key_heads, width),
        "self_attn.v_proj": (key_heads, width),
        "self_attn.o_proj": (width, heads),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    layers = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(config.num_hidden_layers)
        for name, shape in shapes.items()
    }
    return {**layers, HEAD: (config.vocab_size, width)}
