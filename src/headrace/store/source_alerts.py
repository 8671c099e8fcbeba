"""What was said of sources that an index is too far behind: once of each state of each."""

from typing import Any, NamedTuple

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.tables import source_alerts
from headrace.store.upsert import upsert

KEPT_S = 30 * 86_400
"""After so long it is said again."""


class State(NamedTuple):
    """A source as its last sync left it."""

    org: str
    team: str
    name: str
    """Of the index."""
    source: str
    complete_s: int
    """Up to when the index has all of it; 0 = it never had."""


async def claim(connection: AsyncConnection, state: State, *, now_s: int) -> bool:
    """Whether this is the first to say it of that state; who asks first is to say it."""
    old = source_alerts.c.at_s < now_s - KEPT_S
    await connection.execute(delete(source_alerts).where(old))
    add = upsert(source_alerts, postgres=connection.dialect.name == "postgresql")
    statement: Any = add.values(**state._asdict(), at_s=now_s).on_conflict_do_nothing()
    return bool((await connection.execute(statement)).rowcount)


async def unclaim(connection: AsyncConnection, state: State) -> None:
    """It could not be said: the next may try."""
    same = [source_alerts.c[name] == value for name, value in state._asdict().items()]
    await connection.execute(delete(source_alerts).where(*same))
