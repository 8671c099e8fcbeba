"""What was spent, by whatever it is asked by; and what windows have left."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter
from headrace.store.calls import DAY_S, calls
from headrace.store.limits import Limit, limit_of
from headrace.store.tables import limits, transactions, windows
from headrace.store.windows import window_at

BY = ("org", "team", "user", "key", "feature", "model", "route", "finish", "day")
BY_CALL = ("provider", "upstream")
"""Of the calls that requests made; a request of several is then in several lines."""


class Line(NamedTuple):
    group: tuple[str, ...]
    """As asked; `day` is the number of days since 1970."""
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_nanousd: int


class Standing(NamedTuple):
    """A limit and its window of now."""

    limit: Limit
    starts_s: int
    ends_s: int
    spent: int
    leased: int
    """Lent to workers: of running requests, and a little in advance."""
    lost: int
    """Lent to workers that died and whose journal nobody has found."""


async def spend(
    connection: AsyncConnection,
    *,
    by: Sequence[str],
    since_s: int = 0,
    until_s: int = 1 << 52,
    org: str | None = None,
    team: str | None = None,
    key: str | None = None,
    user: str | None = None,
) -> list[Line]:
    """Requests, tokens and money, grouped.

    Raises: InvalidParameter for a group that there is not.
    """
    for name in by:
        if name not in (*BY, *BY_CALL):
            there = ", ".join((*BY, *BY_CALL))
            raise InvalidParameter(f"by {name[:40]!r}: there are {there}", param="by")
    table = calls() if any(name in BY_CALL for name in by) else transactions
    groups: list[ColumnElement[object]] = [
        table.c.at_s.op("/")(literal_column(str(DAY_S)))  # of integers, in both databases
        if name == "day"
        else table.c[name]
        for name in by
    ]
    query = (
        select(
            *groups,
            func.count(),
            *(
                func.coalesce(func.sum(table.c[name]), 0)
                for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_nanousd")
            ),
        )
        .where(table.c.at_s >= since_s, table.c.at_s < until_s)
        .group_by(*groups)
        .order_by(*groups)
    )
    for column, value in (("org", org), ("team", team), ("key", key), ("user", user)):
        if value is not None:
            query = query.where(table.c[column] == value)
    count = len(by)
    return [
        Line(tuple(str(value) for value in row[:count]), *(int(value) for value in row[count:]))
        for row in await connection.execute(query)
    ]


async def standings(
    connection: AsyncConnection, *, now_s: float, only: Sequence[tuple[str, str]] | None = None
) -> list[Standing]:
    """Every limit with what its window has used; of a rolling one, all parts that count.

    Args:
        connection: To read with.
        now_s: Unix time.
        only: Scopes and subjects; None = all.
    """
    found: list[Standing] = []
    for row in list(await connection.execute(select(limits).order_by(limits.c.id))):
        limit = limit_of(row)
        if only is not None and (limit.scope, limit.subject) not in only:
            continue
        window = window_at(limit.window, limit.zone, now_s)
        sums = select(
            *(
                func.coalesce(func.sum(column), 0)
                for column in (windows.c.spent, windows.c.leased, windows.c.lost)
            )
        ).where(windows.c.limit_id == limit.id, windows.c.ends_s > window.counts_from_s)
        row = (await connection.execute(sums)).one()
        used = [int(value) for value in row]
        found.append(Standing(limit, window.starts_s, window.ends_s, *used))
    return found
