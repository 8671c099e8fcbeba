"""The work on deliveries of webhooks that wait: one sync for all of a source.

A sync of them is a POST to /v1/indexes/NAME/sync like any other, by the key that brought them, with
its rights and budget of then. What may go better later waits, up to `_MOST_FAILURES` times; another
sync at work and a budget that is used up for now are no failure. Invariant: as in
`headrace.store.deliveries`, also when this process dies.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from headrace.errors import Conflict, HeadraceError, LimitExceeded, StoreUnavailable
from headrace.gateway.batch_line import Job, LineAnswer, run_line
from headrace.gateway.delivery_queue import DeliveryQueue
from headrace.gateway.http import stop
from headrace.gateway.live import Live
from headrace.gateway.table import DataRoute
from headrace.observe.ids import new_id
from headrace.store import deliveries
from headrace.store.deliveries import DONE, FAILED, QUEUED, Delivery
from headrace.types import Caller

_LEASE_S = 20
_LOOK_S = 5.0
_SWEEP_S = 3600.0
_MOST_FAILURES = 8
_LONGEST_PAUSE_S = 300
_LOG = logging.getLogger("headrace.gateway")
Identify = Callable[[str, str, str], Awaitable[Caller]]
"""(key id, feature, route) -> who asked, with the rights of now."""


class DeliveryRunner:
    """Works them off; `run` it as a task."""

    def __init__(
        self,
        live: Live,
        queue: DeliveryQueue,
        *,
        identify: Identify,
        worker: str,
        look_s: float = _LOOK_S,
    ) -> None:
        """
        Args:
            live: The services of now.
            queue: What waits.
            identify: Who brought something, as that key is now.
            worker: Of this process.
            look_s: How often other replicas' are looked for.
        """
        self._live = live
        self._queue = queue
        self._identify = identify
        self._worker = worker
        self._look_s = look_s
        self._swept = float("-inf")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._queue.woken.clear()
            try:
                while await self.step():
                    pass
                if time.monotonic() - self._swept > _SWEEP_S:
                    self._swept = time.monotonic()
                    await self._sweep()
            except StoreUnavailable as error:
                _LOG.warning("deliveries wait: %s", error.message)
            except Exception:  # noqa: BLE001 - the next round may go well
                _LOG.exception("a bug while working off deliveries")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._queue.woken.wait(), self._look_s)

    async def step(self) -> bool:
        """Work off those of one source; whether there were any."""
        now_s = int(self._queue.clock())
        mine = await self._queue.database.write(
            lambda c: deliveries.claim(c, self._worker, now_s=now_s, lease_s=_LEASE_S)
        )
        if not mine:
            return False
        keeping = asyncio.create_task(self._keep(mine))
        try:
            answer = await self._sync(mine)
        except BaseException:
            await asyncio.shield(self._end(mine, QUEUED))
            raise
        finally:
            await stop(keeping)
        await self._settle(mine, answer)
        return True

    async def _sweep(self) -> None:
        now_s = int(self._queue.clock())
        await self._queue.database.write(lambda c: deliveries.sweep(c, now_s=now_s))

    async def _sync(self, mine: Sequence[Delivery]) -> LineAnswer:
        first = mine[0]
        only = list(dict.fromkeys(key for one in mine for key in one.items))
        job = Job(
            batch="",
            request_id=new_id(),
            endpoint=f"/v1/indexes/{first.name}/sync",
            body=json.dumps({"source": first.source, "only": only}).encode(),
        )

        async def identify(route: DataRoute) -> Caller:
            return await self._identify(first.key, first.feature, route.prefix)

        generation = self._live.enter()
        try:
            return await run_line(generation.services, job, identify)
        finally:
            self._live.leave(generation)

    async def _settle(self, mine: Sequence[Delivery], answer: LineAnswer) -> None:
        error = answer.error
        if error is None:
            await self._end(mine, DONE)
            return
        first = mine[0]
        waits = isinstance(error, Conflict | LimitExceeded)
        again = waits or (error.retryable and first.failures + 1 < _MOST_FAILURES)
        pause_s = min(2 ** (first.failures + 1), _LONGEST_PAUSE_S)
        _LOG.warning(
            "a delivery is not synced%s",
            " yet" if again else "",
            extra={"fields": {"index": first.name, "source": first.source, "why": error.message}},
        )
        if again:
            await self._end(mine, QUEUED, error=None if waits else error, pause_s=pause_s)
        else:
            await self._end(mine, FAILED, error=error)

    async def _end(
        self,
        mine: Sequence[Delivery],
        state: str,
        *,
        error: HeadraceError | None = None,
        pause_s: int = 0,
    ) -> None:
        why = "" if error is None else error.message
        at_s = int(self._queue.clock()) + pause_s
        await self._queue.database.write(
            lambda c: deliveries.end(c, self._worker, mine, state, why=why, not_before_s=at_s)
        )

    async def _keep(self, mine: Sequence[Delivery]) -> None:
        while True:
            await asyncio.sleep(_LEASE_S / 3)
            until_s = int(self._queue.clock()) + _LEASE_S
            with contextlib.suppress(StoreUnavailable):
                await self._queue.database.write(
                    lambda c, until_s=until_s: deliveries.renew(
                        c, self._worker, mine, until_s=until_s
                    )
                )
