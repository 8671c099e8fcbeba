"""A step's loss and gradient norm -> whether its update is made.

A batch of garbage or an unlucky overflow can undo hours. A step whose loss or gradient norm lies
more than `spike_sigmas` standard deviations above the mean of the steps before it is skipped, as is
one that is no number (the idea of OLMo-core's SkipStepOptimizer). An outlier joins the window as
the limit that it exceeded: the next one is still seen, and a lasting change of level is in time
usual.

Invariant: the decision is a function of the numbers seen, which are part of a checkpoint.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence

from headrace.errors import DataError
from headrace.training.recipe import Updates


class Guard:
    """The windows of one stage."""

    def __init__(self, updates: Updates) -> None:
        self._updates = updates
        self._losses: deque[float] = deque(maxlen=updates.spike_window)
        self._norms: deque[float] = deque(maxlen=updates.spike_window)
        self.skipped = 0
        """Steps, in this stage."""
        self._in_a_row = 0

    def judge(self, loss: float, grad_norm: float) -> str:
        """Why the step must be skipped; empty = it is to be made.

        Raises:
            DataError: `skip_limit` steps in a row had to be skipped.
        """
        loss_limit, norm_limit = self._limit(self._losses), self._limit(self._norms)
        reason = self._reason(loss, loss_limit, grad_norm, norm_limit)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._losses.append(min(loss, loss_limit))
            self._norms.append(min(grad_norm, norm_limit))
        if not reason:
            self._in_a_row = 0
            return ""
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= max(1, self._updates.skip_limit):
            raise DataError(
                f"{self._in_a_row} steps in a row were not fit to be made, the last because "
                f"{reason}; the last checkpoint is good - resume it with a lower learning rate or "
                "other data, or raise updates.skip_limit"
            )
        return reason

    def _reason(self, loss: float, loss_limit: float, norm: float, norm_limit: float) -> str:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"its loss is {loss} and its gradient norm {norm}"
        for name, value, limit in (("loss", loss, loss_limit), ("gradient norm", norm, norm_limit)):
            if value > limit:
                return (
                    f"its {name} {value:.4g} is above {limit:.4g}, {self._updates.spike_sigmas:g} "
                    f"standard deviations over the last {len(self._losses)} steps"
                )
        return ""

    def _limit(self, window: Sequence[float]) -> float:
        # A few steps say nothing about what is usual.
        if not self._updates.spike_sigmas or 2 * len(window) < self._updates.spike_window:
            return math.inf
        # Not the statistics module: its exact fractions take longer than a small model's norms.
        mean = math.fsum(window) / len(window)
        variance = math.fsum((value - mean) ** 2 for value in window) / (len(window) - 1)
        return mean + self._updates.spike_sigmas * math.sqrt(variance)

    def state(self) -> dict[str, list[float]]:
        """Everything, exactly: Python writes a float so that it reads back the same."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "counts": [self.skipped, self._in_a_row],
        }

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """What `state` gave."""
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])
        self.skipped, self._in_a_row = (int(count) for count in state["counts"])
