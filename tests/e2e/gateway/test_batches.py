"""OpenAI's Batches with the official client: each line answered once, billed once, in idle time."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from sqlalchemy import delete, select, update

from databases import KINDS
from headrace.errors import Overloaded, RateLimitExceeded, UpstreamError
from headrace.gateway.batch_runner import BatchRunner
from headrace.store.tables import batch_lines, batches, files
from headrace.testing import Step, reply
from headrace.types import Priority
from stored_gateway import Stored, stored

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = "/v1/chat/completions"
SCRIPT: list[Any] = []
"""What the backend does next time, for all tests; empty = it answers with the prompt."""


def play(request: Any) -> Iterable[Step]:
    if SCRIPT:
        step: Any = SCRIPT.pop(0)
        return [step] if isinstance(step, BaseException) else step(request)
    return answer(request)


def answer(request: Any, *, pause_s: float = 0.0) -> Iterator[Step]:
    messages = getattr(request, "messages", None)
    said = messages[-1].text if messages else str(request.prompt)
    return reply(request, (f"re: {said}",), pause_s=pause_s)


@pytest_asyncio.fixture(params=KINDS, scope="module", loop_scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncGenerator[Stored]:
    directory = tmp_path_factory.mktemp("batches")
    async with stored(directory, kind=request.param, script=play) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(shared: Stored) -> AsyncGenerator[Stored]:
    """Empty for each test."""
    SCRIPT.clear()
    shared.records.seen.clear()
    yield shared
    for table in (batches, files):
        await shared.database.write(lambda c, t=table: c.execute(delete(t)))
    await shared.files.clean(age_s=-5.0)


def line(at: int, *, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": f"q{at}"}]} if url == CHAT else {}
    return {
        "custom_id": f"c{at}",
        "method": "POST",
        "url": url,
        "body": {"model": "m", **asked, **body},
    }


def jsonl(lines: Iterable[Any]) -> bytes:
    return b"".join(
        (item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in lines
    )


async def begin(
    gateway: Stored, lines: Iterable[Any], *, endpoint: Any = CHAT, **options: Any
) -> openai.types.Batch:
    client = gateway.openai()
    file = await client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options
    )


async def wait(gateway: Stored, id: str, *states: str) -> openai.types.Batch:
    client = gateway.openai()
    async with asyncio.timeout(20):
        while True:
            batch = await client.batches.retrieve(id)
            if batch.status in states:
                return batch
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


async def read(gateway: Stored, id: str | None) -> list[dict[str, Any]]:
    assert id is not None
    content = await gateway.openai().files.content(id)
    return [json.loads(text) for text in content.text.splitlines()]


async def test_a_batch_from_upload_to_answers(gateway: Stored) -> None:
    made = await begin(
        gateway,
        [line(at) for at in range(5)],
        metadata={"job": "nightly"},
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made.status, made.metadata, made.endpoint) == ("validating", {"job": "nightly"}, CHAT)
    assert made.expires_at == made.created_at + 24 * 3600
    async with gateway.working(gateway.runner()):
        batch = await wait(gateway, made.id, "completed")
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 5, 0)
    assert batch.error_file_id is None
    assert batch.model == "m"
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (35, 5)
    assert batch.usage.input_tokens_details.cached_tokens == 10
    assert batch.in_progress_at
    assert batch.finalizing_at
    assert batch.completed_at
    rows = await read(gateway, batch.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"c{at}" for at in range(5)]
    for at, row in enumerate(rows):
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        body = row["response"]["body"]
        assert body["choices"][0]["message"]["content"] == f"re: q{at}"
        assert body["id"] == f"chatcmpl-{row['response']['request_id']}"
    file = await gateway.openai().files.retrieve(batch.output_file_id or "")
    assert file.purpose == "batch_output"
    assert file.expires_at == file.created_at + 3600
    lines = [record for record in gateway.records.seen if record.route == CHAT]
    assert len({record.id for record in lines}) == 5
    assert {(record.team, record.key_id) for record in lines} == {
        ("red", gateway.keys["red"].key.id)
    }
    backend: Any = gateway.live.services.models["m"].chat
    assert {request.priority for request in backend.requests[-5:]} == {Priority.BATCH}
    left = await gateway.database.read(lambda c: c.scalar(select(batch_lines.c.line)))
    assert left is None


@pytest.mark.parametrize(
    ("endpoint", "body", "found"),
    [
        ("/v1/completions", {"prompt": "hi"}, lambda b: b["choices"][0]["text"]),
        ("/v1/responses", {"input": "hi"}, lambda b: b["output"][0]["content"][0]["text"]),
    ],
)
async def test_other_endpoints(gateway: Stored, endpoint: str, body: Any, found: Any) -> None:
    made = await begin(gateway, [line(0, url=endpoint, **body)], endpoint=endpoint)
    async with gateway.working(gateway.runner()):
        batch = await wait(gateway, made.id, "completed")
    [row] = await read(gateway, batch.output_file_id)
    assert found(row["response"]["body"]) == "re: hi"


async def test_lines_that_fail_are_in_the_error_file(gateway: Stored) -> None:
    made = await begin(gateway, [line(0), line(1, temperature=99), line(2, colour="red"), line(3)])
    async with gateway.working(gateway.runner()):
        batch = await wait(gateway, made.id, "completed")
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 2)
    good, bad = await read(gateway, batch.output_file_id), await read(gateway, batch.error_file_id)
    assert [row["custom_id"] for row in good] == ["c0", "c3"]
    assert [row["custom_id"] for row in bad] == ["c1", "c2"]
    for row, param in zip(bad, ("temperature", "colour"), strict=True):
        assert row["response"]["status_code"] == 400
        assert row["response"]["body"]["error"]["param"] == param


WRONG: list[tuple[list[Any], str, int | None]] = [
    ([line(0), b"{", line(2)], "invalid_json_line", 2),
    ([b"\xff\xfe"], "invalid_json_line", 1),
    ([line(0), line(0)], "duplicate_custom_id", 2),
    ([line(0) | {"method": "GET"}], "invalid_method", 1),
    ([line(0) | {"url": "/v1/embeddings"}], "mismatched_url", 1),
    ([line(0) | {"custom_id": ""}], "invalid_custom_id", 1),
    ([line(0) | {"colour": 1}], "invalid_line", 1),
    ([{"custom_id": "a"}], "invalid_line", 1),
    ([line(0, stream=True)], "invalid_request_body", 1),
    ([line(0) | {"body": 1}], "invalid_request_body", 1),
    ([line(0, model="other")], "model_not_found", 1),
    ([line(0), line(1, model="n")], "mismatched_model", 2),
    ([line(at) for at in range(21)], "too_many_tasks", 21),
    ([], "empty_file", None),
    ([b"", b"  "], "empty_file", None),
]


async def test_what_is_no_batch_fails_and_says_where(gateway: Stored) -> None:
    made = [(await begin(gateway, lines)).id for lines, _, _ in WRONG]
    async with gateway.working(gateway.runner()):
        for id, (_, code, number) in zip(made, WRONG, strict=True):
            batch = await wait(gateway, id, "failed")
            assert batch.errors is not None
            assert batch.errors.data
            fault = batch.errors.data[0]
            assert (fault.code, fault.line) == (code, number), fault
            assert fault.message
            assert batch.failed_at
    assert not [record for record in gateway.records.seen if record.route == CHAT]


async def test_a_wrong_call_is_named(gateway: Stored) -> None:
    client = gateway.openai()
    batch_file = await client.files.create(file=("a", b"x"), purpose="batch")
    other = await client.files.create(file=("a", b"x"), purpose="user_data")
    good: dict[str, Any] = {
        "input_file_id": batch_file.id,
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    for change, status, said in (
        ({"input_file_id": other.id}, 400, "purpose user_data"),
        ({"input_file_id": "file-x"}, 404, "there is no file"),
        ({"endpoint": "/v1/videos"}, 400, "not served here"),
        ({"endpoint": "/v1/messages"}, 400, "it is one of"),
        ({"completion_window": "1h"}, 400, "it is 24h"),
        ({"metadata": {"a": 1}}, 400, "takes a string"),
        ({"metadata": {str(at): "x" for at in range(17)}}, 400, "17 pairs"),
        ({"colour": "red"}, 400, "colour"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "3600"),
    ):
        answered = await gateway.call("POST", "/v1/batches", json=good | change)
        assert answered.status_code == status, answered.text
        assert said in answered.json()["error"]["message"]
    answered = await gateway.call("POST", "/v1/batches", team="blue", json=good)
    assert answered.status_code == 404  # another team's file is not there


async def test_another_teams_batch_is_not_there(gateway: Stored) -> None:
    made = await begin(gateway, [line(0)])
    blue = gateway.openai("blue")
    for call in (blue.batches.retrieve, blue.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)
    assert (await blue.batches.list()).data == []
    mine = [batch.id async for batch in gateway.openai().batches.list(limit=1)]
    assert mine == [made.id]
    with pytest.raises(openai.ConflictError, match="cancel that first"):
        await gateway.openai().files.delete(made.input_file_id)


async def test_cancelling_ends_what_runs_and_keeps_what_was_answered(gateway: Stored) -> None:
    slow = [lambda r: answer(r, pause_s=30.0)]
    SCRIPT[:] = [answer, *slow]
    made = await begin(gateway, [line(at) for at in range(3)])
    backend: Any = gateway.live.services.models["m"].chat
    before = len(backend.requests)
    async with gateway.working(gateway.runner(local_lines=1)):
        await until(lambda: len(backend.requests) == before + 2)
        cancelling = await gateway.openai().batches.cancel(made.id)
        assert cancelling.status in ("cancelling", "cancelled")
        batch = await wait(gateway, made.id, "cancelled")
    assert backend.running == 0
    assert batch.cancelling_at
    assert batch.cancelled_at
    [good] = await read(gateway, batch.output_file_id)
    bad = await read(gateway, batch.error_file_id)
    assert good["custom_id"] == "c0"
    assert [row["error"]["code"] for row in bad] == ["batch_cancelled"] * 2
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    with pytest.raises(openai.ConflictError, match="is cancelled"):
        await gateway.openai().batches.cancel(made.id)


async def test_what_is_not_done_in_time_expires(gateway: Stored) -> None:
    SCRIPT[:] = [answer, lambda r: answer(r, pause_s=30.0)]
    made = await begin(gateway, [line(0), line(1)])
    backend: Any = gateway.live.services.models["m"].chat
    async with gateway.working(gateway.runner(local_lines=1)):
        await until(lambda: backend.running == 1 and not SCRIPT)
        overdue = update(batches).values(expires_s=1)
        await gateway.database.write(lambda c: c.execute(overdue))
        batch = await wait(gateway, made.id, "expired")
    assert batch.expired_at
    [bad] = await read(gateway, batch.error_file_id)
    assert (bad["custom_id"], bad["error"]["code"]) == ("c1", "batch_expired")
    assert len(await read(gateway, batch.output_file_id)) == 1


async def test_refusals_wait_and_failures_are_tried_again(gateway: Stored) -> None:
    SCRIPT[:] = [
        *[Overloaded("full", retry_after_s=0)] * 5,
        RateLimitExceeded("enough", retry_after_s=0),
        UpstreamError("broken"),
        UpstreamError("broken"),
    ]
    for error in SCRIPT:
        error.retry_after_s = 0
    made = await begin(gateway, [line(0)])
    async with gateway.working(gateway.runner(local_lines=1)):
        batch = await wait(gateway, made.id, "completed")
    assert len(await read(gateway, batch.output_file_id)) == 1
    seen = [record for record in gateway.records.seen if record.route == CHAT]
    assert len({record.id for record in seen}) == len(seen) == 9


async def test_three_failures_are_the_answer(gateway: Stored) -> None:
    SCRIPT[:] = [UpstreamError("broken")] * 3
    SCRIPT[0].retry_after_s = 0
    made = await begin(gateway, [line(0)])
    async with gateway.working(gateway.runner()):
        batch = await wait(gateway, made.id, "completed")
    [bad] = await read(gateway, batch.error_file_id)
    assert bad["response"]["status_code"] == 502


async def test_replicas_share_the_lines_and_none_is_asked_twice(gateway: Stored) -> None:
    made = [(await begin(gateway, [line(at) for at in range(10)])).id for _ in range(3)]
    backend: Any = gateway.live.services.models["m"].chat
    before = len(backend.requests)
    runners: list[BatchRunner] = [gateway.runner(local_lines=4) for _ in range(3)]
    async with gateway.working(*runners):
        ended = [await wait(gateway, id, "completed") for id in made]
    assert len(backend.requests) == before + 30
    asked = Counter(request.trace for request in backend.requests[before:])
    assert set(asked.values()) == {1}
    for batch in ended:
        rows = await read(gateway, batch.output_file_id)
        assert [row["custom_id"] for row in rows] == [f"c{at}" for at in range(10)]


async def test_a_stopped_replica_leaves_its_lines_to_the_next(gateway: Stored) -> None:
    SCRIPT[:] = [lambda r: answer(r, pause_s=30.0)] * 2
    made = await begin(gateway, [line(0), line(1)])
    first = gateway.runner()
    async with gateway.working(first):
        await until(lambda: not SCRIPT)
    async with gateway.working(gateway.runner()):
        batch = await wait(gateway, made.id, "completed")
    assert len(await read(gateway, batch.output_file_id)) == 2


async def test_a_silent_replica_loses_its_lines_and_what_it_says_then_is_refused(
    gateway: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a process hangs: its lease runs out, the line is another's, it comes back."""
    release = asyncio.Event()
    made = await begin(gateway, [line(0)])
    first, second = gateway.runner(lease_s=0), gateway.runner()
    held: list[Any] = []
    keep = first._keep

    async def late(batch: Any, line: Any, answer: Any) -> None:
        held.append(answer)
        await release.wait()
        await keep(batch, line, answer)

    monkeypatch.setattr(first, "_keep", late)
    async with asyncio.timeout(20):
        while not held:
            await first.round()
            await asyncio.sleep(0.01)
    await asyncio.sleep(1.1)  # the database's clock counts seconds
    async with gateway.working(second):
        batch = await wait(gateway, made.id, "completed")
    release.set()
    await until(lambda: not first.busy)
    assert [row["custom_id"] for row in await read(gateway, batch.output_file_id)] == ["c0"]
    batch = await gateway.openai().batches.retrieve(made.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1
    seen = [record.id for record in gateway.records.seen if record.route == CHAT]
    assert len(seen) == 2
    assert len(set(seen)) == 1  # one id, so the ledger books it once
