"""What the ledger has of one request, every row of it as it stands."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.tables import holds, legs, postings, transactions

Booked: TypeAlias = Mapping[str, list[dict[str, Any]]]
"""Table -> rows."""


async def booked(connection: AsyncConnection, id: str) -> Booked:
    """The rows of a request; empty lists where nothing is booked (yet)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table, column in (
        (transactions, transactions.c.id),
        (legs, legs.c.transaction_id),
        (postings, postings.c.transaction_id),
        (holds, holds.c.id),
    ):
        names = [each.name for each in table.columns]
        rows = await connection.execute(select(table).where(column == id))
        found[table.name] = [dict(zip(names, row, strict=True)) for row in rows]
    return found
