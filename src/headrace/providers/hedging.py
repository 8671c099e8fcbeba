"""A request that is late is asked of a second backend too; the first content wins.

The loser is cancelled. Both calls are legs and both are paid, so it is off unless asked for.
Source: Dean and Barroso, The Tail at Scale, 2013.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from headrace.errors import ServiceError
from headrace.providers.pump import Pump
from headrace.providers.resilience import opening
from headrace.types import Backend, ChatRequest, Event


@dataclass(frozen=True, kw_only=True, slots=True)
class HedgePolicy:
    """When a request is late: after a fixed time, or after what most of the last ones took."""

    after_s: float = 0.0
    percentile: float = 0.0
    """Used where `after_s` is 0."""

    def delay_s(self, percentile: Callable[[float], float | None]) -> float | None:
        """How long to wait; None = not known yet, so there is no hedge."""
        return self.after_s or percentile(self.percentile)


class _Racer:
    def __init__(self, name: str, events: AsyncIterator[Event]) -> None:
        self.name = name
        self.pump = Pump(events)
        self.begun = asyncio.create_task(opening(self.pump))

    async def stop(self) -> None:
        self.begun.cancel()
        await asyncio.gather(self.begun, return_exceptions=True)
        await self.pump.aclose()


class Hedged:
    """A `Backend` over two."""

    def __init__(
        self,
        first: tuple[str, Backend],
        second: tuple[str, Backend],
        policy: HedgePolicy,
        *,
        percentile: Callable[[float], float | None],
    ) -> None:
        """
        Args:
            first: Name and backend.
            second: Likewise; may be the same once more.
            policy: When.
            percentile: Of the first's seconds to the first content.
        """
        self._first = first
        self._second = second
        self._policy = policy
        self._percentile = percentile

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        racers = [self._start(self._first, request)]
        try:
            delay_s = self._policy.delay_s(self._percentile)
            if delay_s is not None:
                done, _ = await asyncio.wait({racers[0].begun}, timeout=delay_s)
                if not done:
                    request.trail.note(
                        "hedge",
                        f"{self._first[0]} has said nothing for {delay_s:.3f} s; "
                        f"{self._second[0]} is asked too",
                        after_s=delay_s,
                        first=self._first[0],
                        second=self._second[0],
                    )
                    racers.append(self._start(self._second, request))
            winner = await _winner(racers)
            for loser in racers:
                if loser is not winner:
                    await loser.stop()
                    request.trail.note(
                        "hedge",
                        f"{winner.name} answered first; the call of {loser.name} was cancelled",
                        winner=winner.name,
                    )
            for event in winner.begun.result():
                yield event
            async for event in winner.pump:
                yield event
        finally:
            for racer in racers:
                await racer.stop()

    def _start(self, target: tuple[str, Backend], request: ChatRequest) -> _Racer:
        return _Racer(target[0], target[1].stream(request))


async def _winner(racers: list[_Racer]) -> _Racer:
    """The first to begin well; where all fail, the first's error is raised."""
    running = {racer.begun: racer for racer in racers}
    failed: list[BaseException] = []
    while running:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=list(running).index):
            racer = running.pop(task)
            error = task.exception()
            if error is None:
                return racer
            if not isinstance(error, ServiceError):
                raise error  # the caller's own: the other would say the same
            failed.append(error)
    raise failed[0]
