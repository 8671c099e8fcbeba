"""One number that every change of keys, limits or prices raises → caches that know when to forget.

Polled once a `POLL_S`, so a change is everywhere within `POLL_S` and a read; the process that made
it knows at once. While the database cannot be reached, caches stay in use for `GRACE_S` and are
closed then: who may ask is not guessed.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from sqlalchemy import select

from headrace.errors import StoreUnavailable
from headrace.store.database import PROMPT_S, Database
from headrace.store.tables import meta

POLL_S = 0.25
GRACE_S = 30.0
_LOG = logging.getLogger("headrace.store")


class Changes:
    """`run` it as a task; caches register with `on_change`."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []
        self._revision: int | None = None
        self._confirmed = clock()

    def on_change(self, forget: Callable[[], None]) -> None:
        """Call this whenever something changed."""
        self._listeners.append(forget)

    @property
    def silent_s(self) -> float:
        """Seconds since the database last answered."""
        return self._clock() - self._confirmed

    def check_fresh(self) -> None:
        """Raises: StoreUnavailable where nothing was heard of the database for `GRACE_S`."""
        age_s = self.silent_s
        if age_s > GRACE_S:
            raise StoreUnavailable(
                f"the database has not answered for {age_s:.0f} s; keys and limits are not known "
                "any more, so requests are refused until it does"
            )

    async def poll(self) -> None:
        """Look once. Raises: StoreUnavailable."""
        query = select(meta.c.value).where(meta.c.name == "revision")
        revision = await self._database.read(lambda c: c.scalar(query), patience_s=PROMPT_S)
        self._confirmed = self._clock()
        if revision != self._revision:
            self._revision = revision
            for forget in self._listeners:
                forget()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.poll()
            except StoreUnavailable as error:
                _LOG.warning("%s", error.message)
            except Exception:  # noqa: BLE001 - the watch must go on
                _LOG.exception("a bug while looking for changes")
            await asyncio.sleep(POLL_S)
