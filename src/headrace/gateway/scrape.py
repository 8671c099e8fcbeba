"""GET /metrics: counters as they are, and what is looked up at that moment, for a short while."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from headrace.errors import ConfigError, NotReady, PermissionDenied, StoreUnavailable
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.services import Services
from headrace.observe.gauges import BudgetLeft, Standing
from headrace.observe.metrics import CONTENT_TYPE, EngineStats
from headrace.store.database import Database
from headrace.store.spend import standings
from headrace.types import Caller

T = TypeVar("T")
_TIMEOUT_S = 2.0
KEPT_S = 5.0
"""So long budgets and sources are not read again, however often somebody looks."""


async def metrics(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """GET /metrics: an admin's, or of a key that is for nothing else."""
    if caller.role != "admin" and exchange.path not in caller.routes:
        raise PermissionDenied(
            f"the key {caller.key_id} may not read metrics, which tell of every team; make one: "
            "headrace keys make --route /metrics"
        )
    engine, budgets, sources = await asyncio.gather(
        _engine(services), _looked(services.budgets), _looked(services.sources)
    )
    breakers = {
        name: served.breaker()
        for name, served in services.models.items()
        if served.breaker is not None
    }
    standing = Standing(budgets=budgets, breakers=breakers, sources=sources)
    body = services.metrics.render(engine, standing)
    await exchange.answer(200, body, content_type=CONTENT_TYPE)


def budgets_of(
    database: Database, *, clock: Callable[[], float] = time.time
) -> Callable[[], Awaitable[Sequence[BudgetLeft]]]:
    """A look at the limits' windows of now, kept for `KEPT_S`."""

    async def look(now_s: float) -> Sequence[BudgetLeft]:
        found = await database.read(lambda c: standings(c, now_s=now_s))
        return [
            BudgetLeft(
                scope=each.limit.scope,
                subject=each.limit.subject,
                unit=each.limit.unit.value,
                window=each.limit.window,
                left=_left(each.limit.amount, each.spent + each.lost),
            )
            for each in found
        ]

    return now_and_then(look, clock=clock)


def now_and_then(
    look: Callable[[float], Awaitable[Sequence[T]]], *, clock: Callable[[], float] = time.time
) -> Callable[[], Awaitable[Sequence[T]]]:
    """What a look at this moment finds, kept for `KEPT_S`."""
    kept: Sequence[T] = ()
    at_s = float("-inf")
    turn = asyncio.Lock()

    async def found() -> Sequence[T]:
        nonlocal kept, at_s
        async with turn:
            now_s = clock()
            if not 0 <= now_s - at_s < KEPT_S:
                kept = await look(now_s)
                at_s = now_s
            return kept

    return found


async def _engine(services: Services) -> EngineStats | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await services.engine_stats()
    except (TimeoutError, NotReady):
        return None  # the gateway's own metrics are still worth having


async def _looked(look: Callable[[], Awaitable[Sequence[T]]] | None) -> Sequence[T] | None:
    if look is None:
        return None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await look()
    except (TimeoutError, StoreUnavailable, ConfigError):
        return None


def _left(amount: int, used: int) -> float:
    return max(0.0, 1 - used / amount) if amount else 0.0
