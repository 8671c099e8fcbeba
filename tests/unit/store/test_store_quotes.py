"""What quotes a document is due when the document goes, and nothing else is."""

from pathlib import Path

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import KINDS, fresh
from headrace.store import quotes, responses
from headrace.store.database import Database
from headrace.store.quotes import KEPT_S, Holder
from headrace.store.responses import Kept, Owner
from headrace.store.tables import batches
from headrace.types import Quote

NOW = 1_800_000_000


def quote(document: str, *, seen_s: int = NOW) -> Quote:
    return Quote(org="acme", team="red", index="notes", document=document, seen_s=seen_s)


async def record(
    database: Database,
    request: str,
    *found: Quote,
    continues: tuple[str, ...] = (),
    batch: str = "",
) -> None:
    holder = Holder(request=request, batch=batch)
    await database.write(lambda c: quotes.record(c, holder, found, continues=continues))


async def forget(
    database: Database, *documents: str, now_s: int = NOW, index: str = "notes"
) -> None:
    await database.write(lambda c: quotes.forget(c, "acme", "red", index, documents, now_s=now_s))


async def due(database: Database) -> list[str]:
    found = await database.read(quotes.due)
    return sorted(holder.request or holder.answer for holder in found)


@pytest.mark.parametrize("kind", KINDS)
async def test_who_quotes_what_went_is_due_and_no_other(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await record(database, "one", quote("a"), quote("b"), quote("a"))
        await record(database, "one", quote("a"))  # its trace is written after its response
        await record(database, "two", quote("b"))
        await record(database, "new", quote("a", seen_s=NOW + 1))
        await database.write(lambda c: quotes.record(c, Holder(answer="kept"), [quote("a")]))
        assert await due(database) == []
        await forget(database, "a", index="other")
        assert await due(database) == []
        await forget(database, "a")
        assert await due(database) == ["kept", "one"]
        holders = await database.read(quotes.due)
        await database.write(lambda c: quotes.drop(c, holders))
        assert await due(database) == []
        await record(database, "late", quote("a"))  # it was under way then
        assert await due(database) == ["late"]
        await forget(database, quotes.EVERY, now_s=NOW + 5)
        assert await due(database) == ["late", "new", "two"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_quotes_what_it_continues(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await record(database, "one", quote("a"))
        await record(database, "two", quote("b"), continues=("one",))
        kept = Kept(id="resp_three", owner=Owner(org="acme", team="red"), continues=("two",))
        await database.write(lambda c: responses.keep(c, kept))
        await forget(database, "a", "c")
        assert await due(database) == ["one", "three", "two"]


async def test_lines_of_a_batch_wait_for_its_end(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:

        async def begin(connection: AsyncConnection) -> None:
            await connection.execute(
                insert(batches).values(id="batch_1", state="in_progress", output_file="file-1")
            )

        await database.write(begin)
        await record(database, "line", quote("a"), batch="batch_1")
        await forget(database, "a")
        assert await due(database) == []
        await database.write(lambda c: c.execute(update(batches).values(state="completed")))
        assert await database.read(quotes.due) == [Holder(request="line", batch="batch_1")]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_says_nothing_any_more_is_swept(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await record(database, "traced", quote("a"))
        await record(database, "old", quote("a", seen_s=NOW - 100 * KEPT_S))
        kept = Kept(
            id="resp_lasting",
            owner=Owner(org="acme", team="red"),
            quotes=(quote("a", seen_s=NOW - 100 * KEPT_S),),
        )
        await database.write(lambda c: responses.keep(c, kept))
        gone = quote("a", seen_s=NOW - 2 * KEPT_S)
        await database.write(lambda c: quotes.record(c, Holder(answer="ended"), [gone]))
        await forget(database, "a", now_s=NOW - KEPT_S - 1)
        await forget(database, "b")
        await database.write(lambda c: quotes.sweep(c, now_s=NOW, traces_s=10 * KEPT_S))

        async def left(connection: AsyncConnection) -> tuple[list[str], list[str]]:
            held = select(quotes.quotes.c.request).order_by(quotes.quotes.c.request)
            noted = select(quotes.forgotten.c.document)
            return list(await connection.scalars(held)), list(await connection.scalars(noted))

        assert await database.read(left) == (["lasting", "traced"], ["b"])
