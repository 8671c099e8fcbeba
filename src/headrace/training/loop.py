"""A model, a task, its batches, a plan of updates -> a trained model, one `StepReport` at a time.

Invariant: what a step does depends on the parameters, the optimizers' state and the step's number
alone, so a run that was interrupted anywhere and resumed ends bitwise where an uninterrupted one
does (same machine, same number of threads).
"""

import signal
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from headrace.errors import CheckpointError
from headrace.model.decoder import Decoder
from headrace.training import state
from headrace.training.guard import Guard
from headrace.training.optim import optimizers
from headrace.training.parallel import ALONE, Ranks
from headrace.training.recipe import Updates
from headrace.training.schedule import factor
from headrace.training.step import B, accumulate, clip
from headrace.training.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one step did; a line of the log."""

    stage: str
    step: int
    steps: int
    loss: float
    """The mean over supervised units: nats a token, or a pair's loss."""
    grad_norm: float
    """Before clipping."""
    lr_factor: float
    tokens: int
    """Trained on so far, in this stage."""
    tokens_per_s: float
    seconds: float
    """Since the stage began in this process."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the task measures beside its loss: means over the units."""
    skipped: int = 0
    """Steps so far whose update was not made: their loss was a spike or no number."""
    warning: str = ""
    """What went wrong in this step or since the last, without ending the run."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainee(Generic[B]):
    """What a stage trains, how, and on what.

    Of the decoder and what is beside it, exactly the parameters that require a gradient are trained
    and saved: an adapter's alone, where the rest is frozen.
    """

    decoder: Decoder
    task: Task[B]
    batches: Callable[[int], Sequence[B]]
    """The batches of a step: a pure function of its number, of the model as that step finds it, and
    of what `memory` holds."""
    fingerprint: str
    """Of recipe, data and the weights that the stage starts from, checked on resume."""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The resolved recipe, written into every checkpoint."""
    beside: nn.Module | None = None
    """Trained beside the decoder: a value head, a reward head."""
    memory: state.Memory | None = None
    """What must survive a restart beside the parameters, such as roll-outs in use."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those to be trained, under the names that checkpoints use."""
        modules = {"model": self.decoder, "beside": self.beside}
        for prefix, module in modules.items():
            for name, param in module.named_parameters() if module is not None else ():
                if param.requires_grad:
                    yield f"{prefix}.{name}", param


def run(
    trainee: Trainee[B],
    name: str,
    updates: Updates,
    *,
    directory: Path,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> Iterator[StepReport]:
    """Train; yields after each step, with the model as that step left it.

    With several ranks each runs this, its decoder sharded by `parallel.shard`; all see the same
    reports.

    What the consumer does to the model between two steps is part of the run: the checkpoint of a
    step is written after its report was consumed.

    Raises:
        Interrupted: `should_stop()` said so; a checkpoint was written first.
        DataError: Too many steps in a row had a loss that is no number, or a spike.
        CheckpointError: None can be loaded, or the last one of the stage cannot be written.
    """
    named = dict(trainee.named_parameters())
    if ranks.size > 1 and not all(isinstance(param, DTensor) for param in named.values()):
        raise TypeError(
            "several ranks train, but not every parameter is cut over them: shard first"
        )
    optims = optimizers(named.items(), updates)
    base_lrs = [[group["lr"] for group in optim.param_groups] for optim in optims]
    guard = Guard(updates)
    resumed = _resume(trainee, name, directory, named, optims, ranks) if resume else _Resumed()
    first, tokens, warning = 0, 0, resumed.warning
    if resumed.progress is not None:
        first, tokens = resumed.progress.step, resumed.progress.tokens
        guard.restore(resumed.progress.guard)

    def checkpoint(next_step: int) -> None:
        progress = state.Progress(
            stage=name,
            step=next_step,
            tokens=tokens,
            fingerprint=trainee.fingerprint,
            guard=guard.state(),
            config=trainee.config,
        )
        state.save(directory, named, optims, progress, memory=trainee.memory, ranks=ranks)

    began = saved = time.monotonic()
    for step in range(first, updates.steps):
        step_began = time.monotonic()
        lr_factor = factor(step, updates)
        for optim, lrs in zip(optims, base_lrs, strict=True):
            for group, lr in zip(optim.param_groups, lrs, strict=True):
                group["lr"] = lr * lr_factor
        # Dropout's draws are a function of the step, so that a resumed run makes the same.
        torch.manual_seed(zlib.crc32(f"{trainee.fingerprint} {step}".encode()))
        done = accumulate(trainee.decoder, trainee.task, trainee.batches(step), ranks)
        norm = clip(named.values(), updates.clip_norm)
        reason = guard.judge(done.loss, norm)
        for optim in optims:
            if not reason:
                optim.step()
            optim.zero_grad(set_to_none=True)
        tokens += done.tokens
        now = time.monotonic()
        if reason:
            warning += f"skipped, because {reason}"
        yield StepReport(
            stage=name,
            step=step + 1,
            steps=updates.steps,
            loss=done.loss,
            grad_norm=norm,
            lr_factor=lr_factor,
            tokens=tokens,
            tokens_per_s=done.tokens / (now - step_began),
            seconds=now - began,
            metrics=done.metrics,
            skipped=guard.skipped,
            warning=warning,
        )
        warning = ""
        last = step + 1 == updates.steps
        due = time.monotonic() - saved >= updates.checkpoint_every_s
        # Whoever is told to stop stops all; the first one's clock decides.
        asked = ranks.gather((should_stop(), due))
        if any(stop for stop, _ in asked) and not last:
            checkpoint(step + 1)
            raise Interrupted(
                f"stopped after step {step + 1} of {name}; --resume auto goes on from it"
            )
        if last:
            checkpoint(step + 1)
        elif asked[0][1]:
            try:
                checkpoint(step + 1)
            except CheckpointError as error:
                # Hours of training are not thrown away for it: said, and tried again later.
                warning = f"no checkpoint: {error.message}. "
            saved = time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Resumed:
    """Where a stage goes on, and what was wrong with newer checkpoints."""

    progress: state.Progress | None = None
    warning: str = ""


def _resume(
    trainee: Trainee[B],
    name: str,
    directory: Path,
    named: Mapping[str, nn.Parameter],
    optims: Sequence[torch.optim.Optimizer],
    ranks: Ranks,
) -> _Resumed:
    """Load the newest checkpoint that is what was written."""
    warning = ""
    found = state.candidates(directory, name)
    for path in found:
        try:
            progress = state.load(
                path,
                named,
                optims,
                memory=trainee.memory,
                fingerprint=trainee.fingerprint,
                ranks=ranks,
            )
        except state.Damaged as error:
            warning += f"{error.message}. "
            if path == found[-1]:
                raise
        else:
            return _Resumed(progress=progress, warning=warning)
    return _Resumed()


@contextmanager
def stop_on_signal() -> Generator[Callable[[], bool]]:
    """SIGTERM and SIGINT only raise a flag, so that a step is never torn."""
    raised: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        raised.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(raised)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
