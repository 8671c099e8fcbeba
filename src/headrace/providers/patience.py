"""Waits with a bound that costs nothing while nothing is late.

`asyncio.timeout` arms a timer and takes it back around every wait; a stream waits for each of its
chunks. A `Patience` has one timer, which looks whether the wait of the moment is overdue and is set
again only then.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class OutOfPatience(TimeoutError):
    """The wait's own bound was over, not one of what was waited for."""


class Patience:
    """For one wait at a time, in whichever task waits; `end` it in the end."""

    __slots__ = ("_due", "_fired", "_loop", "_task", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._due = 0.0
        self._fired = False

    async def wait(self, what: Awaitable[T], seconds: float) -> T:
        """Its result.

        Raises: OutOfPatience where it takes longer; it is cancelled then.
        """
        self._due = self._loop.time() + seconds
        self._task = task = asyncio.current_task()
        timer = self._timer
        if timer is None or timer.when() > self._due:
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(self._due, self._look)
        try:
            result = await what
        except asyncio.CancelledError:
            if self._fired:
                self._fired = False
                assert task is not None
                if task.uncancel() == 0:
                    raise OutOfPatience from None
            raise
        finally:
            self._task = None
        if self._fired:  # it was there at the last moment
            self._fired = False
            assert task is not None
            task.uncancel()
        return result

    def end(self) -> None:
        """Nothing more is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._look)
            return
        self._fired = True
        self._task.cancel()
