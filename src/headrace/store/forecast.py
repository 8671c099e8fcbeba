"""What a window has used so far → when it will be used up at that pace; and what was said of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.limits import Limit, Unit
from headrace.store.spend import Standing, standings
from headrace.store.tables import alerts
from headrace.store.upsert import upsert
from headrace.store.windows import FOREVER_S

_SOONEST = 20
"""A twentieth of a window must have passed: the pace of its first minutes says nothing."""


class Forecast(NamedTuple):
    """A limit that is spent, its window of now, and where its pace leads."""

    limit: Limit
    starts_s: int
    ends_s: int
    spent: int
    pace_per_day: int | None
    """Of the limit's unit; None = too early to say, or a window without an end."""
    used_up_s: int | None
    """Unix time at which nothing will be left; None = not in this window, or nobody can say."""
    at_end: int | None
    """What the window will have used by its end."""


def forecast(standing: Standing, *, now_s: float, seen_from_s: int | None = None) -> Forecast:
    """The pace so far, continued in a straight line.

    Args:
        standing: Of now.
        now_s: Unix time.
        seen_from_s: When its window began to count, where that is before its start (rolling).
    """
    limit, starts, ends, spent = standing.limit, standing.starts_s, standing.ends_s, standing.spent
    began = starts if seen_from_s is None else seen_from_s
    passed = now_s - began
    silent = Forecast(limit, starts, ends, spent, None, None, None)
    if spent >= limit.amount:
        return silent._replace(used_up_s=int(now_s))
    if ends >= FOREVER_S or passed <= 0 or passed * _SOONEST < ends - began:
        return silent
    pace = spent / passed  # only a forecast: no money is computed from it
    at_end = round(spent + pace * (ends - now_s))
    used_up = int(now_s + (limit.amount - spent) / pace) if pace else None
    return Forecast(
        limit,
        starts,
        ends,
        spent,
        round(pace * 86_400),
        used_up if used_up is not None and used_up < ends else None,
        at_end,
    )


async def forecasts(
    connection: AsyncConnection, *, now_s: float, only: Sequence[tuple[str, str]] | None = None
) -> list[Forecast]:
    """Of every limit of which something is spent; concurrency is not."""
    found = await standings(connection, now_s=now_s, only=only)
    return [
        forecast(standing, now_s=now_s, seen_from_s=_rolling_from(standing))
        for standing in found
        if standing.limit.unit is not Unit.CONCURRENCY
    ]


async def claim(
    connection: AsyncConnection, limit_id: int, starts_s: int, rule: str, *, now_s: int
) -> bool:
    """Whether this is the first to say it of that window; who asks first is to say it."""
    values = {"limit_id": limit_id, "starts_s": starts_s, "rule": rule, "at_s": now_s}
    add = upsert(alerts, postgres=connection.dialect.name == "postgresql").values(**values)
    statement: Any = add.on_conflict_do_nothing()
    return bool((await connection.execute(statement)).rowcount)


async def unclaim(connection: AsyncConnection, limit_id: int, starts_s: int, rule: str) -> None:
    """It could not be said: the next may try."""
    await connection.execute(
        delete(alerts).where(
            alerts.c.limit_id == limit_id, alerts.c.starts_s == starts_s, alerts.c.rule == rule
        )
    )


def _rolling_from(standing: Standing) -> int | None:
    kind = standing.limit.window
    if not kind.startswith("rolling:"):
        return None
    return standing.ends_s - int(kind.removeprefix("rolling:"))
