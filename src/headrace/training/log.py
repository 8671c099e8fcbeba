"""A run's log: JSON lines, and TensorBoard where asked for.

Invariant: on resume no record of a step that is about to be done again stays.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import MissingExtra
from headrace.training.loop import StepReport

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "training_log.jsonl"


class TrainingLog:
    """Appends records; each has at least `kind`, `stage` and `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, stage: str, step: int) -> None:
        """Drop the stage's records of `step` and later, which a crash left behind."""
        if not self.path.exists():
            return
        kept = [
            line
            for line in self.path.read_text(encoding="utf-8").splitlines()
            if not _is_done_again(line, stage, step)
        ]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def append(self, record: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


class Logs:
    """Everything that a run writes down about itself, under one directory.

    Args:
        directory: Gets `training_log.jsonl` and `tensorboard/`; None = nothing is written, as on
            every rank but the first.
        tensorboard: Whether to write event files.

    Raises:
        MissingExtra: TensorBoard was asked for and is not installed.
    """

    def __init__(self, directory: Path | None, *, tensorboard: bool = False) -> None:
        self._file = None if directory is None else TrainingLog(directory / FILE)
        self._board_at = directory / "tensorboard" if directory and tensorboard else None
        self._boards: dict[str, SummaryWriter] = {}
        if self._board_at is not None:
            _summary_writer()  # asked for before the first step, not after it

    def begin(self, stage: str, step: int) -> None:
        """The next record is of `step`; what was written of it and later goes."""
        if self._file is not None:
            self._file.rewind(stage, step)
        if self._board_at is not None:
            # A run of TensorBoard's a stage: steps count from one in each.
            writer = _summary_writer()
            at = self._board_at / stage
            self._boards[stage] = writer(str(at), purge_step=step)

    def step(self, report: StepReport) -> None:
        """What a step did."""
        record = asdict(report)
        if self._file is not None:
            self._file.append({"kind": "step", **record})
        numbers = {
            name: record[name] for name in ("loss", "grad_norm", "lr_factor", "tokens_per_s")
        }
        self._scalars(report.stage, report.step, "train", {**numbers, **report.metrics})

    def scores(self, stage: str, step: int, scores: Mapping[str, float]) -> None:
        """How the model did on what was held out."""
        if self._file is not None:
            self._file.append({"kind": "score", "stage": stage, "step": step, **scores})
        self._scalars(stage, step, "held_out", scores)

    def sample(self, stage: str, step: int, prompt: str, answer: str) -> None:
        """What the model said."""
        if self._file is not None:
            said = {"prompt": prompt, "answer": answer}
            self._file.append({"kind": "sample", "stage": stage, "step": step, **said})
        if board := self._boards.get(stage):
            # Four spaces: TensorBoard reads Markdown, and this is nobody's markup.
            shown = f"{prompt}\n{answer}".replace("\n", "\n    ")
            board.add_text(f"sample/{prompt[:40]}", f"    {shown}", step)

    def close(self) -> None:
        """Flush the event files."""
        for board in self._boards.values():
            board.close()

    def _scalars(self, stage: str, step: int, group: str, numbers: Mapping[str, float]) -> None:
        if board := self._boards.get(stage):
            for name, value in numbers.items():
                board.add_scalar(f"{group}/{name}", value, step)


def _summary_writer() -> "type[SummaryWriter]":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra(
            "TensorBoard logs need one more package: pip install 'headrace[training]'"
        ) from error
    return SummaryWriter


def _is_done_again(line: str, stage: str, step: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return True  # the last line of a process that was killed while it wrote
    number = record.get("step")
    return record.get("stage") == stage and isinstance(number, int) and number >= step
