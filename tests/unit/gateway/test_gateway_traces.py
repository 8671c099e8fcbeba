"""The trace store: what gets in, what never does, and what is left of what was deleted."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import KINDS, fresh
from headrace.config import TraceSettings
from headrace.errors import ConfigError, InvalidParameter, StoreUnavailable
from headrace.gateway.detail import Detail, Said
from headrace.gateway.trace_body import decode
from headrace.gateway.traces import Traces, rules
from headrace.observe.context import join
from headrace.observe.metrics import Metrics
from headrace.observe.usage import UsageRecord
from headrace.store import traces as store
from headrace.store.database import Database, Work
from headrace.store.traces import Policy, Which
from headrace.types import (
    Caller,
    ChatRequest,
    Message,
    Note,
    Role,
    SamplingParams,
    TextPart,
    Usage,
)

PLANTED = "the-secret-of-the-mill"
ALL = TraceSettings(content_rate=1.0)


class Service:
    """A trace store and what its metrics say."""

    def __init__(self, database: Database, settings: TraceSettings = ALL) -> None:
        self.metrics = Metrics()
        self.traces = Traces(
            database,
            database,
            None,
            rules(settings),
            pipeline=self.metrics.pipelines.of("store"),
        )

    def count(self, name: str, reason: str | None = None) -> float:
        families = text_string_to_metric_families(self.metrics.render().decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and sample.labels.get("reason") == reason
        )

    def put(self, *, team: str = "red", user: str = "", text: str = PLANTED, at: float = 0) -> str:
        id = secrets.token_hex(16)
        record = UsageRecord(
            id=id,
            route="/v1/chat/completions",
            status=200,
            finish="stop",
            key_id="key_1",
            org="default",
            team=team,
            model="m",
            end_user=user,
            usage=Usage(prompt_tokens=3, completion_tokens=2),
            started_s=at or time.time(),
            duration_s=0.5,
            notes=(Note(hop="parameters", text="generation_config", facts={"top_p": 0.9}),),
        )
        caller = Caller(org="default", team=team)
        detail = Detail(context=join(id, None))
        detail.keeps_content = self.traces.keeps(caller, id)
        detail.max_characters = self.traces.max_characters
        message = Message(role=Role.USER, parts=(TextPart(text=text),))
        sampling = SamplingParams(temperature=0.5, given=frozenset({"temperature"}))
        detail.asked = ChatRequest(model="m", messages=(message,), sampling=sampling)
        detail.said[0, 0] = Said(text=[f"you said {text}"], characters=len(text))
        detail.end()
        self.traces.take(record, detail)
        return id


@contextlib.asynccontextmanager
async def service(
    kind: str, directory: Path, settings: TraceSettings = ALL
) -> AsyncGenerator[Service]:
    async with fresh(kind, directory) as database:
        made = Service(database, settings)
        await made.traces.refresh()
        yield made


def bytes_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.glob("headrace.db*"))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_stored_is_redacted_and_says_where_values_came_from(
    kind: str, tmp_path: Path
) -> None:
    async with service(kind, tmp_path) as it:
        said = f"\x00 I am alice@example.com, {PLANTED} \N{SNAKE}"
        id = it.put(text=said)
        await it.traces.flush()
        row = await it.traces.database.read(lambda c: store.get(c, id))
        content = await it.traces.database.read(lambda c: store.content(c, id))
        assert row is not None
        assert content is not None
        for text in (content.prompt, content.answer):
            assert "[EMAIL]" in text
            assert "alice" not in text
            assert PLANTED in text
        trace = decode(row)
        assert trace.record.notes[0].facts == {"top_p": 0.9}
        found = {each.name: (each.value, each.origin) for each in trace.parameters}
        assert found["temperature"] == (0.5, "request")
        assert found["top_p"] == (0.9, "generation_config")
        assert found["min_p"] == (0.0, "default")
        assert (row.team, row.duration_us, row.prompt_tokens) == ("red", 500_000, 3)
        assert it.count("headrace_traces_written_total") == 1
        assert it.count("headrace_traces_waiting") == 0


async def test_content_is_off_unless_somebody_wants_it(tmp_path: Path) -> None:
    async with service("sqlite", tmp_path, TraceSettings()) as it:
        it.put()
        await it.traces.flush()
        assert PLANTED.encode() not in bytes_of(tmp_path)

        async def want(connection: AsyncConnection) -> None:
            for policy in (
                Policy("org", "default", 1_000_000, None),
                Policy("team", "blue", 0, None),
            ):
                await store.set_policy(connection, policy)

        await it.traces.database.write(want)
        await it.traces.refresh()
        kept, not_kept = it.put(team="red"), it.put(team="blue")
        await it.traces.flush()
        read = it.traces.database.read
        assert await read(lambda c: store.content(c, kept)) is not None
        assert await read(lambda c: store.content(c, not_kept)) is None


async def test_a_rate_is_a_rate(tmp_path: Path) -> None:
    async with service("sqlite", tmp_path, TraceSettings(content_rate=0.1, rate=0.5)) as it:
        caller = Caller(org="default", team="red")
        ids = [secrets.token_hex(16) for _ in range(4000)]
        kept = sum(it.traces.keeps(caller, id) for id in ids)
        assert 300 < kept < 500
        assert all(it.traces.keeps(caller, id) == it.traces.keeps(caller, id) for id in ids[:50])
        for _ in range(1000):
            it.put()
        assert 400 < it.count("headrace_traces_dropped_total", "rate") < 600


@pytest.mark.parametrize(
    "which",
    [Which(end_user="alice"), Which(team="red"), Which(org="default", team="red"), "id"],
    ids=["end_user", "team", "org and team", "id"],
)
async def test_deleted_is_gone_from_the_bytes(which: Which | str, tmp_path: Path) -> None:
    async with service("sqlite", tmp_path) as it:
        ids: list[str] = []
        for at in range(400):
            mine = at % 3 == 0
            size = (0, 10, 200, 900, 3000, 9000)[at % 6]
            text = f"{PLANTED if mine else 'harmless'}-{at} " + "x" * size
            id = it.put(team="red" if mine else "blue", user="alice" if mine else "bob", text=text)
            if mine:
                ids.append(id)
            if at % 40 == 0:
                await it.traces.flush()
        await it.traces.flush()
        assert PLANTED.encode() in bytes_of(tmp_path)
        wanted = [Which(id=id) for id in ids] if isinstance(which, str) else [which]

        async def work(connection: AsyncConnection) -> int:
            return sum([await store.remove(connection, each) for each in wanted])

        assert await it.traces.database.write(work) == len(ids)
        assert await it.traces.database.scrub(*store.TABLES)
        left = bytes_of(tmp_path)
        assert PLANTED.encode() not in left
        assert b"alice" not in left
        assert left.count(b"harmless") > 400
        rest = await it.traces.database.read(lambda c: store.find(c, Which(), limit=1000))
        assert len(rest) == 400 - len(ids)


async def test_deleted_is_gone_from_postgres(tmp_path: Path) -> None:
    async with service("postgres", tmp_path) as it:
        mine, other = it.put(user="alice"), it.put(user="bob", text="harmless")
        await it.traces.flush()
        write = it.traces.database.write
        assert await write(lambda c: store.remove(c, Which(end_user="alice"))) == 1
        assert await write(lambda c: store.remove(c, Which(end_user="alice"))) == 0
        assert await it.traces.database.scrub(*store.TABLES)
        read = it.traces.database.read
        assert await read(lambda c: store.get(c, mine)) is None
        assert await read(lambda c: store.content(c, mine)) is None
        assert await read(lambda c: store.content(c, other)) is not None
        with pytest.raises(InvalidParameter, match="say which"):
            await write(lambda c: store.remove(c, Which()))


@pytest.mark.parametrize("kind", KINDS)
async def test_each_tenant_has_its_own_retention(kind: str, tmp_path: Path) -> None:
    day = 86_400.0
    async with service(kind, tmp_path) as it:
        for policy in (Policy("team", "short", None, 2), Policy("org", "default", None, 10)):
            await it.traces.database.write(lambda c, policy=policy: store.set_policy(c, policy))
        now = time.time()
        kept = {it.put(team="short", at=now - day), it.put(team="red", at=now - 9 * day)}
        for team, days in (("short", 3), ("red", 11)):
            it.put(team=team, at=now - days * day)
        await it.traces.flush()
        assert await it.traces.purge() == 2
        found = await it.traces.database.read(lambda c: store.find(c, Which(), limit=10))
        assert {row.id for row in found} == kept
        assert it.count("headrace_traces_expired_total") == 2


class Broken(Database):
    """Writes fail while `down`."""

    down = False

    async def write(self, work: Work) -> object:  # pyright: ignore
        if self.down:
            raise StoreUnavailable("the database does not answer")
        return await super().write(work)


async def test_an_outage_delays_and_drops_are_counted(tmp_path: Path) -> None:
    settings = replace(ALL, max_queued=5)
    async with fresh("sqlite", tmp_path) as database:
        broken = Broken(database.engine)
        it = Service(broken, settings)
        await it.traces.refresh()
        broken.down = True
        ids = [it.put(text=f"{at}") for at in range(8)]
        with pytest.raises(StoreUnavailable):
            await it.traces.flush()
        assert it.count("headrace_traces_dropped_total", "queue_full") == 3
        assert it.count("headrace_traces_waiting") == 5
        broken.down = False
        await it.traces.flush()
        found = await database.read(lambda c: store.find(c, Which(), limit=10))
        assert {row.id for row in found} == set(ids[:5])
        await it.traces.flush()  # nothing is written twice, and nothing waits
        assert it.count("headrace_traces_written_total") == 5
        broken.down = True
        it.put()
        await it.traces.close()
        assert it.count("headrace_traces_dropped_total", "shutdown") == 1


async def test_memory_is_bounded_by_bytes(tmp_path: Path) -> None:
    async with service("sqlite", tmp_path, replace(ALL, max_queued_bytes=1 << 20)) as it:
        for _ in range(50):
            it.put(text="y" * 50_000)
        assert it.count("headrace_traces_dropped_total", "queue_full") >= 35
        await it.traces.flush()
        it.put(text="z" * 50_000)
        assert it.count("headrace_traces_waiting") == 1


async def test_one_bad_trace_takes_no_other_along(tmp_path: Path) -> None:
    async with service("sqlite", tmp_path) as it:
        good, odd, bad = it.put(), it.put(user="\0"), it.put(at=1e30)  # beyond any column
        await it.traces.flush()
        assert await it.traces.database.read(lambda c: store.get(c, good)) is not None
        assert await it.traces.database.read(lambda c: store.get(c, odd)) is not None
        assert await it.traces.database.read(lambda c: store.get(c, bad)) is None
        assert it.count("headrace_traces_dropped_total", "error") == 1


async def test_long_texts_are_cut_after_redaction(tmp_path: Path) -> None:
    async with service("sqlite", tmp_path, replace(ALL, max_content_bytes=1024)) as it:
        text = "a" * 1010 + " bob.builder@example.com and more" + "b" * 5000
        id = it.put(text=text)
        await it.traces.flush()
        content = await it.traces.database.read(lambda c: store.content(c, id))
        assert content is not None
        [message] = json.loads(content.prompt)["messages"]
        kept = message["parts"][0]["text"]
        assert kept.endswith("… [cut]")
        assert "bob" not in kept
        assert len(kept) < 1100


async def test_the_running_task_writes_and_follows(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        it = Service(database)
        task = asyncio.create_task(it.traces.run())
        id = it.put()
        end = time.monotonic() + 10
        while await database.read(lambda c: store.get(c, id)) is None:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 1.5),
        ("content_rate", -0.1),
        ("retention_days", 0),
        ("max_queued", 0),
        ("redact", "nowhere:nothing"),
        ("redact", "scrub"),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"traces.{name}"):
        rules(replace(TraceSettings(), **{name: value}))  # pyright: ignore[reportArgumentType]
