"""What the engine has done since it started, and the equation that its tokens obey."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from headrace.types import FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Counters:
    """Sums since the start, in tokens unless said otherwise. They balance:

        prompt + completion + recomputed == cached + scheduled + unrun + pending

    where pending is what live sequences have still to run for the first time (0 when idle). A step
    that failed is in none of them but `steps` and `failed_steps`.
    """

    requests: int = 0
    """Requests admitted."""
    refused: int = 0
    """Requests that `submit` raised for."""
    finished: Mapping[FinishReason, int] = field(default_factory=dict[FinishReason, int])
    """Requests ended, by the reason of the choice that ended last."""
    prompt: int = 0
    """Of requests that left the queue, once each; includes `cached`."""
    cached: int = 0
    completion: int = 0
    recomputed: int = 0
    """Rows run again after a preemption, or by a further choice at the prompt's end."""
    scheduled: int = 0
    """Rows run."""
    unrun: int = 0
    """Prompt and completion tokens that ended before they were run: the last of each choice, and
    what was left of a prompt that was cancelled."""
    preemptions: int = 0
    steps: int = 0
    failed_steps: int = 0


@dataclass(kw_only=True, slots=True)
class Tally:
    """`Counters` while they are counted."""

    requests: int = 0
    refused: int = 0
    finished: dict[FinishReason, int] = field(default_factory=dict[FinishReason, int])
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    recomputed: int = 0
    scheduled: int = 0
    unrun: int = 0
    preemptions: int = 0
    steps: int = 0
    failed_steps: int = 0

    def snapshot(self) -> Counters:
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        values["finished"] = dict(self.finished)
        return Counters(**values)

    def finish(self, reason: FinishReason) -> None:
        """Book a request's end."""
        self.finished[reason] = self.finished.get(reason, 0) + 1
