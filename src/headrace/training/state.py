"""A run's state <-> a directory, exactly: parameters, optimizers and the step to go on from.

`STAGE_000123/state.safetensors` holds every tensor under `model.*`, `beside.*`, `optimizer.*` and
`memory.*`, `state.json` the step, the recipe with its fingerprint and the SHA-256 of the tensors'
file. No pickle. A checkpoint is written under another name, flushed to the disk and renamed, so
that one that can be seen is whole; an older one goes only when a newer one is there. One that was
damaged later is recognised by its hash, and the one before it taken.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.training.recipe import Resume

TENSORS, RECORD = "state.safetensors", "state.json"
_KEPT = 2


class Damaged(CheckpointError):
    """The checkpoint is not what was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands."""

    stage: str
    step: int
    """The next step of the stage."""
    tokens: int
    """Trained on so far, in this stage."""
    fingerprint: str
    """Of the recipe and its data: another one cannot be resumed from here."""
    guard: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    """`Guard.state`."""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The resolved recipe."""


class Memory(Protocol):
    """What a task must find again after a restart, beside parameters."""

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors; numbers of any kind are tensors of one element."""
        ...

    def restore(self, state: Mapping[str, Tensor], /) -> None:
        """Exactly what `state` gave."""
        ...


def save(
    directory: Path,
    parameters: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    *,
    memory: Memory | None = None,
) -> Path:
    """Write a checkpoint; the newest two of the stage are kept.

    Raises:
        CheckpointError: It cannot be written, as on a full disk. Nothing of it stays, and what was
            there before is as it was.
    """
    target = directory / f"{progress.stage}_{progress.step:06d}"
    partial = directory / f".{target.name}.{os.getpid()}"
    tensors = _tensors(parameters, optimizers, memory)
    try:
        partial.mkdir(parents=True)
        save_file(tensors, partial / TENSORS)
        digest = _synced_digest(partial / TENSORS)
        record = json.dumps({**asdict(progress), "sha256": digest}) + "\n"
        (partial / RECORD).write_text(record, encoding="utf-8")
        _sync(partial / RECORD)
        if target.exists():  # of a run that was resumed from before it
            shutil.rmtree(target)
        partial.rename(target)
        _sync(directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise CheckpointError(
            f"cannot write {target} of {size:,} bytes: {error}; {_last_good(directory, progress)}"
        ) from error
    for old in _checkpoints(directory, progress.stage)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def admit(directory: Path, resume: Resume) -> bool:
    """Whether a run into this directory of checkpoints may look for one to go on from.

    Raises:
        CheckpointError: There are checkpoints, and nobody said what to do with them.
    """
    found = sorted(path.name for path in directory.glob("*_[0-9]*") if path.is_dir())
    if resume is Resume.NEVER:
        for name in found:
            shutil.rmtree(directory / name)
    elif resume is Resume.ASK and found:
        raise CheckpointError(
            f"{directory} holds checkpoints of an earlier run ({found[-1]}); --resume auto goes on "
            "from the last one, --resume never discards them"
        )
    for partial in directory.glob(".*_[0-9]*.[0-9]*"):  # of a process that was killed
        shutil.rmtree(partial, ignore_errors=True)
    return resume is Resume.AUTO


def candidates(directory: Path, stage: str) -> list[Path]:
    """The stage's checkpoints, the one with the most steps first."""
    return _checkpoints(directory, stage)[::-1]


def load(
    path: Path,
    parameters: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    fingerprint: str,
    memory: Memory | None = None,
) -> Progress:
    """Put a checkpoint back into parameters, optimizers and memory, bit for bit.

    Raises:
        Damaged: It is not what was written.
        CheckpointError: Of other shapes, or of another recipe or data.
    """
    progress, digest = read_progress(path)
    if progress.fingerprint != fingerprint:
        raise CheckpointError(
            f"{path} belongs to another recipe or other data ({progress.fingerprint[:12]}, this is "
            f"{fingerprint[:12]}); give the same settings or another output directory"
        )
    try:
        if _digest(path / TENSORS) != digest:
            raise Damaged(f"{path / TENSORS} is not what was written there; delete {path}")
        tensors = load_file(path / TENSORS)
    except (OSError, SafetensorError) as error:
        raise Damaged(f"cannot resume from {path}: {error}; delete it") from error
    _restore_parameters(path, parameters, tensors)
    for number, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, tensors, prefix=f"optimizer.{number}.")
    if memory is not None:
        kept = {k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")}
        memory.restore(kept)
    return progress


def read_progress(path: Path) -> tuple[Progress, str]:
    """A checkpoint's record, and what its tensors' file must hash to.

    Raises:
        Damaged: It cannot be read.
    """
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        digest = record.pop("sha256")
        return Progress(**record), digest
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"cannot resume from {path}: {error!r}; delete it") from error


def _tensors(
    parameters: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    memory: Memory | None,
) -> dict[str, Tensor]:
    tensors = {name: param.detach().contiguous() for name, param in parameters.items()}
    for number, optimizer in enumerate(optimizers):
        for key, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}.{name}": value for name, value in entry.items()}
    if memory is not None:
        # Clones: safetensors refuses tensors that share memory.
        tensors |= {f"memory.{name}": value.clone() for name, value in memory.state().items()}
    return tensors


def _restore_parameters(
    path: Path, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    for name, param in parameters.items():
        value = tensors.get(name)
        if value is None or value.shape != param.shape:
            raise CheckpointError(f"{path}: {name} is missing or of another shape; delete it")
        param.data.copy_(value)


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], *, prefix: str
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split(".", 1)
            state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _checkpoints(directory: Path, stage: str) -> list[Path]:
    return sorted(path for path in directory.glob(f"{stage}_[0-9]*") if path.is_dir())


def _last_good(directory: Path, progress: Progress) -> str:
    found = _checkpoints(directory, progress.stage)
    if not found:
        return "there is none before it; make room"
    return f"{found[-1].name} is whole and --resume auto goes on from it; make room"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _synced_digest(path: Path) -> str:
    _sync(path)
    return _digest(path)


def _sync(path: Path) -> None:
    """Wait until the disk has it: a full or failing one says so here at the latest."""
    with _opened(path) as number:
        os.fsync(number)


@contextlib.contextmanager
def _opened(path: Path) -> Generator[int]:
    number = os.open(path, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)
