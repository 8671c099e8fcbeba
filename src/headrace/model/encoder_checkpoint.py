"""A Hugging Face directory of an encoder → an `Encoder` and what lies around it.

Invariant: every parameter came from the file, and every tensor of the file went somewhere or is of
a head that an embedding does not use, which `unused` lists; a key too many, too few or of another
shape is an error that names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.model.checkpoint import choose_dtype
from headrace.model.encoder import Encoder
from headrace.model.encoder_config import EncoderConfig
from headrace.model.files import TensorEntry, read_json, read_tensors
from headrace.model.fingerprint import fingerprint
from headrace.model.sentences import SentenceConfig, read_sentences

_TOP = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
}
_LAYER = {
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
}
_QKV = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
_PREFIXES = ("", "bert.", "roberta.")
_HEADS = ("pooler.", "cls.", "lm_head.", "classifier.", "qa_outputs.")
_DERIVED = ("embeddings.position_ids", "embeddings.token_type_ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderCheckpoint:
    """An encoder ready to run."""

    encoder: Encoder
    config: EncoderConfig
    sentences: SentenceConfig
    dtype: torch.dtype
    fingerprint: str
    """SHA-256, hex, over config.json and the weight files."""
    path: Path
    unused: tuple[str, ...]
    """Tensors of heads."""


def load_encoder(
    path: Path | str, *, dtype: str = "auto", device: torch.device | str = "cpu"
) -> EncoderCheckpoint:
    """Load a checkpoint directory.

    Args:
        path: The directory.
        dtype: auto | float32 | bfloat16 | float16; auto = what most of the weights are stored in.
        device: Where the weights go.

    Raises:
        CheckpointError: Anything missing, too much, misshapen or damaged, by its name.
    """
    directory = Path(path)
    config = EncoderConfig.from_hf(read_json(directory / "config.json"))
    sentences = read_sentences(directory, config)
    stored = read_tensors(directory)
    chosen = choose_dtype(dtype, stored)
    with torch.device("meta"):
        encoder = Encoder(config)
    prefix = _prefix(directory, stored)
    sources = {
        name: [prefix + source for source in _sources(name)] for name in encoder.state_dict()
    }
    unused = _match(directory, encoder, sources, stored, prefix)
    values = _read(stored, {source for found in sources.values() for source in found})
    state = {
        name: torch.cat([values[source] for source in found]).to(device=device, dtype=chosen)
        for name, found in sources.items()
    }
    encoder.load_state_dict(state, assign=True)
    return EncoderCheckpoint(
        encoder=encoder.eval().requires_grad_(False),
        config=config,
        sentences=sentences,
        dtype=chosen,
        fingerprint=fingerprint(directory, {entry.file for entry in stored.values()}),
        path=directory,
        unused=unused,
    )


def _sources(name: str) -> list[str]:
    """The tensors of a file that make one of the encoder's parameters, joined by rows."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("layers."):
        return [f"{next(key for key, own in _TOP.items() if own == module)}.{kind}"]
    _, number, part = module.split(".")
    parts = _QKV if part == "qkv" else [key for key, own in _LAYER.items() if own == part]
    return [f"encoder.layer.{number}.{found}.{kind}" for found in parts]


def _prefix(directory: Path, stored: Mapping[str, TensorEntry]) -> str:
    for prefix in _PREFIXES:
        if f"{prefix}embeddings.word_embeddings.weight" in stored:
            return prefix
    raise CheckpointError(
        f"{directory} lacks embeddings.word_embeddings.weight; it is not an encoder's checkpoint"
    )


def _match(
    directory: Path,
    encoder: Encoder,
    sources: Mapping[str, list[str]],
    stored: Mapping[str, TensorEntry],
    prefix: str,
) -> tuple[str, ...]:
    for name, tensor in encoder.state_dict().items():
        rows = len(tensor) // len(sources[name])
        for source in sources[name]:
            if source not in stored:
                raise CheckpointError(
                    f"{directory} lacks {source}, which its config.json calls for; download it "
                    "again, or mend config.json"
                )
            wanted = (rows, *tensor.shape[1:])
            if stored[source].shape != wanted:
                raise CheckpointError(
                    f"{directory}: {source} has shape {list(stored[source].shape)} where "
                    f"config.json calls for {list(wanted)}"
                )
    used = {source for found in sources.values() for source in found}
    used |= {prefix + name for name in _DERIVED}
    others = sorted(name for name in stored if name not in used)
    unknown = [n for n in others if not n.removeprefix(prefix).startswith(_HEADS)]
    if unknown:
        raise CheckpointError(
            f"{directory} holds {unknown[0]}, which its config.json has no place for; it is not "
            "the model that config.json describes"
        )
    return tuple(others)


def _read(stored: Mapping[str, TensorEntry], wanted: set[str]) -> dict[str, Tensor]:
    by_file: dict[Path, list[str]] = {}
    for name in wanted:
        by_file.setdefault(stored[name].file, []).append(name)
    values: dict[str, Tensor] = {}
    for file, names in by_file.items():
        try:
            with safe_open(file, framework="pt") as tensors:
                values |= {name: tensors.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}; download it again") from error
    return values
