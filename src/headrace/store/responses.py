"""Answers that a client may come back to: kept, found, followed back, deleted, expired.

A response belongs to the team of its caller; for every other it does not exist. One that continues
another keeps its id, not its content: what was deleted is nowhere. Expired = deleted; the rows go
with the next `purge`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.quotes import Holder, record
from headrace.store.tables import responses
from headrace.types import Quote

_PURGED_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Whose a response is."""

    org: str
    team: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A response as it lies in the store."""

    id: str
    owner: Owner
    key: str = ""
    created_s: int = 0
    expires_s: int | None = None
    """None = kept until it is deleted."""
    previous: str = ""
    input: str = "[]"
    """JSON: the items that came with its request."""
    body: str = "{}"
    """JSON: the response, the signatures of its thoughts included."""
    quotes: tuple[Quote, ...] = ()
    """Documents that it may quote; written beside it, not read with it."""
    continues: tuple[str, ...] = ()
    """Requests whose quotes are its own too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One response of a conversation, without its content."""

    id: str
    previous: str
    size_bytes: int


async def keep(connection: AsyncConnection, kept: Kept) -> None:
    """Write a response; once more is the same as once."""
    await connection.execute(delete(responses).where(responses.c.id == kept.id))
    await connection.execute(
        insert(responses).values(
            id=kept.id,
            org=kept.owner.org,
            team=kept.owner.team,
            key=kept.key,
            created_s=kept.created_s,
            expires_s=kept.expires_s,
            previous=kept.previous,
            size_bytes=len(kept.input) + len(kept.body),
            input=kept.input,
            body=kept.body,
        )
    )
    await record(
        connection,
        Holder(request=kept.id.removeprefix("resp_")),
        kept.quotes,
        continues=kept.continues,
    )


async def find(
    connection: AsyncConnection, ids: Sequence[str], owner: Owner, *, now_s: int
) -> dict[str, Kept]:
    """Those of the ids that the team has, by id."""
    found: dict[str, Kept] = {}
    for start in range(0, len(ids), _PURGED_AT_ONCE):
        some = ids[start : start + _PURGED_AT_ONCE]
        query = select(responses).where(responses.c.id.in_(some), _visible(owner, now_s))
        for row in await connection.execute(query):
            found[row.id] = Kept(
                id=row.id,
                owner=owner,
                key=row.key,
                created_s=row.created_s,
                expires_s=row.expires_s,
                previous=row.previous,
                input=row.input,
                body=row.body,
            )
    return found


async def trace(
    connection: AsyncConnection, id: str, owner: Owner, *, now_s: int, longest: int
) -> list[Link]:
    """The response and those before it, newest first, without their content.

    Ends before the first that is not there, and after `longest`.
    """
    columns = (responses.c.id, responses.c.previous, responses.c.size_bytes)
    visible = _visible(owner, now_s)
    chain = select(*columns).where(responses.c.id == id, visible).cte("chain", recursive=True)
    chain = chain.union_all(select(*columns).where(responses.c.id == chain.c.previous, visible))
    rows = await connection.execute(select(chain).limit(longest))
    links = {
        row.id: Link(id=row.id, previous=row.previous, size_bytes=row.size_bytes) for row in rows
    }
    found: list[Link] = []
    at = id
    while at in links:
        link = links.pop(at)
        found.append(link)
        at = link.previous
    return found


async def remove(connection: AsyncConnection, id: str, owner: Owner, *, now_s: int) -> bool:
    """Delete one of the team's. Returns: Whether it was there."""
    gone = await connection.execute(
        delete(responses).where(responses.c.id == id, _visible(owner, now_s))
    )
    return gone.rowcount > 0


async def purge(connection: AsyncConnection, *, now_s: int) -> int:
    """Delete some of what has expired. Returns: How many; call it until that is 0."""
    some = (
        select(responses.c.id)
        .where(responses.c.expires_s <= now_s)
        .limit(_PURGED_AT_ONCE)
        .scalar_subquery()
    )
    gone = await connection.execute(delete(responses).where(responses.c.id.in_(some)))
    return gone.rowcount


def _visible(owner: Owner, now_s: int) -> ColumnElement[bool]:
    expires = responses.c.expires_s
    return and_(
        responses.c.org == owner.org,
        responses.c.team == owner.team,
        or_(expires.is_(None), expires > now_s),
    )
