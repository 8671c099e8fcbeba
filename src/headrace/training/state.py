"""A run's state <-> a directory, exactly: parameters, optimizers and the step to go on from.

`STAGE_000123/` holds every tensor under `model.*`, `beside.*`, `optimizer.*` and `memory.*` in
safetensors files (see `storage`), and `state.json` with the step, the recipe, its fingerprint and
the files' SHA-256. A checkpoint is written under another name, flushed to the disk and renamed, so
that one that can be seen is whole; an older one goes only when a newer one is there. One that was
damaged later is recognised by its hashes, and the one before it taken. What many ranks wrote, one
reads, and the other way round.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from headrace.errors import CheckpointError
from headrace.training import storage
from headrace.training.parallel import ALONE, Ranks
from headrace.training.recipe import Resume

RECORD = "state.json"
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
    """What a task must find again after a restart, beside parameters; alike on all ranks."""

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
    ranks: Ranks = ALONE,
) -> Path:
    """Write a checkpoint; the newest two of the stage are kept. Every rank calls it.

    Raises:
        CheckpointError: It cannot be written, as on a full disk. Nothing of it stays, and what was
            there before is as it was.
    """
    target = directory / f"{progress.stage}_{progress.step:06d}"
    partial = directory / f".{target.name}.partial"
    tensors = {name: param.detach() for name, param in parameters.items()}
    tensors |= {
        f"optimizer.{slot}": value for slot, value in _slots(optimizers) if value is not None
    }
    if memory is not None:
        # Clones: safetensors refuses tensors that share memory.
        tensors |= {f"memory.{name}": value.clone() for name, value in memory.state().items()}

    def finish() -> None:
        files = storage.hashes(partial)
        record = json.dumps({**asdict(progress), "files": files}) + "\n"
        (partial / RECORD).write_text(record, encoding="utf-8")
        storage.sync([*(partial / name for name in files), partial / RECORD])
        if target.exists():  # of a run that was resumed from before it
            shutil.rmtree(target)
        partial.rename(target)
        storage.sync([directory])

    try:
        _on_first(ranks, lambda: _emptied(partial))
        storage.write(partial, tensors, ranks)
        _on_first(ranks, finish)
    except OSError as error:
        if ranks.first:
            shutil.rmtree(partial, ignore_errors=True)
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise CheckpointError(
            f"cannot write {target} of {size:,} bytes: {error}; {_last_good(directory, progress)}"
        ) from error
    if ranks.first:
        for old in _checkpoints(directory, progress.stage)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return target


def admit(directory: Path, resume: Resume, ranks: Ranks = ALONE) -> bool:
    """Whether a run into this directory of checkpoints may look for one to go on from.

    Raises:
        CheckpointError: There are checkpoints, and nobody said what to do with them.
    """
    if ranks.first:
        for partial in directory.glob(".*_[0-9]*.partial"):  # of a process that was killed
            shutil.rmtree(partial, ignore_errors=True)
    found = sorted(path for path in directory.glob("*_[0-9]*") if path.is_dir())
    ranks.meet()
    if resume is Resume.ASK and found:
        raise CheckpointError(
            f"{directory} holds checkpoints of an earlier run ({found[-1].name}); --resume auto "
            "goes on from the last one, --resume never discards them"
        )
    if resume is Resume.NEVER and ranks.first:
        for path in found:
            shutil.rmtree(path)
    ranks.meet()
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
    ranks: Ranks = ALONE,
) -> Progress:
    """Put a checkpoint back into parameters, optimizers and memory, bit for bit.

    Raises:
        Damaged: It is not what was written.
        CheckpointError: Of other shapes, or of another recipe or data.
    """
    progress, files = read_record(path)
    if progress.fingerprint != fingerprint:
        raise CheckpointError(
            f"{path} belongs to another recipe or other data ({progress.fingerprint[:12]}, this is "
            f"{fingerprint[:12]}); give the same settings or another output directory"
        )
    found = ranks.agree(_hashes(path) if ranks.first else {})
    for name, digest in files.items():
        if found.get(name) != digest:
            raise Damaged(f"{path / name} is not what was written there; delete {path}")
    try:
        stored = storage.index(path)
        for name, param in parameters.items():
            if name not in stored or stored[name].shape != param.shape:
                raise CheckpointError(f"{path}: {name} is missing or of another shape; delete it")
        slots = _empty_slots(optimizers, stored)
        kept = _empty("memory.", stored)
        into = {name: param.detach() for name, param in parameters.items()} | slots | kept
        storage.read(path, into, ranks)
    except OSError as error:
        raise Damaged(f"cannot resume from {path}: {error}; delete it") from error
    for number, optimizer in enumerate(optimizers):
        _fill(optimizer, slots, prefix=f"optimizer.{number}.")
    if memory is not None:
        memory.restore({name.removeprefix("memory."): value for name, value in kept.items()})
    return progress


def read_record(path: Path) -> tuple[Progress, dict[str, str]]:
    """What `state.json` says, and the hashes of the files beside it.

    Raises:
        Damaged: It cannot be read.
    """
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        files = dict(record.pop("files"))
        return Progress(**record), files
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"cannot resume from {path}: {error!r}; delete it") from error


def _slots(
    optimizers: Sequence[torch.optim.Optimizer],
) -> Iterator[tuple[str, Tensor | None]]:
    """Every tensor of the optimizers' state, as `NUMBER.PARAMETER.NAME`."""
    for number, optimizer in enumerate(optimizers):
        for key, entry in optimizer.state_dict()["state"].items():
            for name, value in entry.items():
                yield f"{number}.{key}.{name}", value


def _empty_slots(
    optimizers: Sequence[torch.optim.Optimizer], stored: Mapping[str, storage.Stored]
) -> dict[str, Tensor]:
    """Room for what is stored of the optimizers' state: what has a parameter's shape lies as it."""
    made: dict[str, Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        params = [param for group in optimizer.param_groups for param in group["params"]]
        for name, room in _empty(f"optimizer.{number}.", stored).items():
            param = params[int(name.split(".")[2])]
            alike = room.shape == param.shape
            made[name] = torch.empty_like(param, dtype=room.dtype) if alike else room
    return made


def _empty(prefix: str, stored: Mapping[str, storage.Stored]) -> dict[str, Tensor]:
    return {
        name: torch.empty(entry.shape, dtype=entry.dtype)
        for name, entry in stored.items()
        if name.startswith(prefix)
    }


def _fill(optimizer: torch.optim.Optimizer, slots: Mapping[str, Tensor], *, prefix: str) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in slots.items():
        if name.startswith(prefix):
            index, slot = name.removeprefix(prefix).split(".", 1)
            state.setdefault(int(index), {})[slot] = value.detach()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _on_first(ranks: Ranks, work: Callable[[], None]) -> None:
    """Let the first rank do it; where it fails, all fail.

    Raises:
        OSError: It could not.
    """
    failed = ""
    if ranks.first:
        try:
            work()
        except OSError as error:
            failed = str(error)
    failed = ranks.agree(failed)
    if failed:
        raise OSError(failed)


def _emptied(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _hashes(path: Path) -> dict[str, str]:
    try:
        return storage.hashes(path)
    except OSError:
        return {}  # none of them is what was written


def _checkpoints(directory: Path, stage: str) -> list[Path]:
    return sorted(path for path in directory.glob(f"{stage}_[0-9]*") if path.is_dir())


def _last_good(directory: Path, progress: Progress) -> str:
    found = _checkpoints(directory, progress.stage)
    if not found:
        return "there is none before it; make room"
    return f"{found[-1].name} is whole and --resume auto goes on from it; make room"
