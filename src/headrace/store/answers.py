"""Kept answers: rows by name, until their time or their room is over."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.database import bump
from headrace.store.quotes import Holder, record
from headrace.store.tables import answers
from headrace.store.upsert import upsert
from headrace.types import Quote


class Kept(NamedTuple):
    """One answer of one team."""

    id: str
    """Hash of all that it depends on, the team included."""
    org: str
    team: str
    key: str
    """Of the key that asked first."""
    route: str
    release: str
    created_s: int
    expires_s: int
    body: bytes
    quotes: tuple[Quote, ...] = ()
    """Documents that it may quote; written beside it, not read with it: the body has them too."""


_COLUMNS = tuple(name for name in Kept._fields if name != "quotes")


async def get(connection: AsyncConnection, id: str, *, now_s: int) -> Kept | None:
    """The answer of that name, where its time is not over."""
    query = select(*(answers.c[name] for name in _COLUMNS)).where(
        answers.c.id == id, answers.c.expires_s > now_s
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Kept(*row)


async def put(connection: AsyncConnection, kept: Sequence[Kept]) -> None:
    """Keep answers; of one name the last."""
    latest = {one.id: one for one in kept}
    rows = [
        {name: getattr(one, name) for name in _COLUMNS} | {"size_bytes": len(one.body)}
        for one in latest.values()
    ]
    statement = upsert(answers, postgres=connection.dialect.name == "postgresql")
    changed = {
        column.name: statement.excluded[column.name] for column in answers.c if column.name != "id"
    }
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_=changed), rows
    )
    for one in latest.values():
        await record(connection, Holder(answer=one.id), one.quotes)


async def sweep(connection: AsyncConnection, *, now_s: int, max_bytes: int) -> int:
    """Delete what is over, and the oldest beyond a total size. Returns: how many rows."""
    over = await connection.execute(delete(answers).where(answers.c.expires_s <= now_s))
    running = (
        func.sum(answers.c.size_bytes)
        .over(order_by=(answers.c.created_s.desc(), answers.c.id))
        .label("total")
    )
    sized = select(answers.c.id, running).subquery()
    beyond = select(sized.c.id).where(sized.c.total > max_bytes)
    old = await connection.execute(delete(answers).where(answers.c.id.in_(beyond)))
    return over.rowcount + old.rowcount


async def clear(
    connection: AsyncConnection, *, org: str = "", team: str = "", route: str = ""
) -> int:
    """Delete answers, of all or of one organization, team, route; every worker forgets its own.

    Returns: how many rows.
    """
    statement = delete(answers)
    for column, value in ((answers.c.org, org), (answers.c.team, team), (answers.c.route, route)):
        if value:
            statement = statement.where(column == value)
    gone = await connection.execute(statement)
    await bump(connection)
    return gone.rowcount
