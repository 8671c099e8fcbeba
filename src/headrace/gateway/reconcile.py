"""A provider's bill, as a file → the books: what it has in tokens only is priced as we price."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter
from headrace.gateway.bill_files import Found, money
from headrace.gateway.prices import OWN, current, listed, of_override, priced_name
from headrace.store.bills import BillLine, Reconciled, book_bill
from headrace.store.calls import DAY_S
from headrace.types import Target


async def reconcile(
    connection: AsyncConnection,
    provider: str,
    rows: Sequence[Found],
    *,
    source: str,
    now_s: int,
    partial: bool = False,
) -> Reconciled:
    """Book what a provider's bill differs from the ledger by, into `variance:PROVIDER/MODEL`.

    Args:
        connection: In a write transaction.
        provider: As the settings name it.
        rows: Of `read_bill`.
        source: Where its prices come from, as `PriceBook.of`.
        now_s: Unix time.
        partial: As `book_bill`.

    Raises:
        InvalidParameter: Rows with and without request ids, or models, in one file.
        ServiceError: Tokens whose price nobody knows.
        Conflict: As `book_bill`.
    """
    for name in ("request", "model"):
        if len({bool(getattr(row, name)) for row in rows}) > 1:
            raise InvalidParameter(
                f"some lines of the bill name a {name} and some do not; import them as two files",
                param="file",
            )
    lines = [await _line(connection, provider, row, source) for row in rows]
    return await book_bill(connection, provider, lines, now_s=now_s, partial=partial)


async def _line(connection: AsyncConnection, provider: str, row: Found, source: str) -> BillLine:
    if row.dollars is not None:
        cost = money(row.dollars)
    else:
        target = Target(provider=provider, model=row.model)
        noon_s = row.day * DAY_S + DAY_S // 2
        override = await current(connection, priced_name(target), now_s=noon_s)
        if override is not None:
            cost = of_override(override).cost(row.usage)
        else:
            cost = 0 if source == OWN else listed(source, target, noon_s).cost(row.usage)
    usage = row.usage
    return BillLine(
        upstream=row.model,
        day=row.day,
        request=row.request,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        completion_tokens=usage.completion_tokens,
        cost_nanousd=cost,
        priced=row.dollars is not None,
    )
