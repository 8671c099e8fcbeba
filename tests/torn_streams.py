"""Torn streams of providers through the whole gateway, in this process: tearing them, and judging
what each client surface then says.
"""

import asyncio
import json
import logging
import random
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from headrace.gateway.asgi import Served, Services, build
from headrace.observe.metrics import Metrics
from headrace.providers.anthropic_events import MessageReader
from headrace.providers.bedrock_events import ConverseReader
from headrace.providers.gemini_events import ContentReader
from headrace.providers.openai_events import ChunkReader
from headrace.providers.resilience import Breaker, BreakerPolicy, Fallback, Named
from headrace.providers.upstream import EventReader, SseEvents
from headrace.types import ChatRequest, Event, ModelCard
from headrace.wire.sse import DONE
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


ODD: tuple[Any, ...] = (
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
)
"""Values of other types than a field has."""
_HUGE = 300_000
_BAD_UTF8 = (b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x90")


def swap(tree: Any, at: int, value: Any) -> Any:
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


def frames_of(kind: str) -> list[bytes]:
    """A good answer, one event an item."""
    data = ANSWERS[kind]
    if kind != "bedrock":
        return [frame + b"\n\n" for frame in data.split(b"\n\n") if frame]
    frames: list[bytes] = []
    while data:
        [size] = struct.unpack(">I", data[:4])
        frames.append(data[:size])
        data = data[size:]
    return frames


def tear(chance: random.Random) -> tuple[str, list[bytes]]:
    """A provider's kind and what it sends: one to four things are wrong with it."""
    kind = chance.choice([*ANSWERS])
    frames = frames_of(kind)
    for _ in range(chance.randint(0, 2)):
        _tear_frames(chance, kind, frames)
    data = b"".join(frames)
    for _ in range(chance.randint(0 if len(frames) != len(frames_of(kind)) else 1, 2)):
        data = _tear_bytes(chance, data)
    size = chance.choice([1, 3, 7, 64, 1 << 16])
    if len(data) > 50_000:
        size = max(size, 1024)
    return kind, [data[start : start + size] for start in range(0, len(data), size)]


def _tear_frames(chance: random.Random, kind: str, frames: list[bytes]) -> None:
    at, to = (chance.randrange(len(frames)) for _ in range(2))
    match chance.choice(["twice", "order", "drop", "backwards", "value", "value", "huge"]):
        case "twice":  # an id, a start or an end for the second time
            frames.insert(to, frames[at])
        case "order":
            frames[at], frames[to] = frames[to], frames[at]
        case "drop" if len(frames) > 1:
            del frames[at]
        case "backwards":
            frames.reverse()
        case "huge" if kind != "bedrock":
            frames.insert(at, b"data: " + b"x" * _HUGE + chance.choice([b"\n\n", b""]))
        case _ if kind != "bedrock":
            head, mark, payload = frames[at].partition(b"data: ")
            try:
                changed = swap(json.loads(payload), chance.randint(0, 30), chance.choice(ODD))
            except ValueError:
                return
            spelled = json.dumps(changed).encode("utf-8", "surrogatepass")
            frames[at] = head + mark + spelled + b"\n\n"
        case _:
            pass


def _tear_bytes(chance: random.Random, data: bytes) -> bytes:
    if not data:
        return chance.randbytes(10)
    at = chance.randrange(len(data))
    to = at + chance.randint(0, 40)
    match chance.choice(["flip", "drop", "repeat", "insert", "cut", "zero", "utf8", "nothing"]):
        case "flip":
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        case "drop":
            return data[:at] + data[to:]
        case "repeat":
            return data[:to] + data[at:]
        case "insert":
            return data[:at] + chance.randbytes(chance.randint(1, 20)) + data[at:]
        case "cut":
            return data[:at]
        case "zero":
            return data[:at] + bytes(len(data[at:to])) + data[to:]
        case "utf8":
            return data[:at] + chance.choice(_BAD_UTF8) + data[at:]
        case _:
            return b""


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
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-length", str(len(raw)).encode())],
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
    frames = payloads(raw.removesuffix(DONE))
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


def check(stream: tuple[str, list[bytes]], loop: asyncio.AbstractEventLoop) -> None:
    """Every surface's answer to this stream is what its protocol allows, and no bug is logged."""
    bugs = _Bugs()
    logger = logging.getLogger("headrace.gateway")
    logger.addHandler(bugs)
    try:
        loop.run_until_complete(asyncio.wait_for(through(*stream), 30))
    finally:
        logger.removeHandler(bugs)
    assert not bugs.seen
