"""Every call that was paid for, one row each, whether its request had one or several."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Select, Subquery, func, literal_column, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.tables import legs, transactions

DAY_S = 86_400
_COUNTS = (
    "prompt_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "compute_us",
    "kv_byte_s",
    "cost_nanousd",
    "estimated",
)
_WHOSE = ("kind", "at_s", "org", "team", "user", "key", "feature", "model", "route", "finish")


class Booked(NamedTuple):
    """What the books say of a provider's model on a day, or in one request."""

    upstream: str
    day: int
    """Since 1970, in UTC."""
    request: str
    """Empty = all of the day."""
    cost_nanousd: int


def calls() -> Subquery:
    """Rows of `request`, `provider`, `upstream`, whose they are, and counts."""
    whose = [transactions.c[name] for name in _WHOSE]
    single: Select[tuple[object, ...]] = select(
        transactions.c.id.label("request"),
        transactions.c.provider,
        transactions.c.upstream,
        *whose,
        *(transactions.c[name] for name in _COUNTS),
    ).where(transactions.c.calls <= 1)
    several: Select[tuple[object, ...]] = select(
        transactions.c.id.label("request"),
        legs.c.provider,
        legs.c.upstream,
        *whose,
        *(legs.c[name] for name in _COUNTS),
    ).join(transactions, transactions.c.id == legs.c.transaction_id)
    return union_all(single, several).subquery("calls")


async def booked(
    connection: AsyncConnection, provider: str, days: Sequence[int], *, by_request: bool
) -> list[Booked]:
    """What was booked for a provider on these days."""
    table = calls()
    day = table.c.at_s.op("/")(literal_column(str(DAY_S)))  # of integers, in both databases
    found: list[Booked] = []
    for number in sorted(set(days)):
        request = table.c.request if by_request else literal_column("''")
        query = (
            select(
                table.c.upstream.label("upstream"),
                day.label("day"),
                request.label("request"),
                func.sum(table.c.cost_nanousd).label("cost"),
            )
            .where(
                table.c.provider == provider,
                table.c.at_s >= number * DAY_S,
                table.c.at_s < (number + 1) * DAY_S,
            )
            .group_by(table.c.upstream, day, *([table.c.request] if by_request else []))
        )
        for row in await connection.execute(query):
            found.append(Booked(row.upstream, int(row.day), row.request, int(row.cost)))
    return found
