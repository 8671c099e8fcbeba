"""Deliveries of webhooks that wait; `headrace.gateway.delivery_runner` works them off."""

import asyncio
import time
from collections.abc import Callable

from headrace.store import deliveries
from headrace.store.database import Database
from headrace.store.deliveries import Delivery


class DeliveryQueue:
    """What a gateway takes deliveries into."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.clock = clock
        self.woken = asyncio.Event()

    async def take(self, new: Delivery) -> str:
        """Its state. Raises: LimitExceeded, StoreUnavailable."""
        now_s = int(self.clock())
        state = await self.database.write(lambda c: deliveries.take(c, new, now_s=now_s))
        self.woken.set()
        return state
