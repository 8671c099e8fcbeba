"""Who changed what, when: rows that are written with the change itself and never again touched.

Invariants: an entry is in the transaction of what it tells of, so neither is there without the
other; the database itself refuses to update or delete one; no secret is ever in one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.tables import audit

MOST = 1000
"""Entries that one question answers with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """Who does something."""

    id: str
    """A key, a session's user, or who runs the command."""
    role: str = ""
    via: str = ""
    """api | cli | login | start | config, of which replica."""
    request: str = ""
    """Id of the HTTP request, where there is one."""


class Entry(NamedTuple):
    """One change."""

    id: int
    at_s: int
    actor: str
    role: str
    via: str
    request: str
    action: str
    """As `key.revoke`."""
    subject: str
    org: str
    """Whose the subject is; so for the next."""
    team: str
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which entries; empty = all."""

    org: str | None = None
    team: str | None = None
    actor: str = ""
    action: str = ""
    """An action, or with a dot at its end all that begin with it: `key.`."""
    subject: str = ""
    since_s: int = 0
    until_s: int = 1 << 52
    before: int = 0
    """Only entries with a lower id; 0 = from the newest."""
    count: int = 100


async def record(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    subject: str,
    *,
    org: str = "",
    team: str = "",
    detail: Mapping[str, object] | None = None,
    now_s: int,
) -> None:
    """Write one entry, in the transaction of the change."""
    await connection.execute(
        insert(audit).values(
            at_s=now_s,
            actor=actor.id,
            role=actor.role,
            via=actor.via,
            request=actor.request,
            action=action,
            subject=subject,
            org=org,
            team=team,
            detail=json.dumps(detail or {}, sort_keys=True, default=str),
        )
    )


async def entries(connection: AsyncConnection, wanted: Wanted) -> list[Entry]:
    """The newest first, at most `MOST`."""
    where: list[ColumnElement[bool]] = [
        audit.c.at_s >= wanted.since_s,
        audit.c.at_s < wanted.until_s,
    ]
    if wanted.before:
        where.append(audit.c.id < wanted.before)
    for column, value in (("org", wanted.org), ("team", wanted.team)):
        if value is not None:
            where.append(audit.c[column] == value)
    for column, value in (("actor", wanted.actor), ("subject", wanted.subject)):
        if value:
            where.append(audit.c[column] == value)
    if wanted.action.endswith("."):
        where.append(audit.c.action.startswith(wanted.action, autoescape=True))
    elif wanted.action:
        where.append(audit.c.action == wanted.action)
    query = select(audit).where(*where).order_by(audit.c.id.desc()).limit(min(wanted.count, MOST))
    return [
        Entry(**{**row, "detail": json.loads(row["detail"])})
        for row in (await connection.execute(query)).mappings()
    ]
