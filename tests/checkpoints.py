"""Random-weight checkpoints of every family, written by transformers: what tests load and compare.

    directory = checkpoints.make(tmp_path / "m", "qwen3")                     # a tiny one
    directory = checkpoints.make(tmp_path / "m", "mistral", sliding_window=7) # config.json fields
    model = checkpoints.oracle(directory)                                     # transformers' own

Deterministic: the same arguments give the same weights. Norms and biases are random too, so that a
forgotten one shows.
"""

import logging
from pathlib import Path
from typing import Any

import torch
import transformers

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

TINY: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 90,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.02,
}
"""The shape where nothing else is said; about 100 thousand parameters."""

_BY_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
}
_PREFIX = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def make(
    directory: Path,
    family: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    std: float = 0.12,
    **fields: Any,
) -> Path:
    """Write a random checkpoint; `fields` are those of config.json, over `TINY`."""
    _hush()
    settings = {**TINY, **_BY_FAMILY[family], **fields}
    config = getattr(transformers, f"{_PREFIX[family]}Config")(**settings)
    model = getattr(transformers, f"{_PREFIX[family]}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.normal_(mean, std, generator=generator)
    model.to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
    return directory


def oracle(directory: Path, **options: Any) -> Any:
    """The checkpoint as transformers loads it, float32, in evaluation mode."""
    _hush()
    options = {"dtype": torch.float32, **options}
    return transformers.AutoModelForCausalLM.from_pretrained(directory, **options).eval()


def _hush() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
