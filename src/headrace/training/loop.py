"""A model, an order of batches, a schedule -> a trained model, one `StepReport` at a time.

Invariant: what a step does depends on the parameters, the optimizers' state and the step's number
alone, so a run that was interrupted anywhere and resumed ends bitwise where an uninterrupted one
does (same machine, same number of threads).
"""

import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from headrace.data.pack import PackedBatch
from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.training import state
from headrace.training.optim import optimizers
from headrace.training.recipe import Stage
from headrace.training.schedule import warmup_stable_decay
from headrace.training.step import Objective, accumulate, clip


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one step did; a line of the log."""

    stage: str
    step: int
    steps: int
    loss: float
    """Nats a supervised token."""
    grad_norm: float
    """Before clipping."""
    lr_factor: float
    tokens: int
    """Trained on so far, in this stage."""
    tokens_per_s: float
    seconds: float
    """Since the stage began in this process."""


Batches = Callable[[int], Sequence[PackedBatch]]
"""Step -> its packed batches."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainee:
    """What a stage trains, and on what."""

    decoder: Decoder
    batches: Batches
    """The batches of a step: a pure function of its number."""
    objective: Objective
    fingerprint: str
    """Of recipe and data, checked on resume."""


def run(
    trainee: Trainee,
    name: str,
    stage: Stage,
    *,
    directory: Path,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[StepReport]:
    """Train; yields after each step, with the model as that step left it.

    Raises:
        Interrupted: `should_stop()` said so; a checkpoint was written first.
        DataError: The loss is no longer a number.
    """
    decoder = trainee.decoder
    optims = optimizers(
        decoder,
        matrix_lr=stage.matrix_lr,
        other_lr=stage.other_lr,
        weight_decay=stage.weight_decay,
    )
    base_lrs = [[group["lr"] for group in optim.param_groups] for optim in optims]
    first, tokens = 0, 0
    found = state.latest(directory, name) if resume else None
    if found is not None:
        progress = state.load(found, decoder, optims, fingerprint=trainee.fingerprint)
        first, tokens = progress.step, progress.tokens

    def checkpoint(next_step: int) -> None:
        progress = state.Progress(
            stage=name, step=next_step, tokens=tokens, fingerprint=trainee.fingerprint
        )
        state.save(directory, decoder, optims, progress)

    began = saved = time.monotonic()
    for step in range(first, stage.steps):
        step_began = time.monotonic()
        factor = warmup_stable_decay(
            step,
            steps=stage.steps,
            warmup_steps=stage.warmup_steps,
            decay_fraction=stage.decay_fraction,
        )
        for optim, lrs in zip(optims, base_lrs, strict=True):
            for group, lr in zip(optim.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
        done = accumulate(decoder, trainee.objective, trainee.batches(step))
        norm = clip(decoder, stage.clip_norm)
        if not math.isfinite(done.loss) or not math.isfinite(norm):
            raise DataError(
                f"step {step} of {name}: loss {done.loss}, gradient norm {norm}; the last "
                "checkpoint is good - resume it with a lower learning rate"
            )
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        tokens += done.tokens
        now = time.monotonic()
        yield StepReport(
            stage=name,
            step=step + 1,
            steps=stage.steps,
            loss=done.loss,
            grad_norm=norm,
            lr_factor=factor,
            tokens=tokens,
            tokens_per_s=done.tokens / (now - step_began),
            seconds=now - began,
        )
        last = step + 1 == stage.steps
        if should_stop() and not last:
            checkpoint(step + 1)
            raise Interrupted(f"stopped after step {step + 1} of {name}; --resume goes on from it")
        if last or time.monotonic() - saved >= stage.checkpoint_every_s:
            checkpoint(step + 1)
            saved = time.monotonic()


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
