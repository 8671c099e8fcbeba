"""Rows of files: who has which, how much a team keeps, what has expired.

Invariants: a file belongs to the (organization, team) that made it, and to everybody else it does
not exist; the row goes first, then the bytes, so a row always has its content; the input of a batch
that has not ended stays.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import Conflict, LimitExceeded, NotFound
from headrace.store.tables import batches, files, teams

LIVE_STATES = ("validating", "in_progress", "finalizing", "cancelling")
"""Of a batch that has not ended."""


class Owner(NamedTuple):
    """Whose something is."""

    org: str
    team: str


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """What is known of a file, without its content."""

    id: str
    owner: Owner
    key: str
    created_s: int
    purpose: str
    filename: str
    size_bytes: int
    expires_s: int | None = None
    """None = it stays until it is deleted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    limit: int
    after: str = ""
    """Id of the last one on the page before."""
    newest_first: bool = True


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


async def add_file(connection: AsyncConnection, file: File, *, team_bytes: int) -> None:
    """Insert the row of a file whose content is there.

    Raises: LimitExceeded where the team would keep more than `team_bytes`.
    """
    team = select(teams.c.id).where(teams.c.id == file.owner.team)
    await connection.execute(team.with_for_update())  # two uploads count one after the other
    query = select(func.coalesce(func.sum(files.c.size_bytes), 0)).where(_of(file.owner))
    used = int(await connection.scalar(query) or 0)
    if used + file.size_bytes > team_bytes:
        raise LimitExceeded(
            f"the team keeps {used} bytes in files, this one has {file.size_bytes} and files."
            f"team_bytes is {team_bytes}; delete some, or give them an expiry",
            details={"unit": "bytes", "limit": team_bytes, "left": max(team_bytes - used, 0)},
        )
    await connection.execute(insert(files).values(**_values(file)))


async def add_output(connection: AsyncConnection, file: File) -> None:
    """Insert the row of a batch's output: a quota does not keep paid answers from anybody."""
    await connection.execute(insert(files).values(**_values(file)))


async def get_file(connection: AsyncConnection, id: str, owner: Owner, *, now_s: int) -> File:
    """Raises: NotFound, also for another team's."""
    query = select(files).where(files.c.id == id, _of(owner), _live(now_s))
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound(f"there is no file {id[:80]!r}")
    return _file(row)


async def list_files(
    connection: AsyncConnection, owner: Owner, page: Page, *, purpose: str = "", now_s: int
) -> tuple[list[File], bool]:
    """A page of a team's files, and whether there are more.

    Raises: NotFound for an `after` that is not the team's.
    """
    wanted = [_of(owner), _live(now_s)]
    if purpose:
        wanted.append(files.c.purpose == purpose)
    rows, more = await fetch_page(connection, files, wanted, page, what="file")
    return [_file(row) for row in rows], more


async def delete_file(connection: AsyncConnection, id: str, owner: Owner, *, now_s: int) -> None:
    """Delete the row; the caller then deletes the bytes.

    Raises: NotFound; Conflict where a batch still reads it.
    """
    await get_file(connection, id, owner, now_s=now_s)
    reading = select(batches.c.id).where(
        batches.c.input_file == id, batches.c.state.in_(LIVE_STATES)
    )
    batch = await connection.scalar(reading)
    if batch is not None:
        raise Conflict(
            f"the file {id} is the input of the batch {batch}, which has not ended; cancel that "
            "first"
        )
    await connection.execute(delete(files).where(files.c.id == id))


async def delete_expired(connection: AsyncConnection, *, now_s: int) -> list[str]:
    """Delete the rows of expired files. Returns: Their ids, whose bytes are to be deleted."""
    reading = select(batches.c.input_file).where(batches.c.state.in_(LIVE_STATES))
    gone = (
        delete(files)
        .where(files.c.expires_s <= now_s, files.c.id.not_in(reading))
        .returning(files.c.id)
    )
    return list(await connection.scalars(gone))


async def known_files(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    """Those ids that have a row."""
    found: set[str] = set()
    for start in range(0, len(ids), 500):
        query = select(files.c.id).where(files.c.id.in_(ids[start : start + 500]))
        found.update(await connection.scalars(query))
    return found


async def fetch_page(
    connection: AsyncConnection,
    table: Any,
    wanted: Sequence[ColumnElement[bool]],
    page: Page,
    *,
    what: str,
) -> tuple[list[Row[Any]], bool]:
    """Rows of a table with `id` and `created_s`, in order of time, and whether there are more.

    Raises: NotFound for an `after` that is none of them.
    """
    time, id = table.c.created_s, table.c.id
    limits = list(wanted)
    if page.after:
        query = select(time).where(id == page.after, *wanted)
        last = await connection.scalar(query)
        if last is None:
            raise NotFound(f"`after`: there is no {what} {page.after[:80]!r}", param="after")
        if page.newest_first:
            limits.append(or_(time < last, and_(time == last, id < page.after)))
        else:
            limits.append(or_(time > last, and_(time == last, id > page.after)))
    order = (time.desc(), id.desc()) if page.newest_first else (time, id)
    query = select(table).where(*limits).order_by(*order).limit(page.limit + 1)
    rows = list(await connection.execute(query))
    return rows[: page.limit], len(rows) > page.limit


def _of(owner: Owner) -> ColumnElement[bool]:
    return and_(files.c.org == owner.org, files.c.team == owner.team)


def _live(now_s: int) -> ColumnElement[bool]:
    return or_(files.c.expires_s.is_(None), files.c.expires_s > now_s)


def _values(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "org": file.owner.org,
        "team": file.owner.team,
        "key": file.key,
        "created_s": file.created_s,
        "purpose": file.purpose,
        "filename": file.filename,
        "size_bytes": file.size_bytes,
        "expires_s": file.expires_s,
    }


def _file(row: Row[Any]) -> File:
    return File(
        id=row.id,
        owner=Owner(row.org, row.team),
        key=row.key,
        created_s=row.created_s,
        purpose=row.purpose,
        filename=row.filename,
        size_bytes=row.size_bytes,
        expires_s=row.expires_s,
    )
