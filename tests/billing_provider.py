"""A provider that keeps its own bill: what it has read and written, request by request.

It speaks OpenAI's and Anthropic's protocol. What it does with a request is said in the request's
last message, `MARK do=WHAT n=TOKENS`; a mark's first call may fail. It bills what it has sent: of a
stream that is cut, the tokens until then; of an error before the answer, nothing. A token is four
bytes, a word of a prompt is one.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import loopback

OVERHEAD = 7
"""Prompt tokens of the frame."""
MARGIN = 3
"""Prompt tokens that are cached where a prompt says `cached`."""


@dataclass
class Item:
    """One line of the bill."""

    mark: str
    model: str
    prompt: int
    cached: int
    completion: int


@dataclass
class BillingProvider:
    url: str = ""
    bill: list[Item] = field(default_factory=list[Item])
    calls: Counter[str] = field(default_factory=Counter[str])
    """Mark -> how often it was asked."""
    cut_short: int = 0


@dataclass
class _Asked:
    mark: str
    do: str
    tokens: int
    model: str
    prompt: int
    cached: int
    stream: bool
    running: bool


@contextlib.contextmanager
def billing_provider() -> Generator[BillingProvider]:
    """Serve from a thread of its own."""
    fake = BillingProvider()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await _serve(fake, reader, writer)

    with loopback.serving(exchange) as fake.url:
        yield fake


def _asked(body: dict[str, Any]) -> _Asked:
    words: list[str] = []
    for message in [*body["messages"], {"content": body.get("system") or ""}]:
        content: Any = message["content"]
        parts = [content] if isinstance(content, str) else [part["text"] for part in content]
        words += " ".join(parts).split()
    told = dict(word.split("=", 1) for word in words if "=" in word)
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 1 << 30
    obedient = told["do"] != "overrun"
    options: dict[str, Any] = body.get("stream_options") or {}
    return _Asked(
        mark=told["mark"],
        do=told["do"],
        tokens=min(int(told["n"]), limit) if obedient else int(told["n"]),
        model=body["model"],
        prompt=OVERHEAD + len(words),
        cached=MARGIN if "cached" in words else 0,
        stream=bool(body.get("stream")),
        running=bool(options.get("continuous_usage_stats")),
    )


async def _serve(
    fake: BillingProvider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    length = next(
        int(line.split(":")[1]) for line in head if line.lower().startswith("content-length")
    )
    asked = _asked(json.loads(await reader.readexactly(length)))
    fake.calls[asked.mark] += 1
    tries = fake.calls[asked.mark]
    down = asked.do == "fallback" and asked.model.startswith("gpt")
    if down or (asked.do == "retry" and tries == 1):
        body = b'{"error": {"message": "not now", "type": "overloaded_error"}}'
        status = 503 if down else 500
        _head(writer, status, "application/json", len(body))
        writer.write(body)
        await writer.drain()
        return True
    item = Item(asked.mark, asked.model, asked.prompt, asked.cached, 0)
    anthropic = head[0].split(" ")[1].startswith("/v1/messages")
    frames = _anthropic(asked, item) if anthropic else _openai(asked, item)
    fake.bill.append(item)
    if not asked.stream:
        item.completion = asked.tokens
        body = json.dumps(_whole(asked)).encode()
        _head(writer, 200, "application/json", len(body))
        writer.write(body)
        await writer.drain()
        return True
    _head(writer, 200, "text/event-stream", None)
    leaving = asyncio.ensure_future(reader.read(1))
    try:
        for frame in frames:
            if frame is None:  # the client is to leave now
                await asyncio.wait({leaving}, timeout=30)
                fake.cut_short += 1
                return False
            if leaving.done():
                fake.cut_short += 1
                return False
            writer.write(f"{len(frame):x}\r\n".encode() + frame + b"\r\n")
            await writer.drain()
            if asked.do in ("busy", "overrun"):
                await asyncio.sleep(0.001)
        if asked.do == "break":
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    return True


def _head(writer: asyncio.StreamWriter, status: int, kind: str, length: int | None) -> None:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{size}\r\n\r\n".encode())


def _openai(asked: _Asked, item: Item) -> Generator[bytes | None]:
    base = {"id": "c", "model": asked.model, "created": 5}
    yield _data({**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    for at in range(asked.tokens):
        if asked.do == "leave" and at == asked.tokens // 2:
            yield None
        item.completion += 1
        chunk: dict[str, Any] = {
            **base,
            "choices": [{"index": 0, "delta": {"content": "tok "}}],
        }
        if asked.running:
            chunk["usage"] = _usage(asked, item.completion)
        yield _data(chunk)
        if asked.do == "break" and at == asked.tokens // 2:
            return
    yield _data({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield _data({**base, "choices": [], "usage": _usage(asked, item.completion)})
    yield b"data: [DONE]\n\n"


def _anthropic(asked: _Asked, item: Item) -> Generator[bytes | None]:
    usage = {
        "input_tokens": asked.prompt - asked.cached,
        "cache_read_input_tokens": asked.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": 0,
    }
    message = {"id": "m", "type": "message", "role": "assistant", "model": asked.model}
    yield _event("message_start", message={**message, "content": [], "usage": usage})
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for at in range(asked.tokens):
        if asked.do == "leave" and at == asked.tokens // 2:
            yield None
        item.completion += 1
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": "tok "})
        if asked.do == "break" and at == asked.tokens // 2:
            return
    yield _event("content_block_stop", index=0)
    yield _event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": item.completion},
    )
    yield _event("message_stop")


def _whole(asked: _Asked) -> dict[str, Any]:
    message = {"role": "assistant", "content": "tok " * asked.tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "c",
        "model": asked.model,
        "created": 5,
        "choices": [choice],
        "usage": _usage(asked, asked.tokens),
    }


def _usage(asked: _Asked, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": asked.prompt,
        "completion_tokens": completion,
        "total_tokens": asked.prompt + completion,
        "prompt_tokens_details": {"cached_tokens": asked.cached},
    }


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **fields})
