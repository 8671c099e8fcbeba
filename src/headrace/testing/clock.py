"""A clock for tests: time passes only by `advance`, or by sleeping on it."""

import asyncio


class FakeClock:
    """Call it for the time in seconds, as `time.monotonic`."""

    def __init__(self, *, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises: ValueError for a step back.
        """
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds}")
        self.now_s += seconds

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep` on this clock: time passes and other tasks get their turn."""
        self.advance(seconds)
        await asyncio.sleep(0)
