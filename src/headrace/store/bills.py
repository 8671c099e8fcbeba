"""Providers' bills → the variance account: what they say beyond, or below, what was booked.

A bill's line is a day of one model, of all of a provider's models, or one request. Saying it again
changes nothing; a corrected line, or bookings that came later, post the difference only. Invariant:
owed + variance of a line = the bill's money; `variance_nanousd` is what is posted of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import Conflict
from headrace.store.calls import booked
from headrace.store.tables import bills, postings


class BillLine(NamedTuple):
    """What a provider says."""

    upstream: str
    """Its name of the model; empty = all of its models."""
    day: int
    """Since 1970, in UTC."""
    request: str
    """Our id of the request; empty = all of the day."""
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    cost_nanousd: int
    priced: bool
    """The bill named the money; else its tokens were priced here."""


class Reconciled(NamedTuple):
    """What a bill came to."""

    lines: int
    bill_nanousd: int
    booked_nanousd: int
    variance_nanousd: int
    """Bill - booked, as posted in all."""
    posted_nanousd: int
    """By this import; 0 where nothing was new."""
    unknown: tuple[str, ...]
    """Models on the bill of which the books have nothing on that day."""
    unbilled: tuple[str, ...]
    """Models in the books that the bill does not name on a day that it covers."""


async def book_bill(
    connection: AsyncConnection,
    provider: str,
    lines: Sequence[BillLine],
    *,
    now_s: int,
    partial: bool = False,
) -> Reconciled:
    """Post what a bill differs by.

    Args:
        connection: In a write transaction.
        provider: Whose bill it is.
        lines: All of one kind: of days, or of requests.
        now_s: Unix time.
        partial: The bill does not have all of the days that it names: what it is silent on stays.

    Raises: Conflict where a day was billed in another kind of line before.
    """
    by_request = bool(lines) and bool(lines[0].request)
    whole = bool(lines) and not lines[0].upstream
    days = {line.day for line in lines}
    await _check_kind(connection, provider, days, by_request=by_request, whole=whole)
    ours: Counter[tuple[str, int, str]] = Counter()
    for item in await booked(connection, provider, list(days), by_request=by_request):
        ours["" if whole else item.upstream, item.day, item.request] += item.cost_nanousd
    names = {upstream for upstream, _, _ in ours}
    theirs: dict[tuple[str, int, str], BillLine] = {}
    for line in lines:
        key = (_known_as(line.upstream, names), line.day, line.request)
        theirs[key] = _plus(theirs[key], line) if key in theirs else line
    unbilled = [key for key in ours if key not in theirs]
    if not partial:
        for key in unbilled:
            theirs[key] = BillLine(key[0], key[1], key[2], 0, 0, 0, 0, 0, True)
    posted = variance = 0
    for key, line in theirs.items():
        difference = line.cost_nanousd - ours[key]
        posted += await _post(connection, provider, key, line, difference, now_s=now_s)
        variance += difference
    return Reconciled(
        lines=len(lines),
        bill_nanousd=sum(line.cost_nanousd for line in lines),
        booked_nanousd=sum(ours[key] for key in theirs),
        variance_nanousd=variance,
        posted_nanousd=posted,
        unknown=tuple(sorted({key[0] for key in theirs if key not in ours})),
        unbilled=tuple(sorted({key[0] for key in unbilled})),
    )


async def variances(connection: AsyncConnection) -> Mapping[str, int]:
    """Account -> what all bills have posted on it."""
    found: Counter[str] = Counter()
    for row in await connection.execute(
        select(bills.c.provider, bills.c.upstream, bills.c.variance_nanousd)
    ):
        found[_account("variance", row.provider, row.upstream)] += row.variance_nanousd
    return found


async def _check_kind(
    connection: AsyncConnection, provider: str, days: set[int], *, by_request: bool, whole: bool
) -> None:
    query = select(bills.c.day, bills.c.request, bills.c.upstream).where(
        bills.c.provider == provider, bills.c.day.in_(sorted(days))
    )
    for row in await connection.execute(query):
        if bool(row.request) != by_request or (not row.upstream) != whole:
            kinds = {True: "requests", False: "days"}
            raise Conflict(
                f"the bill of {provider} for day {row.day} was imported by "
                f"{kinds[bool(row.request)]}{'' if row.upstream else ' of all models together'} "
                "before; import the same kind of file again"
            )


async def _post(
    connection: AsyncConnection,
    provider: str,
    key: tuple[str, int, str],
    line: BillLine,
    difference: int,
    *,
    now_s: int,
) -> int:
    upstream, day, request = key
    id = f"bill:{provider}/{upstream}:{day}:{request}"
    before = await connection.scalar(select(bills.c.variance_nanousd).where(bills.c.id == id))
    delta = difference - (before or 0)
    await connection.execute(delete(bills).where(bills.c.id == id))
    await connection.execute(
        insert(bills).values(
            **line._asdict()
            | {
                "id": id,
                "provider": provider,
                "upstream": upstream,
                "variance_nanousd": difference,
                "at_s": now_s,
            }
        )
    )
    if delta:
        await connection.execute(
            insert(postings),
            [
                {"transaction_id": id, "account": account, "amount_nanousd": amount}
                for account, amount in (
                    (_account("variance", provider, upstream), delta),
                    (_account("owed", provider, upstream), -delta),
                )
            ],
        )
    return delta


def _account(kind: str, provider: str, upstream: str) -> str:
    return f"{kind}:{provider}/{upstream}" if upstream else f"{kind}:{provider}"


def _known_as(name: str, ours: set[str]) -> str:
    """Bills name versions (`gpt-5-mini-2025-08-07`) of what is called by a shorter name."""
    if name in ours:
        return name
    return max((o for o in ours if o and name.startswith(f"{o}-")), key=len, default=name)


def _plus(one: BillLine, other: BillLine) -> BillLine:
    return BillLine(
        one.upstream,
        one.day,
        one.request,
        one.prompt_tokens + other.prompt_tokens,
        one.cached_tokens + other.cached_tokens,
        one.cache_write_tokens + other.cache_write_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cost_nanousd + other.cost_nanousd,
        one.priced and other.priced,
    )
