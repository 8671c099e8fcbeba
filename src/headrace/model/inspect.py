"""A checkpoint's headers → what it is made of, what a token costs, and what fits in this machine.

Invariant: the parts add up to the total, and nothing is estimated that the headers state. No weight
is read. Loads no torch.

FLOPs of a forward pass per token at position t, with a multiply-add as two (Kaplan et al. 2020,
table 1; the attention term as in Chowdhery et al. 2022, appendix B, forward part only):

    2 * (weights in matrix products, the output head included, the embedding look-up not)
    + 4 * query_heads * head_dim * min(t, window), summed over layers
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.model.config import ModelConfig
from headrace.model.files import TensorEntry, peek, read_tensors
from headrace.model.matrices import matrices

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
"""The types that memory is reckoned for, and the bytes of a number."""

_STEPS = (1024, 4096, 16_384, 65_536, 262_144, 1_048_576)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How many sequences of a length fit beside the weights."""

    dtype: str
    context_tokens: int
    sequences: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What `headrace model inspect` reports."""

    path: str
    family: str
    context_tokens: int
    layers: int
    parameters: int
    parameters_by_part: Mapping[str, int]
    """embedding, attention, feed_forward, norms, head; a tied head counts once, as embedding."""
    stored_bytes: Mapping[str, int]
    """By the type's name in the files."""
    quantization: str
    """int8 | int4 | fp8 | none."""
    weight_bytes: Mapping[str, int]
    """What the parameters occupy in each type, and as they are stored where that is quantized."""
    kv_bytes_per_token: Mapping[str, int]
    """By the same types; beside quantized weights in bfloat16."""
    flops_per_token: Mapping[int, int]
    """Position -> forward FLOPs of the token there."""
    memory_bytes: int
    """Available on this machine now."""
    fits: Sequence[Fit]


def inspect(directory: Path) -> Inspection:
    """Read a checkpoint's JSON files and headers.

    Raises:
        CheckpointError: What `files.peek` and `files.read_tensors` refuse.
    """
    config = peek(directory).config
    tensors = read_tensors(directory)
    parts = _parts(config, tensors)
    stored: Counter[str] = Counter()
    for entry in tensors.values():
        stored[entry.dtype] += entry.stored_bytes
    total = parts.total()
    products = sum(rows * cols for rows, cols in matrices(config).values())
    weights = {dtype: total * size for dtype, size in DTYPE_BYTES.items()}
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    kv = {dtype: numbers * size for dtype, size in DTYPE_BYTES.items()}
    if config.quantization is not None:
        weights[config.quantization.format] = stored.total()
        kv[config.quantization.format] = kv["bfloat16"]
    memory = available_memory_bytes()
    contexts = (*(step for step in _STEPS if step < config.context_tokens), config.context_tokens)
    return Inspection(
        path=str(directory),
        family=config.family,
        context_tokens=config.context_tokens,
        layers=config.num_hidden_layers,
        parameters=total,
        parameters_by_part=dict(parts),
        stored_bytes=dict(stored),
        quantization="none" if config.quantization is None else config.quantization.format,
        weight_bytes=weights,
        kv_bytes_per_token=kv,
        flops_per_token={t: 2 * products + _attention_flops(config, t) for t in (1, *contexts)},
        memory_bytes=memory,
        fits=[
            Fit(
                dtype=dtype,
                context_tokens=context,
                sequences=max(0, memory - size) // (kv[dtype] * context),
            )
            for dtype, size in weights.items()
            for context in contexts
        ],
    )


def _parts(config: ModelConfig, tensors: Mapping[str, TensorEntry]) -> Counter[str]:
    """Parameters by part: of quantized matrices as many as they stand for."""
    parts: Counter[str] = Counter(
        dict.fromkeys(("embedding", "attention", "feed_forward", "norms", "head"), 0)
    )
    shapes = matrices(config)
    for name, entry in tensors.items():
        if name.endswith((".inv_freq", ".weight_scale")):
            continue
        shape = shapes.get(name.rpartition(".")[0])
        count = entry.elements
        if shape is not None and not name.endswith(".bias"):
            count = shape[0] * shape[1]
        if name.startswith("lm_head.") and config.tie_word_embeddings:
            if "model.embed_tokens.weight" in tensors:
                continue  # the embedding once more
            parts["embedding"] += count
        else:
            parts[_part(name)] += count
    return parts


def available_memory_bytes() -> int:
    """Memory that could be had without swapping; all there is where the kernel does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _attention_flops(config: ModelConfig, position: int) -> int:
    keys = sum(
        min(position, config.window(layer) or position) for layer in range(config.num_hidden_layers)
    )
    return 4 * config.num_attention_heads * config.head_dim * keys


def _part(name: str) -> str:
    if name.endswith("norm.weight"):
        return "norms"
    if ".self_attn." in name:
        return "attention"
    if ".mlp." in name:
        return "feed_forward"
    return "head" if name.startswith("lm_head.") else "embedding"
