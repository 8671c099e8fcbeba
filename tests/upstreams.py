# ruff: noqa: E501 - events are read best as they come, one a line
"""A provider that says what a test wants, on a real socket in a thread of its own.

Official SDKs and our adapters are driven against the same one.
"""

import asyncio
import json
import struct
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import loopback


@dataclass(frozen=True)
class Say:
    """An answer."""

    body: bytes = b""
    status: int = 200
    kind: str = "text/event-stream"
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    """Close without the end of the body."""
    hang_s: float = 0.0
    """Before the head."""
    stall_s: float = 0.0
    """After the body, before its end."""
    piece: int = 0
    """Bytes of each chunk; 0 = all at once."""


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class FakeUpstream:
    url: str
    answers: Callable[[Asked], Say]
    asked: list[Asked] = field(default_factory=list[Asked])
    connections: int = 0
    cut_short: int = 0
    """Answers whose client left before their end."""


@contextmanager
def upstream(answers: Say | Sequence[Say] | Callable[[Asked], Say]) -> Generator[FakeUpstream]:
    """Serve; of a sequence the last is repeated."""

    def pick(asked: Asked) -> Say:
        if isinstance(answers, Say):
            return answers
        if callable(answers):
            return answers(asked)
        return answers[min(len(fake.asked), len(answers)) - 1]

    fake = FakeUpstream(url="", answers=pick)

    def connected() -> None:
        fake.connections += 1

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await _serve_one(fake, reader, writer)

    with loopback.serving(exchange, connected=connected) as fake.url:
        yield fake


async def _serve_one(
    fake: FakeUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    path = head[0].split(" ")[1]
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    asked = Asked(path, headers, body)
    fake.asked.append(asked)
    say = fake.answers(asked)
    leaving = asyncio.ensure_future(reader.read(1))
    try:
        if say.hang_s and await _left(leaving, say.hang_s):
            fake.cut_short += 1
            return False
        lines = [f"HTTP/1.1 {say.status} X", f"Content-Type: {say.kind}"]
        lines += [f"{name}: {value}" for name, value in say.headers]
        lines.append("Transfer-Encoding: chunked")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        size = say.piece or max(len(say.body), 1)
        for start in range(0, len(say.body), size):
            piece = say.body[start : start + size]
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
            if say.piece:
                await asyncio.sleep(0)
        if say.stall_s and await _left(leaving, say.stall_s):
            fake.cut_short += 1
            return False
        if say.cut:
            await writer.drain()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    return headers.get("connection", "").lower() != "close"


async def _left(leaving: "asyncio.Future[bytes]", seconds: float) -> bool:
    done, _ = await asyncio.wait({leaving}, timeout=seconds)
    return bool(done)


def sse(*events: Any, named: bool = False, done: bool = False) -> bytes:
    """Events as a stream."""
    frames = b""
    for event in events:
        if named:
            frames += b"event: " + event["type"].encode() + b"\n"
        frames += b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
    return frames + (b"data: [DONE]\n\n" if done else b"")


def aws_event(kind: str, payload: Any, *, message_type: str = "event") -> bytes:
    """One message of AWS's event stream."""
    name = ":event-type" if message_type == "event" else ":exception-type"
    headers = b""
    for key, value in ((name, kind), (":message-type", message_type)):
        headers += bytes([len(key)]) + key.encode() + b"\x07"
        headers += struct.pack(">H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


OPENAI_ANSWER = sse(
    {"id": "c", "model": "m", "created": 5, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"id": "c", "model": "m", "created": 5, "choices": [{"index": 0, "delta": {"content": "żó"}}]},
    {"id": "c", "model": "m", "created": 5, "choices": [{"index": 0, "delta": {"content": "łw 🐢"}}]},
    {"id": "c", "model": "m", "created": 5, "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]}}]},
    {"id": "c", "model": "m", "created": 5, "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]}}]},
    {"id": "c", "model": "m", "created": 5, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    {"id": "c", "model": "m", "created": 5, "choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39, "prompt_tokens_details": {"cached_tokens": 20}, "completion_tokens_details": {"reasoning_tokens": 4}}},
    done=True,
)  # fmt: skip

ANTHROPIC_ANSWER = sse(
    {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 6, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 20, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "żółw "}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "🐢"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a": '}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
    named=True,
)  # fmt: skip

GEMINI_ANSWER = sse(
    {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}], "role": "model"}, "index": 0}], "usageMetadata": {"promptTokenCount": 30, "totalTokenCount": 30}, "modelVersion": "gemini", "responseId": "r1"},
    {"candidates": [{"content": {"parts": [{"text": "żółw 🐢"}], "role": "model"}, "index": 0}], "usageMetadata": {"promptTokenCount": 30, "candidatesTokenCount": 3, "totalTokenCount": 33}, "modelVersion": "gemini", "responseId": "r1"},
    {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"}], "role": "model"}, "finishReason": "STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 30, "cachedContentTokenCount": 20, "candidatesTokenCount": 5, "thoughtsTokenCount": 4, "totalTokenCount": 39}, "modelVersion": "gemini", "responseId": "r1"},
)  # fmt: skip

BEDROCK_ANSWER = b"".join(
    [
        aws_event("messageStart", {"role": "assistant"}),
        aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}),
        aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "sig"}}}),
        aws_event("contentBlockStop", {"contentBlockIndex": 0}),
        aws_event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "żółw "}}),
        aws_event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "🐢"}}),
        aws_event("contentBlockStop", {"contentBlockIndex": 1}),
        aws_event("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t1", "name": "f"}}}),
        aws_event("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"a": 1}'}}}),
        aws_event("contentBlockStop", {"contentBlockIndex": 2}),
        aws_event("messageStop", {"stopReason": "tool_use"}),
        aws_event("metadata", {"usage": {"inputTokens": 6, "outputTokens": 9, "totalTokens": 39, "cacheReadInputTokens": 20, "cacheWriteInputTokens": 4}, "metrics": {"latencyMs": 5}}),
    ]
)  # fmt: skip

EVENT_STREAM = "application/vnd.amazon.eventstream"
