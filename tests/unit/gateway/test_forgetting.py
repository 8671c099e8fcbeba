"""What is kept of a request goes with a document that it quoted; what it cost and when stays."""

import time
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import KINDS, fresh
from headrace.config import CacheSettings, TraceSettings
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.detail import Detail, Said
from headrace.gateway.forgetting import Forgetting, Forgot
from headrace.gateway.trace_body import decode
from headrace.gateway.traces import Traces, rules
from headrace.observe.context import join
from headrace.observe.metrics import Metrics
from headrace.observe.usage import UsageRecord
from headrace.store import quotes
from headrace.store import traces as trace_store
from headrace.store.answers import Kept
from headrace.store.database import Database
from headrace.store.tables import answers
from headrace.types import Note, Quote, Usage

WORDS = "the-planted-words"
ID, OTHER = "0" * 31 + "1", "0" * 31 + "2"


def quote(document: str) -> Quote:
    return Quote(
        org="acme", team="red", index="notes", document=document, seen_s=int(time.time()) - 10
    )


def take(traces: Traces, id: str, document: str) -> None:
    record = UsageRecord(
        id=id,
        route="/v1/chat/completions",
        status=200,
        finish="stop",
        key_id="k",
        org="acme",
        team="red",
        model="m",
        usage=Usage(prompt_tokens=3, completion_tokens=2),
        started_s=time.time(),
        notes=(
            Note(hop="router", text="to m"),
            Note(hop="citations", text=f"[1] is contradicted: {WORDS}"),
        ),
        quotes=(quote(document),),
    )
    detail = Detail(context=join(id, None), keeps_content=True, max_characters=1000)
    detail.said[0, 0] = Said(text=[WORDS], characters=len(WORDS))
    detail.end()
    traces.take(record, detail)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_quoted_a_document_goes_and_its_trace_stays(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        found = rules(TraceSettings(content_rate=1.0))
        pipeline = Metrics().pipelines.of("store")
        traces = Traces(database, database, None, found, pipeline=pipeline)
        shelf = Shelf(database, CacheSettings())
        now_s = int(time.time())
        for id, document in (("answer-a", "a"), ("answer-b", "b")):
            shelf.put(
                Kept(
                    id=id,
                    org="acme",
                    team="red",
                    key="k",
                    route="r",
                    release="",
                    created_s=now_s,
                    expires_s=now_s + 600,
                    body=WORDS.encode(),
                    quotes=(quote(document),),
                )
            )
        take(traces, ID, "a")
        take(traces, OTHER, "b")
        await shelf.flush()
        await traces.flush()
        work = Forgetting(database, traces=traces, files=None, shelf=shelf, scrub_s=0)
        assert await work.look() == Forgot()
        await database.write(lambda c: quotes.forget(c, "acme", "red", "notes", ["a"], now_s=now_s))
        assert await work.look() == Forgot(answers=1, responses=0, traces=1, files=0)
        assert await work.scrub()
        assert await work.look() == Forgot()
        assert await _answers(database) == ["answer-b"]
        assert await shelf.get("answer-a") is None
        row = await database.read(lambda c: trace_store.get(c, ID))
        assert row is not None
        assert WORDS not in row.body
        record = decode(row).record
        assert [note.hop for note in record.notes] == ["router", "citations"]
        assert record.notes[0].text == "to m"
        assert (record.usage.completion_tokens, row.prompt_tokens) == (2, 3)
        assert await database.read(lambda c: trace_store.content(c, ID)) is None
        kept = await database.read(lambda c: trace_store.content(c, OTHER))
        assert kept is not None
        assert WORDS in kept.answer
        await work.sweep()
        assert await work.look() == Forgot()


async def _answers(database: Database) -> list[str]:
    async def work(connection: AsyncConnection) -> list[str]:
        return list(await connection.scalars(select(answers.c.id)))

    return await database.read(work)
