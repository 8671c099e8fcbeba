"""Named tensors <-> safetensors files in one directory, from and to any number of ranks.

One rank writes `state.safetensors`. Many write a file each, of what they hold, through
torch.distributed.checkpoint (DCP), whose safetensors writer notes in each header where its pieces
lie in the whole. Either is read by any number of ranks: each takes from the files what it is to
hold. No pickle, in either.
"""

import hashlib
import os
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from headrace.training.parallel import Ranks

SINGLE = "state.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What a directory says of one tensor."""

    shape: torch.Size
    dtype: torch.dtype


def write(directory: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Write the tensors, or this rank's parts of them.

    Raises:
        OSError: A file cannot be written, on any rank.
    """
    try:
        if ranks.size == 1:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, directory / SINGLE)
        else:
            writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
            state_dict_saver.save(dict(tensors), storage_writer=writer)
    except (SafetensorError, CheckpointException) as error:
        raise OSError(_cause(error)) from error


def index(directory: Path) -> dict[str, Stored]:
    """What is stored, by its headers.

    Raises:
        OSError: Nothing, or a file that is damaged.
    """
    try:
        metadata = HuggingFaceStorageReader(str(directory)).read_metadata()
    except SafetensorError as error:
        raise OSError(str(error)) from error
    return {
        name: Stored(shape=entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


@torch.no_grad()
def read(directory: Path, into: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Fill the tensors, or this rank's parts of them, in place; names and shapes must be there.

    Raises:
        OSError: A file that cannot be read.
    """
    cut = any(isinstance(tensor, DTensor) for tensor in into.values())
    try:
        if not cut and (directory / SINGLE).exists():
            stored = load_file(directory / SINGLE)
            for name, tensor in into.items():
                tensor.copy_(stored[name])
            return
        reader = HuggingFaceStorageReader(str(directory))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # meant so
            state_dict_loader.load(dict(into), storage_reader=reader, no_dist=ranks.size == 1)
    except (SafetensorError, CheckpointException) as error:
        raise OSError(_cause(error)) from error


def hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every tensor file."""
    return {path.name: _digest(path) for path in sorted(directory.glob("*.safetensors"))}


def sync(paths: Iterable[Path]) -> None:
    """Wait until the disk has the files: a full or failing one says so here at the latest."""
    for path in paths:
        with _opened(path) as number:
            os.fsync(number)


def _cause(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        return "; ".join(f"rank {rank}: {what[0]}" for rank, what in error.failures.items())
    return str(error)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Generator[int]:
    number = os.open(path, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)
