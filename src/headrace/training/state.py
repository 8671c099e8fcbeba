"""A run's state <-> a directory, exactly: parameters, optimizers and the step to go on from.

`STAGE_000123/state.safetensors` holds every tensor under `model.*`, `beside.*`, `optimizer.*` and
`memory.*`, `state.json` the step and the recipe with its fingerprint. No pickle. A checkpoint is
written under another name and renamed, so that one that can be seen is whole.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.training.recipe import Resume

_KEPT = 2


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
    """Write a checkpoint; the newest two of the stage are kept."""
    target = directory / f"{progress.stage}_{progress.step:06d}"
    partial = directory / f".{target.name}.{os.getpid()}"
    partial.mkdir(parents=True)
    tensors = {name: param.detach().contiguous() for name, param in parameters.items()}
    for number, optimizer in enumerate(optimizers):
        for key, entry in optimizer.state_dict()["state"].items():
            tensors.update(
                {f"optimizer.{number}.{key}.{name}": value for name, value in entry.items()}
            )
    if memory is not None:
        tensors |= {f"memory.{name}": value.clone() for name, value in memory.state().items()}
    save_file(tensors, partial / "state.safetensors")
    record = {name: getattr(progress, name) for name in Progress.__dataclass_fields__}
    (partial / "state.json").write_text(json.dumps(record) + "\n")
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    for old in _checkpoints(directory, progress.stage)[:-_KEPT]:
        shutil.rmtree(old)
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
    return resume is Resume.AUTO


def latest(directory: Path, stage: str) -> Path | None:
    """The checkpoint of the stage with the most steps."""
    found = _checkpoints(directory, stage)
    return found[-1] if found else None


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
        CheckpointError: Corrupt, of other shapes, or of another recipe or data.
    """
    try:
        progress = Progress(**json.loads((path / "state.json").read_text()))
        tensors = load_file(path / "state.safetensors")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"cannot resume from {path}: {error}; delete it") from error
    if progress.fingerprint != fingerprint:
        raise CheckpointError(
            f"{path} belongs to another recipe or other data ({progress.fingerprint[:12]}, this is "
            f"{fingerprint[:12]}); give the same settings or another output directory"
        )
    _restore_parameters(path, parameters, tensors)
    for number, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, tensors, prefix=f"optimizer.{number}.")
    if memory is not None:
        kept = {k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")}
        memory.restore(kept)
    return progress


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
    return sorted(path for path in directory.glob(f"{stage}_*") if path.is_dir())
