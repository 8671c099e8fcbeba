"""The audit log: written with the change or not at all, and never again touched."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError

from databases import KINDS, fresh
from headrace.store import audit, identity
from headrace.store.audit import Actor, Wanted, entries, record
from headrace.store.database import Database
from headrace.store.tables import audit as table

NOW = 1_764_000_000
ANN = Actor(id="ann", role="admin", via="api", request="r1")


async def write(database: Database, *actions: tuple[str, str, str]) -> None:
    async def work(connection: Any) -> None:
        for at, (action, org, team) in enumerate(actions):
            await record(connection, ANN, action, "k", org=org, team=team, now_s=NOW + at)

    await database.write(work)


async def read(database: Database, **wanted: Any) -> list[str]:
    found = await database.read(lambda c: entries(c, Wanted(**wanted)))
    return [entry.action for entry in found]


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_rewrites_it(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await write(database, ("key.make", "acme", "red"))
        for query in (delete(table), update(table).values(actor="bob")):
            with pytest.raises(DBAPIError, match="append-only"):
                await database.write(lambda c, q=query: c.execute(q))
        assert await read(database) == ["key.make"]


@pytest.mark.parametrize("kind", KINDS)
async def test_entries_are_found_by_what_is_asked(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await write(
            database,
            ("key.make", "acme", "red"),
            ("key.revoke", "acme", "blue"),
            ("keyring", "acme", "red"),
            ("org.add", "other", ""),
        )
        assert await read(database) == ["org.add", "keyring", "key.revoke", "key.make"]
        assert await read(database, org="acme", team="red") == ["keyring", "key.make"]
        assert await read(database, action="key.") == ["key.revoke", "key.make"]
        assert await read(database, action="key.make") == ["key.make"]
        assert await read(database, actor="bob") == []
        assert await read(database, since_s=NOW + 1, until_s=NOW + 3) == ["keyring", "key.revoke"]
        first = await database.read(lambda c: entries(c, Wanted(count=2)))
        assert await read(database, before=first[-1].id) == ["key.revoke", "key.make"]
        assert first[0].request == "r1"


async def test_a_change_that_fails_leaves_no_entry(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:

        async def work(connection: Any) -> None:
            await identity.add_org(connection, "acme", now_s=NOW)
            await record(connection, ANN, "org.add", "acme", org="acme", now_s=NOW)
            raise RuntimeError("the power went")

        with pytest.raises(RuntimeError):
            await database.write(work)
        assert await read(database) == []
        assert await database.read(identity.org_ids) == []


async def test_one_answer_is_bounded(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await write(database, *[("key.make", "", "")] * (audit.MOST + 1))
        assert len(await read(database, count=1 << 20)) == audit.MOST
