"""A checkpoint directory -> a GGUF file, tensor by tensor.

The header is laid out from the safetensors headers alone; then each tensor is mapped, converted,
written and forgotten, so that no more than one is in memory. The file is written beside its place,
synced and renamed: it appears complete or not at all.
"""

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from headrace.errors import CheckpointError, MissingExtra, UserError
from headrace.model.checkpoint import hub_name, match
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.files import TensorEntry, peek, read_tensors
from headrace.model.gguf import header, vocabulary
from headrace.model.gguf.tensors import (
    ROPE_FACTORS,
    TYPES,
    arranged,
    encoded,
    name_of,
    rope_factors,
    type_of,
)

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a GGUF file says of itself beside the model; empty = nothing."""

    name: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorWritten:
    """One of so many."""

    name: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FileWritten:
    """The file is in its place."""

    path: Path
    size_bytes: int
    tensors: Mapping[str, int]
    """How many of each stored type."""


def export(
    directory: Path, target: Path, *, type: str, about: About | None = None
) -> Iterator[TensorWritten | FileWritten]:
    """Write the file; yields what happens.

    Args:
        directory: The checkpoint.
        target: The file, which must not exist.
        type: f16 | q8_0 | q4_0, of the matrices (see `tensors`).
        about: Written into the file.

    Raises:
        UserError: An unknown type.
        MissingExtra: `gguf` is not installed.
        CheckpointError: The checkpoint is damaged, llama.cpp would compute it otherwise, `target`
            exists or the disk refuses.
        TokenizerError: llama.cpp does not know such a tokenizer.
    """
    if type not in TYPES:
        raise UserError(f"--type {type!r} is none of {', '.join(TYPES)}")
    _require_gguf()
    seen = peek(directory)
    header.check(seen.config)
    stored = _wanted(directory, seen.config)
    words = vocabulary.read(directory, seen)
    if target.exists():
        raise CheckpointError(f"{target} exists already; choose another file or remove it")
    types = {name: type_of(name, entry.shape, type, seen.config) for name, entry in stored.items()}
    with _staged(target) as partial:
        writer = _begun(partial, seen.config, type, about or About(name=directory.name))
        vocabulary.write(writer, words)
        factors = rope_factors(seen.config)
        if factors is not None:
            writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
        for name, entry in stored.items():
            _announce(writer, name, entry, types[name])
        try:
            writer.write_header_to_file(partial)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            if factors is not None:
                writer.write_tensor_data(factors)
            for name, entry in stored.items():
                _write(writer, name, entry, types[name], seen.config)
                yield TensorWritten(name=name, count=len(stored))
        finally:
            writer.close()
    counts: dict[str, int] = {}
    for one in types.values():
        counts[one.name] = counts.get(one.name, 0) + 1
    yield FileWritten(path=target, size_bytes=target.stat().st_size, tensors=counts)


def _require_gguf() -> None:
    try:
        import gguf  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingExtra(
            "GGUF files need one more package: pip install 'headrace[gguf]'"
        ) from error


def _wanted(directory: Path, config: ModelConfig) -> dict[str, TensorEntry]:
    """The tensors that make the model, in its order; what repeats others is left out."""
    stored = read_tensors(directory)
    with torch.device("meta"):
        decoder = Decoder(config)
    match(directory, decoder, stored)
    names = (hub_name(name) for name in decoder.state_dict())
    return {name: stored[name] for name in names}


def _begun(partial: Path, config: ModelConfig, type: str, about: About) -> "GGUFWriter":
    from gguf import GGUFWriter, LlamaFileType

    file_types = {
        "f16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
        "q4_0": LlamaFileType.MOSTLY_Q4_0,
    }
    writer = GGUFWriter(partial, header.ARCHITECTURES[config.family])
    writer.add_type("model")
    writer.add_name(about.name)
    writer.add_license(about.licence)
    writer.add_file_type(file_types[type])
    if type != "f16":
        writer.add_quantization_version(2)  # GGML_QNT_VERSION
    header.write(writer, config)
    return writer


def _announce(
    writer: "GGUFWriter", name: str, entry: TensorEntry, stored: "GGMLQuantizationType"
) -> None:
    from gguf import GGMLQuantizationType as Stored
    from gguf import quant_shape_to_byte_shape

    plain = {Stored.F32: np.dtype(np.float32), Stored.F16: np.dtype(np.float16)}.get(stored)
    if plain is not None:
        size = entry.elements * plain.itemsize
        writer.add_tensor_info(name_of(name), entry.shape, plain, size)
        return
    in_bytes = quant_shape_to_byte_shape(entry.shape, stored)
    writer.add_tensor_info(
        name_of(name), in_bytes, np.dtype(np.uint8), prod(in_bytes), raw_dtype=stored
    )


def _write(
    writer: "GGUFWriter",
    name: str,
    entry: TensorEntry,
    stored: "GGMLQuantizationType",
    config: ModelConfig,
) -> None:
    try:
        with safe_open(entry.file, framework="pt") as tensors:
            tensor = tensors.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{entry.file} cannot be read: {error}; download it again") from error
    writer.write_tensor_data(encoded(name, arranged(name, tensor, config), stored))


@contextlib.contextmanager
def _staged(target: Path) -> Generator[Path]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        number, text = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        os.close(number)
    except OSError as error:
        raise CheckpointError(f"cannot write beside {target}: {error.strerror}") from error
    partial = Path(text)
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.chmod(0o644)
        partial.rename(target)
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
