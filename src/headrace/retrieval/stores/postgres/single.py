"""Rows that are always there: of aggregates, of the one row of `state`, of RETURNING."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpg import Connection


async def row(connection: "Connection", statement: str, *values: object) -> Any:
    """The first row."""
    found = await connection.fetchrow(statement, *values)
    assert found is not None, statement
    return found


async def value(connection: "Connection", statement: str, *values: object) -> Any:
    """The first row's first column, which may be NULL."""
    return (await row(connection, statement, *values))[0]
