"""An encoder's headers → what it is made of and how it makes vectors. Loads no torch.

FLOPs of a token, with a multiply-add as two: 2 * weights in matrix products + 4 * width * length,
summed over layers (Kaplan et al. 2020, arXiv 2001.08361, table 1; attention sees all of its input).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.model.encoder_config import EncoderConfig
from headrace.model.files import read_json, read_tensors
from headrace.model.sentences import read_sentences

_PARTS = ("embedding", "attention", "feed_forward", "norms", "unused")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderInspection:
    """What `headrace model inspect` reports of an encoder."""

    path: str
    family: str
    layers: int
    dimensions: int
    max_tokens: int
    pooling: str
    normalize: bool
    prompts: Mapping[str, str]
    parameters: int
    parameters_by_part: Mapping[str, int]
    """embedding, attention, feed_forward, norms, unused (heads that no vector needs)."""
    stored_bytes: Mapping[str, int]
    """By the type's name in the files."""
    flops_per_token: Mapping[int, int]
    """Tokens of the input -> forward FLOPs of each."""


def inspect_encoder(directory: Path) -> EncoderInspection:
    """Read a checkpoint's JSON files and headers.

    Raises:
        CheckpointError: As `EncoderConfig.from_hf`, `read_sentences` and `read_tensors`.
    """
    config = EncoderConfig.from_hf(read_json(directory / "config.json"))
    sentences = read_sentences(directory, config)
    parts: Counter[str] = Counter(dict.fromkeys(_PARTS, 0))
    stored: Counter[str] = Counter()
    for name, entry in read_tensors(directory).items():
        parts[_part(name)] += entry.elements
        stored[entry.dtype] += entry.stored_bytes
    width, layers = config.hidden_size, config.num_hidden_layers
    products = layers * (4 * width * width + 2 * width * config.intermediate_size)
    return EncoderInspection(
        path=str(directory),
        family=config.family,
        layers=layers,
        dimensions=width,
        max_tokens=sentences.max_tokens,
        pooling=sentences.pooling,
        normalize=sentences.normalize,
        prompts=dict(sentences.prompts),
        parameters=parts.total(),
        parameters_by_part=dict(parts),
        stored_bytes=dict(stored),
        flops_per_token={
            length: 2 * products + 4 * width * length * layers
            for length in sorted({16, 128, sentences.max_tokens})
        },
    )


def _part(name: str) -> str:
    if ".LayerNorm." in name:
        return "norms"
    if ".attention." in name:
        return "attention"
    if ".layer." in name:
        return "feed_forward"
    return "embedding" if "embeddings." in name else "unused"
