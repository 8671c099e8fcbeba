"""A caller → what is left of the tightest of its budgets, as of a second ago."""

import time
from collections.abc import Callable

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.database import Database
from headrace.store.limits import Unit, for_caller
from headrace.store.tables import windows
from headrace.store.windows import window_at
from headrace.types import Caller

_OLD_S = 1.0
_KNOWN = 10_000


class Budgets:
    """Asks the store, at most once a second for each key and feature."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, int | None]] = {}

    async def left(self, caller: Caller) -> int | None:
        """Nano-dollars, of which running requests may still use some; None = no budget.

        Raises: StoreUnavailable: a rule about money does not guess.
        """
        key = (caller.key_id, caller.feature)
        now = self._clock()
        found = self._known.get(key)
        if found is not None and now - found[0] < _OLD_S:
            return found[1]
        left = await self._database.read(lambda c: tightest(c, caller, now_s=now))
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[key] = (now, left)
        return left


async def tightest(connection: AsyncConnection, caller: Caller, *, now_s: float) -> int | None:
    """The least that is left of any budget of a caller: its amount less what was spent or lost."""
    least: int | None = None
    for limit in await for_caller(connection, caller):
        if limit.unit is not Unit.MONEY:
            continue
        counts_from_s = window_at(limit.window, limit.zone, now_s).counts_from_s
        spent = await connection.scalar(
            select(func.coalesce(func.sum(windows.c.spent + windows.c.lost), 0))
            .where(windows.c.limit_id == limit.id)
            .where(windows.c.ends_s > counts_from_s)
        )
        left = max(limit.amount - int(spent or 0), 0)
        least = left if least is None else min(least, left)
    return least
