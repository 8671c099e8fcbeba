"""A run's log: JSON lines, and on resume no line of a step that is about to be done again."""

import json
from collections.abc import Mapping
from pathlib import Path


class TrainingLog:
    """Appends records; each has at least `stage` and `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, stage: str, step: int) -> None:
        """Drop the stage's records of `step` and later, which a crash left behind."""
        if not self.path.exists():
            return
        kept = [
            line
            for line in self.path.read_text(encoding="utf-8").splitlines()
            if not _is_later(json.loads(line), stage, step)
        ]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def append(self, record: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def _is_later(record: Mapping[str, object], stage: str, step: int) -> bool:
    number = record.get("step")
    return record.get("stage") == stage and isinstance(number, int) and number >= step
