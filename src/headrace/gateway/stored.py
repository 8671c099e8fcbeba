"""Stored responses as the gateway uses them: the conversation before a request, and what it adds.

Invariants: nothing of another team is ever read; a conversation is whole or an error, never cut; it
is at most `LONGEST` answers and `max_bytes` long before anything of it is read into memory.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import HeadraceError, InvalidParameter, NotFound, PayloadTooLarge
from headrace.gateway.http import stop
from headrace.store import responses as store
from headrace.store.database import Database
from headrace.store.responses import Kept, Link, Owner
from headrace.types import Caller, Trail

LONGEST = 1000
"""Answers in one conversation."""
_PURGE_S = 60.0
_PREVIOUS = "previous_response_id"
_LOG = logging.getLogger("headrace.gateway")

Item = dict[str, Any]


class StoredResponse(NamedTuple):
    """A response and the items of its request."""

    body: dict[str, Any]
    input: list[Item]


class StoredResponses:
    """`run` it as a task, which deletes what has expired."""

    def __init__(
        self,
        database: Database,
        *,
        retention_s: int | None,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep responses in a database.

        Args:
            database: Where.
            retention_s: How long; None = until they are deleted.
            max_bytes: Of all the JSON of one conversation.
            clock: Unix seconds.
        """
        self._database = database
        self._retention_s = retention_s
        self._max_bytes = max_bytes
        self._clock = clock

    @property
    def database(self) -> Database:
        """Where they are."""
        return self._database

    async def keep(
        self,
        caller: Caller,
        body: Mapping[str, Any],
        items: Sequence[Item],
        *,
        previous: str,
        trail: Trail,
    ) -> None:
        """Store an answer, and what it quotes. Raises: StoreUnavailable."""
        now_s = int(self._clock())
        kept = Kept(
            id=body["id"],
            owner=_owner(caller),
            key=caller.key_id,
            created_s=now_s,
            expires_s=None if self._retention_s is None else now_s + self._retention_s,
            previous=previous,
            input=_encode(items),
            body=_encode(body),
            quotes=tuple(dict.fromkeys(trail.quotes)),
            continues=tuple(trail.continues),
        )
        await self._database.write(lambda connection: store.keep(connection, kept))

    async def get(self, caller: Caller, id: str) -> StoredResponse:
        """One of the caller's team's.

        Raises:
            NotFound: There is none of that id.
            StoreUnavailable: Nobody can say.
        """
        found = await self._find(caller, [id])
        if id not in found:
            raise _missing(id)
        return _decode(found[id])

    async def delete(self, caller: Caller, id: str) -> None:
        """Delete one of the caller's team's. Raises: As `get`."""
        owner, now_s = _owner(caller), int(self._clock())

        async def work(connection: AsyncConnection) -> bool:
            return await store.remove(connection, id, owner, now_s=now_s)

        if not await self._database.write(work):
            raise _missing(id)

    async def conversation(self, caller: Caller, id: str) -> list[Item]:
        """Every item up to and with this response's answer, oldest first.

        Raises:
            NotFound: It, or one that it continues, is not there (any more).
            PayloadTooLarge, InvalidParameter: The conversation has grown beyond the limits.
            StoreUnavailable: Nobody can say.
        """
        owner, now_s = _owner(caller), int(self._clock())

        async def work(connection: AsyncConnection) -> list[Link]:
            return await store.trace(connection, id, owner, now_s=now_s, longest=LONGEST + 1)

        links = await self._database.read(work)
        self._check(id, links)
        found = await self._find(caller, [link.id for link in links])
        items: list[Item] = []
        for link in reversed(links):
            if link.id not in found:  # deleted between the two reads
                raise _missing(link.id, of=id)
            response = _decode(found[link.id])
            items += response.input
            items += response.body["output"]
        return items

    async def items(self, caller: Caller, ids: Sequence[str]) -> dict[str, Item]:
        """Items by their ids, of any response of the caller's team; what is not there is left out.

        An item's id names the response that it is in.
        """
        homes = {id: home for id in ids if (home := _home(id)) is not None}
        found = await self._find(caller, sorted(set(homes.values())))
        items: dict[str, Item] = {}
        for kept in found.values():
            response = _decode(kept)
            for item in (*response.input, *response.body["output"]):
                if item["id"] in homes:
                    items[item["id"]] = item
        return items

    async def run(self) -> None:
        """Delete what has expired, until cancelled."""
        while True:
            try:
                await self.purge()
            except HeadraceError as error:
                _LOG.warning("expired responses are still stored: %s", error.message)
            except Exception:  # noqa: BLE001 - the purge must go on
                _LOG.exception("a bug while deleting expired responses")
            await asyncio.sleep(_PURGE_S)

    async def purge(self) -> None:
        """Delete what has expired. Raises: StoreUnavailable."""
        now_s = int(self._clock())
        while await self._database.write(lambda c: store.purge(c, now_s=now_s)):
            pass

    async def _find(self, caller: Caller, ids: Sequence[str]) -> dict[str, Kept]:
        owner, now_s = _owner(caller), int(self._clock())
        return await self._database.read(lambda c: store.find(c, ids, owner, now_s=now_s))

    def _check(self, id: str, links: Sequence[Link]) -> None:
        if not links:
            raise _missing(id, param=_PREVIOUS)
        if len(links) > LONGEST:
            raise InvalidParameter(
                f"`{_PREVIOUS}` {id} ends a conversation of more than {LONGEST} answers; begin a "
                "new one",
                param=_PREVIOUS,
            )
        if links[-1].previous:
            raise _missing(links[-1].previous, of=id)
        size = sum(link.size_bytes for link in links)
        if size > self._max_bytes:
            raise PayloadTooLarge(
                f"`{_PREVIOUS}` {id} ends a conversation of {size} characters; the limit is "
                f"{self._max_bytes}: begin a new one, or raise server.max_body_bytes",
                param=_PREVIOUS,
            )


@contextlib.asynccontextmanager
async def running(stored: StoredResponses) -> AsyncGenerator[StoredResponses]:
    """While inside, what expires is deleted."""
    purging = asyncio.create_task(stored.run())
    try:
        yield stored
    finally:
        await stop(purging)


def _missing(id: str, *, of: str = "", param: str | None = None) -> NotFound:
    if of and of != id:
        return NotFound(
            f"`{_PREVIOUS}` {of[:80]} continues {id[:80]}, which was deleted or has expired; send "
            "the items of the conversation as `input`",
            param=_PREVIOUS,
        )
    return NotFound(f"there is no response {id[:80]!r}", param=param)


def requests_of(previous: str, references: Sequence[str]) -> list[str]:
    """Those whose answers a response continues or refers to."""
    homes = [previous, *(home for id in references if (home := _home(id)) is not None)]
    return [home.removeprefix("resp_") for home in dict.fromkeys(homes) if home]


def _home(item: str) -> str | None:
    pieces = item.split("_")
    return f"resp_{pieces[1]}" if len(pieces) >= 3 else None


def _owner(caller: Caller) -> Owner:
    return Owner(org=caller.org, team=caller.team)


def _encode(value: object) -> str:
    # PostgreSQL's text has no NUL; in JSON it is an escape, so nothing is lost.
    return msgspec.json.encode(value).decode()


def _decode(kept: Kept) -> StoredResponse:
    body = cast("dict[str, Any]", msgspec.json.decode(kept.body))
    return StoredResponse(body, cast("list[Item]", msgspec.json.decode(kept.input)))
