"""An INSERT that can say ON CONFLICT, which the two databases spell alike.

PostgreSQL's dialect is imported where it is spoken: a gateway on SQLite has 2 MB less to carry.
"""

from typing import TYPE_CHECKING

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql


def upsert(table: Table, *, postgres: bool) -> "postgresql.Insert | sqlite.Insert":
    """Into a table of a PostgreSQL, or of a SQLite."""
    if not postgres:
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)
