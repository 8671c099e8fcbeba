"""What the verbs over the store share: a transaction a command, and times as people write them."""

import asyncio
import datetime
import getpass
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace import app
from headrace.cli.report import settings
from headrace.errors import UserError
from headrace.store.audit import Actor, record

T = TypeVar("T")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def run(ctx: typer.Context, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """The result of one write transaction on the store that the settings name."""
    chosen = settings(ctx)

    async def whole() -> T:
        async with app.open_store(chosen) as database:
            return await database.write(work, patience_s=None)

    return asyncio.run(whole())


async def note(
    connection: AsyncConnection,
    action: str,
    subject: str,
    *,
    org: str = "",
    team: str = "",
    detail: Mapping[str, object] | None = None,
) -> None:
    """Write into the audit log what this command changes, in its transaction."""
    actor = Actor(id=getpass.getuser(), role="admin", via="cli")
    now_s = int(time.time())
    await record(connection, actor, action, subject, org=org, team=team, detail=detail, now_s=now_s)


def instant(text: str, *, now_s: int) -> int:
    """Unix time of a date, a date with time (UTC where it names no zone), or a time from now.

    Raises: UserError.
    """
    relative = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if relative:
        return now_s + int(relative[1]) * _UNITS_S[relative[2]]
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"{text!r} is no time: write 2027-01-31, 2027-01-31T12:00, or 90d, 12h, 30m from now"
        ) from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=datetime.UTC)
    return int(parsed.timestamp())


def since(text: str, *, now_s: int) -> int:
    """Unix time of a date that is past, or of a time ago: 30d, 12h.

    Raises: UserError.
    """
    at_s = instant(text, now_s=now_s)
    if text[-1] in _UNITS_S:
        return 2 * now_s - at_s
    if at_s > now_s:
        raise UserError(f"{text!r} is yet to come: write a date that is past, or 30d, 12h ago")
    return at_s


def when(at_s: int) -> str:
    """A Unix time for people, in UTC."""
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def dollars(nanousd: int) -> str:
    """Money for people, exactly."""
    whole, rest = divmod(abs(nanousd), 10**9)
    fraction = f"{rest:09d}".rstrip("0")
    return f"{'-' if nanousd < 0 else ''}${whole}.{fraction:0<2}"
