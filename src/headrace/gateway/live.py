"""The services of now, exchangeable while requests run: each request ends on those it began with.

Invariant: what a generation opened is closed once, after it was replaced and its last request
ended.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from headrace.gateway.services import Services

_LOG = logging.getLogger("headrace.gateway")
Close = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """The closing of services that opened nothing."""


@dataclass(slots=True, eq=False)
class Generation:
    """Services, and how many requests run on them."""

    services: Services
    close: Close = nothing
    users: int = 0
    retired: bool = False


class Live:
    """What `asgi.build` takes where services may change."""

    def __init__(self, services: Services, close: Close = nothing) -> None:
        self._now = Generation(services, close)
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def services(self) -> Services:
        """Those of now; only to look at, for they may be closed any time."""
        return self._now.services

    def enter(self) -> Generation:
        """The generation of now, which stays open until `leave`."""
        self._now.users += 1
        return self._now

    def leave(self, generation: Generation) -> None:
        """A request on it has ended."""
        generation.users -= 1
        if generation.retired and not generation.users:
            self._close(generation)

    def swap(self, services: Services, close: Close = nothing) -> None:
        """Requests that come from now on run on these."""
        old, self._now = self._now, Generation(services, close)
        old.retired = True
        if not old.users:
            self._close(old)

    async def aclose(self) -> None:
        """Close the last generation, and wait for those that are being closed."""
        self._now.retired = True
        self._close(self._now)
        while self._closing:
            await asyncio.gather(*self._closing)

    def _close(self, generation: Generation) -> None:
        async def work() -> None:
            try:
                await generation.close()
            except Exception:  # noqa: BLE001 - nobody waits for it, and new services run already
                _LOG.exception("a bug while closing what the settings had before")

        task = asyncio.create_task(work())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
