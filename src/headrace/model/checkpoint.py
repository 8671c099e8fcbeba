"""A Hugging Face directory ⇄ a `Decoder`: config.json, safetensors, generation_config.json.

Invariant: after `load` every parameter came from the file and every tensor of the file went
somewhere; a key too many, too few or of another shape is an error that names it. Weights are mapped
from the file, not copied, where device and dtype allow. What `save` wrote, transformers loads, with
the same logits; a directory appears complete or not at all. A quantized directory (see
`quantization`) gives a decoder with `QuantizedLinear` modules, whose tiles are mapped too.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.model.config import ModelConfig, classifier_fields
from headrace.model.decoder import Decoder
from headrace.model.files import INDEX, SINGLE, TensorEntry, peek, read_tensors
from headrace.model.fingerprint import fingerprint, write_sums
from headrace.model.generation import GenerationDefaults
from headrace.model.quantized import SCALE, check_described, densify_fp8, prepare
from headrace.model.staging import staged

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of settings and of config.json -> torch."""

_STORED = {"F64": "float32", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_RAW = {torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}
"""Types of quantized tensors, which are loaded and saved as they are -> safetensors' names."""
_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A model ready to run, and what its directory says about running it."""

    decoder: Decoder
    config: ModelConfig
    dtype: torch.dtype
    fingerprint: str
    """SHA-256, hex, over config.json and the weight files: equal means the same model."""
    generation: GenerationDefaults
    eos_ids: tuple[int, ...]
    path: Path


def load(
    path: Path | str,
    *,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
    context_tokens: int = 0,
) -> Checkpoint:
    """Load a checkpoint directory (see `hub.resolve` for hub ids).

    Args:
        path: The directory.
        dtype: auto | float32 | bfloat16 | float16; auto = what most of the weights are stored in.
        device: Where the weights go.
        context_tokens: Longest sequence to be served; 0 = what the checkpoint says. Rope types
            `dynamic` and `longrope` choose their frequencies by it.

    Raises:
        CheckpointError: Anything missing, too much, misshapen or damaged, by its name.
    """
    directory, target = Path(path), torch.device(device)
    seen = peek(directory)
    stored = read_tensors(directory)
    chosen = choose_dtype(dtype, stored)
    decoder = assemble(
        directory, seen.config, stored, dtype=chosen, device=target, context_tokens=context_tokens
    )
    return Checkpoint(
        decoder=decoder,
        config=seen.config,
        dtype=chosen,
        fingerprint=fingerprint(directory, {entry.file for entry in stored.values()}),
        generation=seen.generation,
        eos_ids=seen.eos_ids,
        path=directory,
    )


def assemble(
    directory: Path,
    config: ModelConfig,
    stored: Mapping[str, TensorEntry],
    *,
    dtype: torch.dtype,
    device: torch.device,
    context_tokens: int = 0,
) -> Decoder:
    """The decoder of a config with the weights of a directory's headers, each exactly once."""
    with torch.device("meta"):
        decoder = Decoder(config, context_tokens=context_tokens or None)
        if config.quantization is not None:
            prepare(decoder, config.quantization, dtype)
    match(directory, decoder, stored)
    _assign(decoder, stored, dtype, device)
    if device.type == "cpu":
        densify_fp8(decoder, dtype)  # no CPU computes in it
    return decoder.eval()


def save(
    decoder: Decoder,
    config: ModelConfig,
    path: Path | str,
    *,
    dtype: str = "auto",
    shard_bytes: int = _SHARD_BYTES,
    generation: GenerationDefaults | None = None,
    score_1D: Tensor | None = None,
    beside: Mapping[str, bytes] = MappingProxyType({}),
    replace_existing: bool = False,
) -> None:
    """Write a directory that transformers, and `load`, read.

    It appears complete or not at all (see `staging`).

    Args:
        decoder: The weights.
        config: Written to config.json with the dtype of the file.
        path: The directory, which must not exist unless `replace_existing`.
        dtype: auto | float32 | bfloat16 | float16; auto = the decoder's own.
        shard_bytes: Largest weight file; a tensor is never split.
        generation: Written to generation_config.json where given.
        score_1D: Of a reward model (see `reward`): takes the place of the head over words.
        beside: Further files, by their names.
        replace_existing: Put it in the place of a directory that is there, with all it holds.

    Raises:
        CheckpointError: The directory exists, or cannot be written, or `config.quantization` is
            not how the decoder is quantized.
    """
    target = Path(path)
    check_described(decoder, config.quantization)
    own = decoder.norm.weight.dtype
    chosen = own if dtype == "auto" else _dtype(dtype)
    name = next(key for key, value in DTYPES.items() if value == chosen)
    with staged(target, replace_existing=replace_existing) as staging:
        for file, content in beside.items():
            (staging / file).write_bytes(content)
        hf = replace(config, dtype=name).to_hf()
        if score_1D is not None:
            hf |= classifier_fields(config)
        _write_json(staging / "config.json", hf)
        if generation is not None:
            _write_json(staging / "generation_config.json", generation.to_hf())
        values = {hub_name(key): value for key, value in decoder.state_dict().items()}
        if score_1D is not None:
            values.pop("lm_head.weight", None)
            values["score.weight"] = score_1D
        _write_weights(values, staging, chosen, shard_bytes)
        if config.quantization is not None:
            write_sums(staging)


def hub_name(name: str) -> str:
    """The name in a checkpoint file of one of the decoder's parameters."""
    return name if name.startswith("lm_head.") else f"model.{name}"


def match(directory: Path, decoder: Decoder, stored: Mapping[str, TensorEntry]) -> None:
    """Refuse files that are not this decoder's.

    Raises:
        CheckpointError: A tensor too many, too few, or of another shape or type, by its name.
    """
    expected = {hub_name(name): tensor for name, tensor in decoder.state_dict().items()}
    missing = [name for name in expected if name not in stored]
    if missing:
        raise CheckpointError(
            f"{directory} lacks {_some(missing)}, which its config.json calls for; "
            "download it again, or mend config.json"
        )
    unexpected = [name for name in stored if name not in expected and not _derived(decoder, name)]
    if unexpected:
        raise CheckpointError(
            f"{directory} holds {_some(unexpected)}, which its config.json has no place for; "
            "it is not the model that config.json describes"
        )
    for name, tensor in expected.items():
        entry, shape = stored[name], tuple(tensor.shape)
        if entry.shape != shape:
            raise CheckpointError(
                f"{directory}: {name} has shape {list(entry.shape)} where config.json calls "
                f"for {list(shape)}"
            )
        wanted = _RAW.get(tensor.dtype)
        if (entry.dtype != wanted) if wanted else (entry.dtype not in _STORED):
            raise CheckpointError(
                f"{directory}: {name} is stored as {entry.dtype} where config.json calls for "
                f"{wanted or ', '.join(_STORED)}"
            )


def _derived(decoder: Decoder, name: str) -> bool:
    """Tensors of older files that repeat what the config or another tensor says."""
    tied_head = name == "lm_head.weight" and decoder.lm_head is None
    return tied_head or name.endswith(".rotary_emb.inv_freq")


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def choose_dtype(dtype: str, stored: Mapping[str, TensorEntry]) -> torch.dtype:
    """The type of a setting; auto = what most of the weights are stored in."""
    if dtype != "auto":
        return _dtype(dtype)
    elements: Counter[str] = Counter()
    for name, entry in stored.items():
        if entry.dtype in _STORED and not name.endswith(SCALE):
            elements[_STORED[entry.dtype]] += entry.elements
    return DTYPES[elements.most_common(1)[0][0]] if elements else torch.float32


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise CheckpointError(f"dtype {name!r} is not supported; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _assign(
    decoder: Decoder, stored: Mapping[str, TensorEntry], dtype: torch.dtype, device: torch.device
) -> None:
    by_file: dict[Path, list[str]] = {}
    for name, entry in stored.items():
        by_file.setdefault(entry.file, []).append(name)
    names = {hub_name(name): name for name in decoder.state_dict()}
    state: dict[str, Tensor] = {}
    head: Tensor | None = None
    for file, keys in by_file.items():
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in keys:
                    if key in names:
                        state[names[key]] = _cast(key, tensors.get_tensor(key), dtype).to(device)
                    elif key == "lm_head.weight":
                        head = tensors.get_tensor(key).to(device=device, dtype=dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}; download it again") from error
    if head is not None and not torch.equal(head, state["embed_tokens.weight"]):
        raise CheckpointError(
            "config.json says tie_word_embeddings, but lm_head.weight differs from "
            "model.embed_tokens.weight; set tie_word_embeddings to false"
        )
    decoder.load_state_dict(state, assign=True)


def _write_weights(
    values: Mapping[str, Tensor], staging: Path, dtype: torch.dtype, shard_bytes: int
) -> None:
    shards = list(_shards(values, dtype, shard_bytes))
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: _cast(name, values[name], dtype).to("cpu").contiguous() for name in names}
        save_file(tensors, staging / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        _write_json(staging / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(
    values: Mapping[str, Tensor], dtype: torch.dtype, shard_bytes: int
) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, tensor in values.items():
        length = _cast(name, tensor.to("meta"), dtype).nbytes
        if names and size + length > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += length
    yield names


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of a file in a type of choice, but for those that quantization gives a type."""
    return tensor if tensor.dtype in _RAW or name.endswith(SCALE) else tensor.to(dtype)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
