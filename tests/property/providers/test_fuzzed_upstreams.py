"""Streams of providers, mutated, cut and torn, through the whole gateway: the client's always ends.

Each example is a good answer of one of four protocols with bytes changed, dropped, repeated or
inserted, JSON values swapped for others of the wrong type, and any chunking (UTF-8 split in the
middle). The client's stream must be what its protocol allows: every frame whole, an end that says
how it went, never a 5xx after the head, no bug in the log.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import HeadraceError
from headrace.gateway.asgi import Served, Services, build
from headrace.observe.metrics import Metrics
from headrace.providers.anthropic_events import MessageReader
from headrace.providers.bedrock_events import ConverseReader
from headrace.providers.gemini_events import ContentReader
from headrace.providers.openai_events import ChunkReader
from headrace.providers.resilience import Breaker, BreakerPolicy, Fallback, Named
from headrace.providers.upstream import EventReader, SseEvents
from headrace.types import ChatRequest, Event, ModelCard
from upstreams import ANTHROPIC_ANSWER, BEDROCK_ANSWER, GEMINI_ANSWER, OPENAI_ANSWER

ANSWERS = {
    "openai": OPENAI_ANSWER,
    "anthropic": ANTHROPIC_ANSWER,
    "gemini": GEMINI_ANSWER,
    "bedrock": BEDROCK_ANSWER,
}
METRICS = Metrics()


def reader(kind: str) -> EventReader:
    match kind:
        case "openai":
            return SseEvents(ChunkReader(choices=1))
        case "anthropic":
            return SseEvents(MessageReader())
        case "gemini":
            return SseEvents(ContentReader())
        case _:
            return ConverseReader()


@dataclass
class Torn:
    """A provider whose bytes come in these chunks."""

    kind: str
    chunks: Iterable[bytes]

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        events = reader(self.kind)
        for chunk in self.chunks:
            if events.done:
                break
            for event in events.push(chunk):
                yield event
        last: Iterable[Event] = events.end()
        for event in last:
            yield event


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        2**70,
        1.5,
        float("nan"),
        "",
        "x",
        "\ud800",
        [],
        [1],
        [None],
        {},
        {"a": {}},
    ]
)


def _swap(tree: Any, at: int, value: Any) -> Any:
    """The tree with its `at`-th value replaced."""
    count = 0

    def walk(node: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 == at:
            return value
        if isinstance(node, dict):
            return {key: walk(item) for key, item in node.items()}  # pyright: ignore
        if isinstance(node, list):
            return [walk(item) for item in node]  # pyright: ignore
        return node

    return walk(tree)


@st.composite
def torn(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    kind = draw(st.sampled_from([*ANSWERS]))
    data = ANSWERS[kind]
    if kind != "bedrock" and draw(st.booleans()):
        frames = data.split(b"\n\n")
        at = draw(st.integers(0, len(frames) - 1))
        head, mark, payload = frames[at].partition(b"data: ")
        try:
            tree = json.loads(payload)
        except ValueError:
            tree = None
        if mark and tree is not None:
            changed = _swap(tree, draw(st.integers(0, 30)), draw(ODD))
            frames[at] = head + mark + json.dumps(changed).encode("utf-8", "surrogatepass")
        if draw(st.booleans()):
            frames.insert(draw(st.integers(0, len(frames))), draw(st.sampled_from(frames)))
        data = b"\n\n".join(frames)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        to = at + draw(st.integers(0, 40))
        match draw(st.sampled_from(["flip", "drop", "repeat", "insert", "cut", "zero"])):
            case "flip" if data:
                data = (
                    data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
                )
            case "drop":
                data = data[:at] + data[to:]
            case "repeat":
                data = data[:to] + data[at:]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=20)) + data[at:]
            case "cut":
                data = data[:at]
            case _:
                data = data[:at] + bytes(len(data[at:to])) + data[to:]
    size = draw(st.sampled_from([1, 2, 3, 7, 64, 1 << 16]))
    return kind, [data[start : start + size] for start in range(0, len(data), size)]


async def call(backend: Any, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """One request to the application, in this process."""
    card = ModelCard(name="m", context_tokens=0, created_s=1)
    app = build(Services(models={"m": Served(card=card, chat=backend)}, metrics=METRICS))
    raw = json.dumps(body).encode()
    sent: list[Any] = []
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"content-length", str(len(raw)).encode())],
    }
    await app(scope, receive, send)
    assert not sent[-1].get("more_body")
    return sent[0]["status"], b"".join(item.get("body", b"") for item in sent[1:])


def payloads(raw: bytes) -> list[Any]:
    """The data of every frame; every one of them must be whole."""
    assert raw.endswith(b"\n\n")
    found: list[Any] = []
    for frame in raw.decode("utf-8").removesuffix("\n\n").split("\n\n"):
        data = frame.split("\n")[-1]
        assert data.startswith("data: ")
        found.append(data[6:] if data == "data: [DONE]" else json.loads(data[6:]))
    return found


def check_openai(status: int, raw: bytes) -> None:
    if status != 200:
        assert "message" in json.loads(raw)["error"]
        return
    frames = payloads(raw)
    if frames[-1] == "[DONE]":
        reasons = [c["finish_reason"] for f in frames[:-1] for c in f["choices"]]
        assert [reason for reason in reasons if reason] == reasons[-1:]
        assert frames[-2]["usage"]["total_tokens"] >= 0
        assert not any("error" in frame for frame in frames[:-1])
    else:
        assert "message" in frames[-1]["error"]
        assert not any("error" in frame for frame in frames[:-1])


def check_anthropic(status: int, raw: bytes) -> None:
    if status != 200:
        assert json.loads(raw)["type"] == "error"
        return
    kinds = [frame["type"] for frame in payloads(raw)]
    assert kinds[0] == "message_start"
    assert kinds[-1] in ("message_stop", "error")
    assert kinds.count("message_stop") + kinds.count("error") == 1
    if kinds[-1] == "message_stop":
        assert kinds[-2] == "message_delta"
        assert kinds.count("content_block_start") == kinds.count("content_block_stop")


def check_responses(status: int, raw: bytes) -> None:
    if status != 200:
        assert "message" in json.loads(raw)["error"]
        return
    frames = payloads(raw)
    assert [frame["sequence_number"] for frame in frames] == [*range(len(frames))]
    kinds = [frame["type"] for frame in frames]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete", "response.failed")
    assert ("error" in kinds) == (kinds[-1] == "response.failed")
    if kinds[-1] != "response.failed":
        added, done = "response.output_item.added", "response.output_item.done"
        assert kinds.count(added) == kinds.count(done) == len(frames[-1]["response"]["output"])


ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def through(kind: str, chunks: list[bytes]) -> None:
    def backend() -> Any:
        return Fallback([Breaker("p", Named("p", Torn(kind, chunks)), BreakerPolicy())])

    options = {"stream": True, "stream_options": {"include_usage": True}}
    check_openai(*await call(backend(), "/v1/chat/completions", ASK | options))
    status, raw = await call(backend(), "/v1/chat/completions", ASK)
    assert (status == 200) == ("choices" in json.loads(raw))
    check_anthropic(*await call(backend(), "/v1/messages", ASK | {"stream": True, "max_tokens": 9}))
    question = {"model": "m", "input": "hi", "stream": True}
    check_responses(*await call(backend(), "/v1/responses", question))
    status, raw = await call(backend(), "/v1/messages", ASK | {"max_tokens": 9})
    assert (status == 200) == (json.loads(raw)["type"] == "message")


class _Bugs(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


LOOP = asyncio.new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def _close() -> Iterator[None]:
    yield
    LOOP.close()


def check(stream: tuple[str, list[bytes]], loop: asyncio.AbstractEventLoop) -> None:
    bugs = _Bugs()
    logger = logging.getLogger("headrace.gateway")
    logger.addHandler(bugs)
    try:
        loop.run_until_complete(through(*stream))
    finally:
        logger.removeHandler(bugs)
    assert not bugs.seen


@settings(max_examples=300, deadline=None)
@given(stream=torn())
def test_every_stream_ends_well(stream: tuple[str, list[bytes]]) -> None:
    check(stream, LOOP)


@pytest.mark.slow
@settings(
    max_examples=10_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(stream=torn())
def test_ten_thousand_streams_end_well(stream: tuple[str, list[bytes]]) -> None:
    check(stream, LOOP)


@pytest.mark.parametrize("kind", [*ANSWERS])
def test_the_good_answers_are_good(kind: str) -> None:
    async def run() -> None:
        status, raw = await call(Torn(kind, [ANSWERS[kind]]), "/v1/chat/completions", ASK)
        assert status == 200
        message = json.loads(raw)["choices"][0]["message"]
        assert message["content"] == "żółw 🐢"
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"a": 1}

    LOOP.run_until_complete(run())


@settings(max_examples=100, deadline=None)
@given(stream=torn(), size=st.integers(1, 9))
def test_events_do_not_depend_on_the_cuts(stream: tuple[str, list[bytes]], size: int) -> None:
    kind, chunks = stream
    data = b"".join(chunks)

    def read(pieces: list[bytes]) -> tuple[list[Event], str]:
        events, found = reader(kind), list[Event]()
        try:
            for piece in pieces:
                for event in events.push(piece):
                    found.append(event)
                if events.done:
                    break
            found += events.end()
        except HeadraceError as error:
            return found, type(error).__name__
        return found, ""

    whole, whole_error = read([data])
    cut, cut_error = read([data[at : at + size] for at in range(0, len(data), size)])
    if kind in ("anthropic", "bedrock"):  # `Started` has the time
        whole, cut = whole[1:], cut[1:]
    if whole_error == cut_error == "":
        assert whole == cut
