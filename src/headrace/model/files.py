"""A checkpoint directory → what its JSON files and safetensors headers say, no weight read.

Invariant: nothing is believed of a safetensors file that its size contradicts: offsets lie end to
end and end where the file ends, so a truncated or padded file is found before anything maps it.
Loads neither torch nor the safetensors library.

Source: the safetensors format: 8 bytes little-endian header length, JSON header, raw tensors.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import CheckpointError, UnsupportedModel
from headrace.model.config import ModelConfig
from headrace.model.generation import GenerationDefaults

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1, "I64": 8}
"""Stored types that can be read, in safetensors' names, and the size of an element; F8_E4M3 and U8
only as `quantization` says, I64 only where older encoders list their positions."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_FOREIGN = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """One tensor of a header."""

    file: Path
    dtype: str
    """Safetensors' name: F32, BF16, ..."""
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peek:
    """What a checkpoint says of itself without its weights."""

    config: ModelConfig
    generation: GenerationDefaults
    eos_ids: tuple[int, ...]
    """Ids that end an answer: those of either JSON file, sorted."""


def peek(directory: Path) -> Peek:
    """Read `config.json` and, where there is one, `generation_config.json`.

    Raises:
        CheckpointError: Missing or malformed; its subclass UnsupportedModel names a feature.
    """
    config = ModelConfig.from_hf(read_json(directory / "config.json"))
    path = directory / "generation_config.json"
    generation = GenerationDefaults.from_hf(read_json(path) if path.is_file() else {})
    eos_ids = tuple(sorted({*config.eos_token_ids, *generation.eos_token_ids}))
    for eos_id in eos_ids:
        if eos_id >= config.vocab_size:
            raise CheckpointError(
                f"{directory}: eos_token_id {eos_id} is not below vocab_size {config.vocab_size}"
            )
    return Peek(config=config, generation=generation, eos_ids=eos_ids)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; a checkpoint directory needs it")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def read_tensors(directory: Path) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint by name, from one file or all shards of its index.

    Raises:
        CheckpointError: No safetensors here, a shard missing or damaged, or an index that its
            shards contradict.
    """
    if (directory / SINGLE).is_file():
        return read_header(directory / SINGLE)
    if not (directory / INDEX).is_file():
        raise CheckpointError(_no_weights(directory))
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{directory / INDEX} has no weight_map")
    tensors: dict[str, TensorEntry] = {}
    for name in sorted({str(name) for name in weight_map.values()}):
        if Path(name).name != name:
            raise CheckpointError(f"{directory / INDEX}: {name!r} is not a plain file name")
        for key, entry in read_header(directory / name).items():
            if weight_map.get(key) != name:
                raise CheckpointError(
                    f"{directory / name} holds {key!r}, which {INDEX} places in "
                    f"{weight_map.get(key)!r}"
                )
            tensors[key] = entry
    for key, name in weight_map.items():
        if key not in tensors:
            raise CheckpointError(
                f"{directory / str(name)} lacks {key!r}, which {INDEX} places there"
            )
    return tensors


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, checked against the file's size.

    Raises:
        CheckpointError: The file is missing, truncated or not safetensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download the checkpoint again")
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path} is not a safetensors file or is truncated: {size} bytes, "
                f"header of {length} announced; download it again"
            )
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        found = _entries(path, header)
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error}; download it again") from error
    end = 0
    for name, (entry, begin, stop) in sorted(found.items(), key=lambda item: item[1][1:]):
        if entry.dtype not in ITEM_BYTES:
            raise UnsupportedModel(
                f"{path}: {name!r} is stored as {entry.dtype}, which is not supported; "
                f"supported are {', '.join(ITEM_BYTES)}"
            )
        if begin != end or stop - begin != entry.stored_bytes:
            raise CheckpointError(
                f"{path} has a damaged header: {name!r} of shape {list(entry.shape)} lies at bytes "
                f"{begin} to {stop}; download it again"
            )
        end = stop
    if size != 8 + length + end:
        raise CheckpointError(
            f"{path} is {size} bytes where its header needs {8 + length + end}; download it again"
        )
    return {name: entry for name, (entry, _, _) in found.items()}


def _entries(path: Path, header: Any) -> dict[str, tuple[TensorEntry, int, int]]:
    if not isinstance(header, dict):
        raise TypeError("not a JSON object")
    tensors: Mapping[str, Any] = header
    found: dict[str, tuple[TensorEntry, int, int]] = {}
    for name, item in tensors.items():
        if name == "__metadata__":
            continue
        begin, stop = (int(offset) for offset in item["data_offsets"])
        shape = tuple(int(length) for length in item["shape"])
        if min((begin, stop, *shape)) < 0:
            raise ValueError(f"{name!r} has a negative size")
        found[name] = (TensorEntry(file=path, dtype=str(item["dtype"]), shape=shape), begin, stop)
    return found


def _no_weights(directory: Path) -> str:
    foreign = sorted(path.name for pattern in _FOREIGN for path in directory.glob(pattern))
    if foreign:
        return (
            f"{directory} has no {SINGLE}, only {', '.join(foreign[:3])}; headrace loads "
            "safetensors only: convert it, with transformers `save_pretrained` for example"
        )
    return f"{directory} has neither {SINGLE} nor {INDEX}; give the directory of a checkpoint"
