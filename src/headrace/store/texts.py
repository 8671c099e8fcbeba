"""What callers said and were told, wherever it is kept beside traces: deleted by whose it is.

Kept answers go for whole organizations or teams: who else was told the same is in none of them, and
they are only a cache. `Database.scrub(*TABLES)` afterwards makes it a deletion of bytes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.files import LIVE_STATES
from headrace.store.tables import answers, batches, files, responses

TABLES = ("answers", "responses", "files", "batches", "batch_lines")
PG_TABLES = (*TABLES, "file_chunks")


class Whose(NamedTuple):
    """Texts by what they are of; everything given must hold."""

    org: str | None = None
    team: str | None = None
    key: str | None = None
    since_s: int | None = None
    until_s: int | None = None


class Files(NamedTuple):
    """Of files and batches."""

    gone: list[str]
    """Whose bytes are to be deleted."""
    batches: int
    busy: int
    """Batches that have not ended, which keep their files."""


async def remove_responses(connection: AsyncConnection, whose: Whose) -> int:
    """Delete stored responses; how many."""
    where = _conditions(responses, whose)
    return (await connection.execute(delete(responses).where(*where))).rowcount


async def remove_responses_of(connection: AsyncConnection, requests: Sequence[str]) -> int:
    """Delete the stored responses of these requests; how many there were."""
    ids = [f"resp_{id}" for id in requests]
    return (await connection.execute(delete(responses).where(responses.c.id.in_(ids)))).rowcount


async def remove_files(connection: AsyncConnection, whose: Whose) -> Files:
    """Delete batches that have ended, with their lines, and files that none reads."""
    live = batches.c.state.in_(LIVE_STATES)
    where = _conditions(batches, whose)
    busy = len(list(await connection.scalars(select(batches.c.id).where(live, *where))))
    ended = await connection.execute(delete(batches).where(~live, *where))
    reading = select(batches.c.input_file).where(live)
    unread = files.c.id.not_in(reading)
    gone = delete(files).where(unread, *_conditions(files, whose)).returning(files.c.id)
    return Files(list(await connection.scalars(gone)), ended.rowcount, busy)


async def remove_answers(connection: AsyncConnection, whose: Whose) -> int:
    """Delete all kept answers of an organization or a team, or everybody's; how many."""
    where: list[ColumnElement[bool]] = []
    for column, value in ((answers.c.org, whose.org), (answers.c.team, whose.team)):
        if value is not None:
            where.append(column == value)
    return (await connection.execute(delete(answers).where(*where))).rowcount


def _conditions(table: Table, whose: Whose) -> list[ColumnElement[bool]]:
    c: Any = table.c
    found: list[ColumnElement[bool]] = [
        c[name] == value
        for name in ("org", "team", "key")
        if (value := getattr(whose, name)) is not None
    ]
    if whose.since_s is not None:
        found.append(c.created_s >= whose.since_s)
    if whose.until_s is not None:
        found.append(c.created_s < whose.until_s)
    return found
