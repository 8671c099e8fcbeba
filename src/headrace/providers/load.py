"""How busy and how slow a target is, as this worker sees it; over its limit it refuses at once."""

import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from headrace.errors import DeadlineExceeded, Overloaded, PlaceForbidden, ServiceError
from headrace.providers.resilience import closing
from headrace.types import Backend, ChatRequest, Event, Started

_SAMPLES = 256
_FEWEST_SAMPLES = 20
_FORGET_S = 10.0
"""Finagle's default decay is ten seconds too."""
_PENALTY_S = 1.0


class Load:
    """Requests running, and seconds from asking to the first content.

    `latency_s` is a peak-sensitive EWMA: a slower sample counts at once, faster ones as old ones
    fade (Finagle's PeakEwma). A failure is a slow sample, or what fails fast would look best.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.running = 0
        self._latency_s: float | None = None
        self._seen_at = clock()
        self._recent: deque[float] = deque(maxlen=_SAMPLES)

    @property
    def latency_s(self) -> float | None:
        """None = nothing was seen yet."""
        return self._latency_s

    @property
    def cost_s(self) -> float:
        """Expected wait of one more request; 0 for a target that nobody has tried."""
        if self._latency_s is None:
            return _PENALTY_S * self.running
        return self._latency_s * (self.running + 1)

    def percentile(self, part: float) -> float | None:
        """The latency that this part of the last requests kept to; None while too few are known."""
        if len(self._recent) < _FEWEST_SAMPLES:
            return None
        ordered = sorted(self._recent)
        return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]

    def observe(self, seconds: float) -> None:
        """The first content came after so long."""
        self._recent.append(seconds)
        self._fold(seconds)

    def failed(self, seconds: float) -> None:
        """It failed after so long, before any content."""
        self._fold(max(seconds, _PENALTY_S, 2 * (self._latency_s or 0.0)))

    def _fold(self, seconds: float) -> None:
        now = self._clock()
        old = self._latency_s
        if old is None or seconds >= old:
            self._latency_s = seconds
        else:
            kept = math.exp(-(now - self._seen_at) / _FORGET_S)
            self._latency_s = old * kept + seconds * (1 - kept)
        self._seen_at = now


class Tracked:
    """A backend whose load is known, with a limit on it."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        max_running: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            name: As errors call it.
            backend: What is asked.
            max_running: Over so many requests at once one more is refused; 0 = no limit.
            clock: For tests.
        """
        self.load = Load(clock=clock)
        self._name = name
        self._backend = backend
        self._max_running = max_running
        self._clock = clock

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`. Raises: Overloaded over the limit."""
        load = self.load
        if self._max_running and load.running >= self._max_running:
            raise Overloaded(
                f"{self._name} is at its limit of {self._max_running} requests at once"
            )
        began = self._clock()
        spoken = False
        load.running += 1
        try:
            async with closing(self._backend.stream(request)) as events:
                async for event in events:
                    if not spoken and not isinstance(event, Started):
                        spoken = True
                        load.observe(self._clock() - began)
                    yield event
        except (PlaceForbidden, DeadlineExceeded):
            raise  # says nothing about the target
        except ServiceError:
            if not spoken:
                load.failed(self._clock() - began)
            raise
        finally:
            load.running -= 1
