"""Ledgers over a database for tests, and a limit for their caller."""

import contextlib
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.gateway.ledger import Ledger
from headrace.gateway.need import Need
from headrace.gateway.price import Price, Rate
from headrace.gateway.tariff import Tariff
from headrace.store import identity, limits
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.journal import Journal
from headrace.store.limits import Limit, Unit
from headrace.types import Caller, Target, Usage

CALLER = Caller(key_id="key_1", org="default", team="default", feature="help", role="member")
PRICE = Price((Rate(input=1_000_000_000, cached=100_000_000, output=4_000_000_000),))
TARIFF = Tariff.single(PRICE, Target(provider="", model="m"))
"""A microdollar an input token, four an output token."""
NOW = 1_764_000_000


async def limit(
    database: Database,
    unit: Unit,
    amount: int,
    *,
    scope: str = "team",
    subject: str = "default",
    window: str = "month",
) -> Limit:
    async def work(connection: AsyncConnection) -> Limit:
        await identity.ensure_default(connection, now_s=NOW)
        return await limits.set_limit(
            connection,
            scope=scope,
            subject=subject,
            unit=unit,
            window="total" if unit is Unit.CONCURRENCY else window,
            amount=amount,
            now_s=NOW,
        )

    return await database.write(work)


def need(
    *, input_tokens: int = 10, output_tokens: int = 20, least: int = 1, caller: Caller = CALLER
) -> Need:
    return Need(
        id=secrets.token_hex(8),
        caller=caller,
        model="m",
        route="/v1/chat/completions",
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        least_output=least,
        tariff=TARIFF,
    )


def usage(prompt: int = 10, completion: int = 5, cached: int = 0) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)


@contextlib.asynccontextmanager
async def opened(database: Database, directory: Path) -> AsyncGenerator[Ledger]:
    """A worker's ledger; closed in the end, so nothing may still be held."""
    journal = Journal(directory, secrets.token_hex(4))
    ledger = Ledger(database, Changes(database), journal)
    yield ledger
    await ledger.close()
