"""One deletion of all text: in no table, no file and no memory is anything left; money stays."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import KINDS
from headrace.gateway.caching.asked import CACHE_HEADER
from headrace.store.identity import RoleName
from headrace.store.tables import answers, batches, metadata, transactions
from isolation_world import World, world

PLANTED = "the-planted-words"


async def say(it: World, team: str, words: str, *, user: str = "") -> None:
    """The same words everywhere that keeps any."""

    async def ask(path: str, **options: Any) -> httpx.Response:
        answer = await it.ask(team, RoleName.MEMBER, "POST", path, **options)
        assert answer.status_code == 200, answer.text
        return answer

    more = {"user": user} if user else {}
    chat = {"messages": [{"role": "user", "content": words}], **more}
    await ask("/v1/chat/completions", json={"model": "kept", **chat})
    await ask("/v1/responses", json={"model": "m", "input": words, **more})
    if user:
        return
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", **chat},
    }
    upload = {"file": ("f.jsonl", json.dumps(line).encode())}
    file = (await ask("/v1/files", data={"purpose": "batch"}, files=upload)).json()["id"]
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    await ask("/v1/batches", json=body)


async def left(it: World, directory: Path, words: str) -> list[str]:
    """Where the words still are: tables, and the bytes of SQLite and of uploaded files."""

    async def work(connection: AsyncConnection) -> list[str]:
        return [
            table.name
            for table in metadata.sorted_tables
            for row in await connection.execute(select(table))
            if words.encode() in b" ".join(_bytes(value) for value in row)
        ]

    found = await it.database.read(work)
    paths = await asyncio.to_thread(lambda: [p for p in directory.rglob("*") if p.is_file()])
    return found + [path.name for path in paths if words.encode() in path.read_bytes()]


async def all_bytes(directory: Path) -> bytes:
    paths = await asyncio.to_thread(lambda: list(directory.rglob("*.db*")))
    return b"".join(path.read_bytes() for path in paths)


async def _bodies(connection: AsyncConnection) -> list[bytes]:
    return list(await connection.scalars(select(answers.c.body).where(answers.c.team == "blue")))


async def _teams_with_answers(connection: AsyncConnection) -> list[str]:
    return list(await connection.scalars(select(answers.c.team).distinct()))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


async def end_batches(it: World) -> None:
    await it.database.write(
        lambda c: c.execute(batches.update().values(state="completed", owner=""))
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_all_text_of_a_team_is_gone(kind: str, tmp_path: Path) -> None:
    async with world(tmp_path, kind) as it:
        await say(it, "blue", PLANTED)
        await say(it, "red", "other-words")
        before = await it.database.read(
            lambda c: c.scalar(select(func.count()).select_from(transactions))
        )

        async def erase(role: RoleName, **query: str) -> httpx.Response:
            return await it.ask("blue", role, "DELETE", "/v1/admin/texts", params=query)

        assert (await erase(RoleName.MEMBER, team="blue")).status_code == 403
        assert (await erase(RoleName.TEAM_ADMIN)).status_code == 400
        assert (await erase(RoleName.TEAM_ADMIN, model="m")).status_code == 400
        await it.ask("blue", RoleName.MEMBER, "GET", "/v1/admin/traces")  # writes what waits
        await it.shelf.flush()
        bodies = await it.database.read(_bodies)
        assert bodies
        places = {"responses", "trace_contents"}
        assert len(set(await left(it, tmp_path, PLANTED)) & places) == 2
        busy = (await erase(RoleName.TEAM_ADMIN, team="blue", files="1")).json()
        assert busy["busy"] == 2  # theirs, and the one of their world
        await end_batches(it)
        gone = (await erase(RoleName.TEAM_ADMIN, team="blue", files="1")).json()
        assert (gone["busy"], gone["batches"], gone["scrubbed"]) == (0, 2, True)
        assert await left(it, tmp_path, PLANTED) == []
        assert [body for body in bodies if body in await all_bytes(tmp_path)] == []
        assert "responses" in await left(it, tmp_path, "other-words")
        assert await it.database.read(_teams_with_answers) == ["red"]  # whose bodies are packed
        after = await it.database.read(
            lambda c: c.scalar(select(func.count()).select_from(transactions))
        )
        assert after == before

        chat = {"model": "kept", "messages": [{"role": "user", "content": PLANTED}]}
        again = await it.ask("blue", RoleName.MEMBER, "POST", "/v1/chat/completions", json=chat)
        assert again.headers[CACHE_HEADER.decode()] == "miss"


async def test_all_text_of_an_end_user_is_gone_and_no_other(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await say(it, "blue", PLANTED, user="alice")
        await say(it, "blue", "words-of-bob", user="bob")
        wanted = {"end_user": "alice"}
        admin = RoleName.TEAM_ADMIN
        both = {**wanted, "files": "1"}
        refused = await it.ask("blue", admin, "DELETE", "/v1/admin/texts", params=both)
        assert (refused.status_code, "no end user" in refused.text) == (400, True)
        gone = (await it.ask("blue", admin, "DELETE", "/v1/admin/texts", params=wanted)).json()
        assert (gone["traces"], gone["responses"]) == (2, 1)
        assert await left(it, tmp_path, PLANTED) == []
        assert await left(it, tmp_path, "alice") == []
        assert "responses" in await left(it, tmp_path, "words-of-bob")
        audit = await it.ask("blue", admin, "GET", "/v1/admin/audit?action=texts.delete")
        assert [entry["team"] for entry in audit.json()["data"]] == ["blue"]
