"""Model names → prices: overrides from the store, else `genai-prices`' table, else unknown.

The table comes with its package, which fetches nothing; decimals become integers here, once. It is
imported where a listed price is asked for first: with pydantic it takes 13 MB, which a gateway
whose prices are all its own does without.
A model of one's own is free where no override sets a rate.
"""

import datetime
import time
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter, NotFound
from headrace.gateway.price import FREE, Price, Rate
from headrace.store.changes import Changes
from headrace.store.database import Database, bump
from headrace.store.tables import prices

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices
    from typing_extensions import TypeIs

_LOOK_AGAIN_S = 60.0
"""Prices that depend on date or time of day, and overrides that begin, are seen within this."""
_NANO = Decimal(10) ** 9


class Override(NamedTuple):
    """What a model costs from a moment on; nano-dollars a million tokens."""

    model: str
    effective_s: int
    input_nanousd: int
    cached_nanousd: int
    output_nanousd: int


class PriceBook:
    """The prices of a gateway's models."""

    def __init__(
        self, database: Database, changes: Changes, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[Price, float]] = {}
        changes.on_change(self._known.clear)

    async def of(self, model: str, *, provider: str = "") -> Price:
        """What a model costs now.

        Args:
            model: As it is served.
            provider: Whose it is, as `genai-prices` names it; empty = one's own.

        Raises:
            InvalidParameter: A provider's model whose price nobody knows: it is not let through.
        """
        now_s = self._clock()
        found = self._known.get(model)
        if found is not None and now_s < found[1]:
            return found[0]
        override = await self._database.read(lambda c: current(c, model, now_s=int(now_s)))
        if override is not None:
            price = of_override(override)
        elif provider:
            price = listed(provider, model, now_s)
        else:
            price = FREE
        self._known[model] = (price, now_s + _LOOK_AGAIN_S)
        return price


def listed(provider: str, model: str, now_s: float) -> Price:
    """The price in `genai-prices`' table. Raises: InvalidParameter."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, info = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        raise InvalidParameter(
            f"no price is known for {model!r} of {provider}; set one: headrace spend price",
            param="model",
        ) from None
    moment = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    table = info.get_prices(moment)
    fresh, output = table.input_mtok, table.output_mtok
    cached = fresh if table.cache_read_mtok is None else table.cache_read_mtok
    written = fresh if table.cache_write_mtok is None else table.cache_write_mtok
    starts = {0}
    for kind in (fresh, cached, written, output):
        if _tiered(kind):
            starts.update(tier.start for tier in kind.tiers)
    return Price(
        tuple(
            Rate(
                input=_at(fresh, at),
                cached=_at(cached, at),
                written=_at(written, at),
                output=_at(output, at),
                above=at,
            )
            for at in sorted(starts)
        )
    )


def of_override(override: Override) -> Price:
    """An override as a price."""
    return Price(
        (
            Rate(
                input=override.input_nanousd,
                cached=override.cached_nanousd,
                written=override.input_nanousd,
                output=override.output_nanousd,
            ),
        )
    )


async def current(connection: AsyncConnection, model: str, *, now_s: int) -> Override | None:
    """The override that holds at a time; the latest that has begun."""
    query = (
        select(*_columns())
        .where(prices.c.model == model, prices.c.effective_s <= now_s)
        .order_by(prices.c.effective_s.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Override(*row)


async def overrides(connection: AsyncConnection) -> list[Override]:
    query = select(*_columns()).order_by(prices.c.model, prices.c.effective_s)
    return [Override(*row) for row in await connection.execute(query)]


async def set_override(connection: AsyncConnection, override: Override) -> None:
    """Add an override; one of the same moment is replaced. Raises: InvalidParameter."""
    for name, value in zip(override._fields[2:], override[2:], strict=True):
        if not 0 <= value < 1 << 52:
            raise InvalidParameter(f"{name} {value} is not a price", param=name)
    await connection.execute(
        delete(prices).where(
            prices.c.model == override.model, prices.c.effective_s == override.effective_s
        )
    )
    await connection.execute(insert(prices).values(**override._asdict()))
    await bump(connection)


async def remove_overrides(connection: AsyncConnection, model: str) -> None:
    """Raises: NotFound."""
    if not (await connection.execute(delete(prices).where(prices.c.model == model))).rowcount:
        raise NotFound(f"there is no price override for {model[:80]!r}")
    await bump(connection)


def nanousd(dollars: Decimal) -> int:
    """Dollars as integer nano-dollars, rounded up."""
    return int((dollars * _NANO).to_integral_value(ROUND_CEILING))


def _columns() -> list[ColumnElement[Any]]:
    return [prices.c[name] for name in Override._fields]


def _tiered(price: "Decimal | TieredPrices | None") -> "TypeIs[TieredPrices]":
    return price is not None and not isinstance(price, Decimal)


def _at(price: "Decimal | TieredPrices | None", start: int) -> int:
    if price is None:
        return 0
    if _tiered(price):
        chosen = price.base
        for tier in price.tiers:
            if start >= tier.start:
                chosen = tier.price
        return nanousd(chosen)
    return nanousd(price)
