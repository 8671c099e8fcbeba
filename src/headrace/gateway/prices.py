"""Models → prices: overrides from the store, else `genai-prices`' or one's own, else an error.

A price is of a model under the name that its provider has for it, whatever routes lead there. The
table comes with its package, which fetches nothing; decimals become integers here, once. It is
imported where a listed price is asked for first: with pydantic it takes 13 MB, which a gateway
whose prices are all its own does without.
"""

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter, NotFound, ServiceError, StoreUnavailable
from headrace.gateway.price import FREE, Price, Rate
from headrace.gateway.tariff import Tariff
from headrace.store.changes import Changes
from headrace.store.database import PROMPT_S, Database, bump
from headrace.store.tables import prices
from headrace.types import Target

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices
    from typing_extensions import TypeIs

_LOOK_AGAIN_S = 60.0
"""Prices that depend on date or time of day, and overrides that begin, are seen within this."""
_AWAY_S = 1.0
_NANO = Decimal(10) ** 9
OWN = "own"
"""Source of the prices of one's own machines."""


class Override(NamedTuple):
    """What a model costs from a moment on; nano-dollars a million tokens."""

    model: str
    effective_s: int
    input_nanousd: int
    cached_nanousd: int
    output_nanousd: int


class PriceBook:
    """What is known of prices, remembered for a minute; `Prices` says of what."""

    def __init__(
        self, database: Database, changes: Changes, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[tuple[Target, str, Price], tuple[Price, float]] = {}
        changes.on_change(self._known.clear)

    async def of(self, target: Target, *, source: str, own: Price) -> Price:
        """What a model costs now.

        Args:
            target: Whose it is, and its name there.
            source: Where its price comes from: `own`, or a provider in `genai-prices`; empty =
                nobody knows.
            own: Of one's own models without an override.

        Raises:
            ServiceError: A price that nobody knows: the model is not let through for nothing.
        """
        now_s = self._clock()
        key = (target, source, own)
        found = self._known.get(key)
        if found is not None and now_s < found[1]:
            return found[0]
        name = priced_name(target)
        try:
            override = await self._database.read(
                lambda c: current(c, name, now_s=int(now_s)), patience_s=PROMPT_S
            )
        except StoreUnavailable:
            if found is None:
                raise
            # As long as keys and slices are believed without it, so is what was true a minute ago.
            self._known[key] = (found[0], now_s + _AWAY_S)
            return found[0]
        if override is not None:
            price = of_override(override)
        elif source == OWN:
            price = own
        else:
            price = listed(source, target, now_s)
        self._known[key] = (price, now_s + _LOOK_AGAIN_S)
        return price


@dataclass(frozen=True)
class Prices:
    """The prices under some settings."""

    book: PriceBook
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    """Provider -> where its prices come from, as `PriceBook.of`; one's own engine is not in it."""
    own: Price = FREE

    async def of(self, target: Target) -> Price:
        """What a model costs now. Raises: As `PriceBook.of`."""
        source = self.sources.get(target.provider, "") if target.provider else OWN
        own = FREE if target.provider else self.own
        return await self.book.of(target, source=source, own=own)

    async def tariff(self, candidates: Sequence[Target], *, calls: int = 1) -> Tariff:
        """Of everything that a request may ask, with so many calls. Raises: As `PriceBook.of`."""
        return Tariff({target: await self.of(target) for target in candidates}, calls)


def priced_name(target: Target) -> str:
    """What `headrace spend price` calls a model: PROVIDER/ITS NAME, or a local model's own."""
    return f"{target.provider}/{target.model}" if target.provider else target.model


def listed(source: str, target: Target, now_s: float) -> Price:
    """The price in `genai-prices`' table, of that date and time. Raises: ServiceError."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        if not source:
            raise LookupError
        _, info = get_snapshot().find_provider_model(target.model, None, source, None)
    except LookupError:
        name = priced_name(target)
        raise ServiceError(
            f"nobody knows what the model {name} costs, so it is not called; the operator sets it "
            f"with `headrace spend price {name} --input ... --output ...`, or says with "
            f"`providers.{target.provider}.prices` where its prices come from"
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
