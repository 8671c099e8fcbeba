"""Records that wait for their way out: bounded in number and in bytes, what finds no place counted.

Invariant: what was taken is given back by exactly one of `done` and `restore`.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from headrace.gateway.detail import Detail
from headrace.observe.pipeline import Pipeline
from headrace.observe.usage import UsageRecord


class Waiting(NamedTuple):
    """One request that ended."""

    record: UsageRecord
    detail: Detail
    size_bytes: int


class Backlog:
    """The newest is dropped where there is no place."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, record: UsageRecord, detail: Detail, *, most: int, most_bytes: int) -> None:
        """Let one wait, or count it as dropped."""
        size = detail.size_bytes
        if len(self._waiting) >= most or self._bytes + size > most_bytes:
            self._pipeline.dropped("queue_full", 1)
            return
        self._waiting.append(Waiting(record, detail, size))
        self._bytes += size
        self._pipeline.waiting(len(self._waiting))

    def take(self, most: int) -> list[Waiting]:
        """The oldest; they still count as bytes."""
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def done(self, batch: Sequence[Waiting]) -> None:
        """Taken ones are out."""
        self._bytes -= sum(item.size_bytes for item in batch)
        self._pipeline.waiting(len(self._waiting))

    def restore(self, batch: Sequence[Waiting]) -> None:
        """Taken ones wait on, before all others."""
        self._waiting.extendleft(reversed(batch))

    def abandon(self) -> None:
        """Nobody will take them: all are counted as dropped."""
        if self._waiting:
            self._pipeline.dropped("shutdown", len(self._waiting))
        self.done(self.take(len(self._waiting)))
