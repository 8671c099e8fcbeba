"""A run's state <-> a directory, exactly: parameters, optimizers and the step to go on from.

`step_000123/state.safetensors` holds every tensor under `model.*` and `optimizer.*`,
`state.json` beside it the step and the recipe's fingerprint. No pickle. A checkpoint is written
under another name and renamed, so that one that can be seen is whole.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from headrace.errors import CheckpointError

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


def save(
    directory: Path,
    decoder: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
) -> Path:
    """Write a checkpoint; the newest two of the stage are kept."""
    target = directory / f"{progress.stage}_{progress.step:06d}"
    partial = directory / f".{target.name}.{os.getpid()}"
    partial.mkdir(parents=True)
    tensors = {f"model.{name}": p.detach().contiguous() for name, p in decoder.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for key, entry in optimizer.state_dict()["state"].items():
            tensors.update(
                {f"optimizer.{number}.{key}.{name}": value for name, value in entry.items()}
            )
    save_file(tensors, partial / "state.safetensors")
    record = {name: getattr(progress, name) for name in Progress.__dataclass_fields__}
    (partial / "state.json").write_text(json.dumps(record) + "\n")
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    for old in _checkpoints(directory, progress.stage)[:-_KEPT]:
        shutil.rmtree(old)
    return target


def latest(directory: Path, stage: str) -> Path | None:
    """The checkpoint of the stage with the most steps."""
    found = _checkpoints(directory, stage)
    return found[-1] if found else None


def load(
    path: Path,
    decoder: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    fingerprint: str,
) -> Progress:
    """Put a checkpoint back into the model and the optimizers, bit for bit.

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
    _restore_model(path, decoder, tensors)
    for number, optimizer in enumerate(optimizers):
        _restore_optimizer(optimizer, tensors, prefix=f"optimizer.{number}.")
    return progress


def _restore_model(path: Path, decoder: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    for name, param in decoder.named_parameters():
        value = tensors.get(f"model.{name}")
        if value is None or value.shape != param.shape:
            raise CheckpointError(f"{path}: {name} is missing or of another shape; delete it")
        param.data.copy_(value)


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], *, prefix: str
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
