"""Stored responses on both databases: conversations, teams, deletion, expiry, limits."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from databases import KINDS, fresh
from headrace.errors import InvalidParameter, NotFound, PayloadTooLarge
from headrace.gateway import stored as module
from headrace.gateway.stored import StoredResponses
from headrace.store.database import Database
from headrace.store.tables import responses
from headrace.testing import FakeClock
from headrace.types import Caller, Trail

NOW = 1_764_000_000.0
RED, BLUE = Caller(org="o", team="red"), Caller(org="o", team="blue")
OTHER_ORG = Caller(org="p", team="red")


def store(database: Database, clock: FakeClock | None = None, **more: Any) -> StoredResponses:
    settings: dict[str, Any] = {"retention_s": 100, "max_bytes": 10_000, **more}
    return StoredResponses(database, clock=clock or FakeClock(now_s=NOW), **settings)


def item(id: str, text: str) -> dict[str, Any]:
    return {"type": "message", "id": id, "role": "user", "content": text}


async def say(at: StoredResponses, name: str, previous: str = "", who: Caller = RED) -> str:
    """A response `resp_NAME` with one item in and one out."""
    body: dict[str, Any] = {
        "id": f"resp_{name}",
        "output": [item(f"msg_{name}_0", f"out {name} \x00")],
    }
    items = [item(f"msg_{name}_i0", f"in {name}")]
    await at.keep(who, body, items, previous=previous, trail=Trail())
    return body["id"]


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [found["content"] for found in items]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_is_every_item_in_order(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        at = store(database)
        first = await say(at, "a")
        second = await say(at, "b", first)
        await say(at, "branch", first)
        third = await say(at, "c", second)
        found = texts(await at.conversation(RED, third))
        assert found == ["in a", "out a \0", "in b", "out b \0", "in c", "out c \0"]
        body, came = await at.get(RED, second)
        assert (body["id"], texts(came)) == ("resp_b", ["in b"])
        picked = await at.items(RED, ["msg_a_0", "msg_b_i0", "msg_zz_0", "nonsense", "msg_a_7"])
        assert {id: found["content"] for id, found in picked.items()} == {
            "msg_a_0": "out a \0",
            "msg_b_i0": "in b",
        }


@pytest.mark.parametrize("kind", KINDS)
async def test_another_team_finds_nothing_and_deletes_nothing(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        at = store(database)
        first = await say(at, "a")
        for other in (BLUE, OTHER_ORG):
            seen: list[str] = []
            for id in (first, "resp_nowhere"):
                for call in (at.get, at.delete, at.conversation):
                    with pytest.raises(NotFound) as caught:
                        await call(other, id)
                    seen.append(caught.value.message.replace(id, "ID"))
                assert await at.items(other, ["msg_a_0"]) == {}
            assert seen[:3] == seen[3:]
            # nor does a response of its own lead into another team's
            theirs = await say(at, f"x{other.org}", first, who=other)
            with pytest.raises(NotFound, match="continues resp_a, which was deleted"):
                await at.conversation(other, theirs)
        assert await at.get(RED, first)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_deleted_is_nowhere(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        at = store(database)
        first = await say(at, "secretword")
        second = await say(at, "b", first)
        await at.delete(RED, first)
        for call in (at.get, at.delete):
            with pytest.raises(NotFound):
                await call(RED, first)
        assert (await at.get(RED, second)).body["id"] == second
        with pytest.raises(NotFound, match="resp_b continues resp_secretword, which was deleted"):
            await at.conversation(RED, second)
        assert await at.items(RED, ["msg_secretword_0"]) == {}
        rows = await database.read(lambda c: c.execute(select(responses.c.body, responses.c.input)))
        assert "out secretword" not in repr(list(rows))


def test_sqlite_overwrites_what_was_deleted(tmp_path: Path) -> None:
    async def work() -> None:
        async with fresh("sqlite", tmp_path) as database:
            at = store(database)
            await say(at, "secretword")
            await say(at, "b")
            await at.delete(RED, "resp_secretword")

    asyncio.run(work())
    # closed: the log is in the file now
    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"in b" in left
    assert b"in secretword" not in left


@pytest.mark.parametrize("kind", KINDS)
async def test_it_expires_and_is_purged(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        clock = FakeClock(now_s=NOW)
        at, forever = store(database, clock), store(database, clock, retention_s=None)
        first = await say(at, "a")
        second = await say(forever, "b", first)
        clock.advance(99)
        assert await at.get(RED, first)
        clock.advance(1)
        with pytest.raises(NotFound):
            await at.get(RED, first)
        with pytest.raises(NotFound, match="deleted or has expired"):
            await at.conversation(RED, second)
        count = select(func.count()).select_from(responses)
        assert await database.read(lambda c: c.scalar(count)) == 2
        await at.purge()
        assert await database.read(lambda c: c.scalar(count)) == 1
        assert await at.get(RED, second)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_has_limits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 3)
    async with fresh(kind, tmp_path) as database:
        at = store(database)
        id = ""
        for name in "abc":
            id = await say(at, name, id)
        assert len(await at.conversation(RED, id)) == 6
        with pytest.raises(InvalidParameter, match="more than 3 answers"):
            await at.conversation(RED, await say(at, "d", id))
        with pytest.raises(PayloadTooLarge, match="the limit is 100"):
            await store(database, max_bytes=100).conversation(RED, id)


async def test_a_circle_ends(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        at = store(database)
        await say(at, "a", "resp_b")
        await say(at, "b", "resp_a")
        with pytest.raises((NotFound, InvalidParameter)):
            await at.conversation(RED, "resp_a")
