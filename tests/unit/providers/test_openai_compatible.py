"""The provider against a small raw server: what it sends, what it makes of every kind of answer."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace import errors
from headrace.errors import HeadraceError, UpstreamError
from headrace.providers.openai_compatible import OpenAICompatible
from headrace.types import (
    ChatRequest,
    CompletionRequest,
    Event,
    Finished,
    FinishReason,
    Message,
    Role,
    SamplingParams,
    Started,
    TextDelta,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
    collect,
)

Script = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    head: str
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head_ok(self, kind: str = "text/event-stream") -> None:
        await self.send(
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()
        )


@dataclass
class Server:
    url: str
    seen: list[Exchange] = field(default_factory=list[Exchange])
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a client closed its connection before the script's end."""


@asynccontextmanager
async def serving(script: Script) -> AsyncGenerator[Server]:
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = [
                line for line in head.lower().split("\r\n") if line.startswith("content-length")
            ]
            raw = await reader.readexactly(int(size[0].split(":")[1])) if size else b"{}"
            exchange = Exchange(head, json.loads(raw), writer, reader)
            server.seen.append(exchange)
            await script(exchange)
        finally:
            writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    server = Server(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def chunk(choices: Sequence[dict[str, Any]] = (), **more: Any) -> bytes:
    tree = {"id": "c-1", "model": "m", "created": 5, "choices": list(choices), **more}
    return b"data: " + json.dumps(tree, ensure_ascii=False).encode() + b"\n\n"


def text(content: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": {"content": content}, **more}


def end(reason: str = "stop", index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": {}, "finish_reason": reason, **more}


USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
DONE = b"data: [DONE]\n\n"
ROLE = chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}}])
WHOLE = (
    ROLE + chunk([text("żó")]) + chunk([text("łw 🐢")]) + chunk([end()]) + chunk(usage=USAGE) + DONE
)


def answering(raw: bytes, *, size: int | None = None) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.head_ok()
        for start in range(0, len(raw), size or len(raw)):
            await exchange.send(raw[start : start + (size or len(raw))])
            await asyncio.sleep(0)

    return script


def request(
    *, sampling: SamplingParams | None = None, deadline_s: float | None = None
) -> ChatRequest:
    return ChatRequest(
        model="m",
        messages=(Message(role=Role.USER, parts=(TextPart(text="hi"),)),),
        sampling=sampling or SamplingParams(),
        deadline_s=deadline_s,
    )


async def events(url: str, asked: ChatRequest | None = None, **options: Any) -> list[Event]:
    async with OpenAICompatible(url=url, **options) as provider:
        return [event async for event in provider.stream(asked or request())]


@pytest.mark.parametrize("size", [None, 1, 7])
async def test_whole_answer_however_it_is_cut(size: int | None) -> None:
    async with (
        serving(answering(WHOLE, size=size)) as server,
        OpenAICompatible(url=server.url, key="k-1") as provider,
    ):
        answer = await collect(provider.stream(request()))
    assert answer.choices[0].text == "żółw 🐢"
    assert answer.choices[0].finish is FinishReason.STOP
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 4)
    assert (answer.usage.cached_tokens, answer.usage.reasoning_tokens) == (3, 2)
    assert answer.started.id == "c-1"
    assert "POST /v1/chat/completions " in server.seen[0].head
    assert "Authorization: Bearer k-1" in server.seen[0].head
    assert server.seen[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_only_what_was_set_is_sent() -> None:
    sampling = SamplingParams(
        temperature=1.0,
        top_k=5,
        stop=("x",),
        logit_bias=((3, -1.0),),
        max_tokens=9,
        include_stop=True,
        given=frozenset({"temperature"}),
    )
    asked = ChatRequest(
        model="ignored",
        messages=(
            Message(role=Role.SYSTEM, parts=(TextPart(text="be brief"),)),
            Message(role=Role.ASSISTANT, parts=(ToolCallPart(id="t", name="f", arguments="{}"),)),
            Message(role=Role.TOOL, parts=(ToolResultPart(call_id="t", text="42"),)),
        ),
        tools=(ToolSpec(name="f", description="d", parameters={"type": "object"}),),
        template_kwargs={"enable_thinking": False},
        sampling=sampling,
        trace="req-9",
    )
    async with serving(answering(WHOLE)) as server:
        await events(server.url + "/v1/", asked, model="other")
    body = server.seen[0].body
    assert "x-request-id: req-9" in server.seen[0].head.lower()
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "t", "content": "42"},
    ]
    assert body["tools"][0]["function"]["name"] == "f"
    kept = {k: v for k, v in body.items() if k not in ("messages", "tools", "stream_options")}
    assert kept == {
        "model": "other",
        "stream": True,
        "temperature": 1.0,
        "top_k": 5,
        "stop": ["x"],
        "logit_bias": {"3": -1.0},
        "max_tokens": 9,
        "include_stop_str_in_output": True,
        "chat_template_kwargs": {"enable_thinking": False},
        "tool_choice": "auto",
    }


async def test_tools_reasoning_and_logprobs() -> None:
    logprob = {"token": "a", "bytes": [97], "logprob": -0.5}
    raw = (
        chunk([{"index": 0, "delta": {"reasoning_content": "hm"}}])
        + chunk(
            [
                text(
                    "a",
                    token_ids=[65],
                    logprobs={"content": [{**logprob, "top_logprobs": [logprob]}]},
                )
            ]
        )
        + chunk(
            [
                {
                    "index": 0,
                    "delta": {
                        "tool_calls": [
                            {"index": 0, "id": "t1", "function": {"name": "f", "arguments": '{"a'}}
                        ]
                    },
                }
            ]
        )
        + chunk(
            [
                {
                    "index": 0,
                    "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '":1}'}}]},
                }
            ]
        )
        + chunk([end("tool_calls", stop_reason=99)], usage=USAGE)
        + DONE
    )
    async with serving(answering(raw)) as server, OpenAICompatible(url=server.url) as provider:
        answer = await collect(provider.stream(request()))
    choice = answer.choices[0]
    assert choice.reasoning == "hm"
    assert choice.tool_calls == (ToolCallPart(id="t1", name="f", arguments='{"a":1}'),)
    assert choice.finish is FinishReason.TOOL_CALLS
    assert choice.stop == 99
    (scored,) = choice.logprobs
    assert (scored.token, scored.data, scored.logprob) == (65, b"a", -0.5)
    assert scored.top == ((-1, b"a", -0.5),)


async def test_several_choices_end_once_each_and_the_last_has_the_usage() -> None:
    raw = (
        chunk([text("b", 1)])
        + chunk([text("a", 0)])
        + chunk([end("stop", 1)])
        + chunk([end("length", 0)])
        + chunk(usage=USAGE)
        + DONE
    )
    async with serving(answering(raw)) as server:
        got = await events(server.url, request(sampling=SamplingParams(n=2)))
    assert isinstance(got[0], Started)
    ends = [event for event in got if isinstance(event, Finished)]
    assert [(e.index, e.usage is not None) for e in ends] == [(1, False), (0, True)]
    assert got[-1] is ends[-1]


async def test_completion_with_ids_and_legacy_logprobs() -> None:
    logprobs = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -1.0],
        "top_logprobs": [None, {"b": -1.0, "c": -2.0}],
    }
    raw = (
        chunk([{"index": 0, "text": "ab", "logprobs": logprobs, "prompt_token_ids": [1, 2]}])
        + chunk([{"index": 0, "text": "", "finish_reason": "length"}], usage=USAGE)
        + DONE
    )
    asked = CompletionRequest(
        model="m", prompt=(1, 2), echo=True, sampling=SamplingParams(logprobs=2)
    )
    async with (
        serving(answering(raw)) as server,
        OpenAICompatible(url=server.url, return_token_ids=True) as provider,
    ):
        answer = await collect(provider.complete(asked))
    assert server.seen[0].body["prompt"] == [1, 2]
    assert server.seen[0].body["echo"] is True
    assert server.seen[0].body["logprobs"] == 2
    assert server.seen[0].body["return_token_ids"] is True
    assert answer.started.prompt_ids == (1, 2)
    assert answer.choices[0].text == "ab"
    assert [scored.logprob for scored in answer.choices[0].logprobs] == [0.0, -1.0]


BROKEN = {
    "cut after the first words": (ROLE + chunk([text("hal")]), "cut off"),
    "cut inside an event": (ROLE + chunk([text("hal")])[:-9], "cut off"),
    "ended but without usage": (ROLE + chunk([end()]) + DONE, "no usage"),
    "done without an end": (ROLE + DONE, "cut off"),
    "nothing at all": (b"", "cut off"),
    "not JSON": (b"data: {nope\n\n", "not JSON"),
    "not an object": (b"data: [1]\n\n", "not an object"),
    "the wrong shape": (b'data: {"choices": [{"index": 0, "delta": 7}]}\n\n', "wrong shape"),
    "an unknown end": (chunk([end("tired")]), "finish_reason"),
    "a choice not asked for": (chunk([text("x", 3)]), "choice 3 of 1"),
    "more after the end": (chunk([end()]) + chunk([text("x")]), "after its end"),
    "an error inside": (
        ROLE + b'data: {"error": {"message": "out of memory"}}\n\n',
        "out of memory",
    ),
}


@pytest.mark.parametrize(("raw", "words"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_stream_is_an_upstream_error(raw: bytes, words: str) -> None:
    async with serving(answering(raw)) as server:
        with pytest.raises(UpstreamError, match=words):
            await events(server.url)


async def test_an_end_without_done_is_whole() -> None:
    raw = ROLE + chunk([text("a")]) + chunk([end()], usage=USAGE)
    async with serving(answering(raw)) as server:
        assert isinstance((await events(server.url))[-1], Finished)


STATUSES: list[tuple[int, object, type[HeadraceError]]] = [
    (
        400,
        {"error": {"message": "bad top_p", "code": "invalid_parameter"}},
        errors.InvalidParameter,
    ),
    (400, {"error": {"message": "bad"}}, errors.UserError),
    (401, {"error": {"message": "no"}}, errors.Unauthorized),
    (404, {"error": {"message": "no", "code": "model_not_found"}}, errors.ModelNotFound),
    (413, {"detail": "big"}, errors.PayloadTooLarge),
    (422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, errors.UserError),
    (429, {"error": {"message": "slow down"}}, errors.Overloaded),
    (500, "oops", UpstreamError),
    (502, {"error": "bad gateway"}, UpstreamError),
    (503, {"message": "starting"}, errors.NotReady),
    (307, "", UpstreamError),
]


@pytest.mark.parametrize(("status", "tree", "kind"), STATUSES)
async def test_status_to_error(status: int, tree: object, kind: type[HeadraceError]) -> None:
    async def script(exchange: Exchange) -> None:
        body = (tree if isinstance(tree, str) else json.dumps(tree)).encode()
        head = f"HTTP/1.1 {status} X\r\nRetry-After: 17\r\nContent-Length: {len(body)}\r\n\r\n"
        await exchange.send(head.encode() + body)

    async with serving(script) as server:
        with pytest.raises(HeadraceError) as caught:
            await events(server.url)
    assert type(caught.value) is kind
    if isinstance(caught.value, errors.Overloaded):
        assert caught.value.retry_after_s == 17
    assert len(server.seen) == 1, "nothing is retried"


async def test_an_answer_that_is_no_stream() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head_ok("text/html")
        await exchange.send(b"<h1>hello")

    async with serving(script) as server:
        with pytest.raises(UpstreamError, match="text/html"):
            await events(server.url)


async def test_nobody_listens() -> None:
    async with serving(answering(b"")) as server:
        pass
    with pytest.raises(UpstreamError, match="cannot reach"):
        await events(server.url)


async def test_closing_the_generator_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head_ok()
        await exchange.send(ROLE + chunk([text("a")]))
        assert await exchange.reader.read() == b""  # the client's side is closed
        gone.set()

    async with serving(script) as server, OpenAICompatible(url=server.url) as provider:
        stream = provider.stream(request())
        async for event in stream:
            if isinstance(event, TextDelta):
                break
        await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]
        await asyncio.wait_for(gone.wait(), 5)


@pytest.mark.parametrize("begun", [False, True])
async def test_deadline(begun: bool) -> None:
    async def script(exchange: Exchange) -> None:
        if begun:
            await exchange.head_ok()
            await exchange.send(ROLE)
        await asyncio.sleep(30)

    async with serving(script) as server:
        with pytest.raises(errors.DeadlineExceeded, match=r"0\.2 s"):
            await events(server.url, request(deadline_s=0.2))


async def test_silence_is_bounded() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head_ok()
        await asyncio.sleep(30)

    async with serving(script) as server:
        with pytest.raises(UpstreamError):
            await events(server.url, idle_timeout_s=0.2)


async def test_models() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head_ok("application/json")
        await exchange.send(
            b'{"data": [{"id": "m", "created": 3, "max_model_len": 99}, {"id": "o"}]}'
        )

    async with serving(script) as server, OpenAICompatible(url=server.url) as provider:
        cards = await provider.models()
    assert [(card.name, card.context_tokens) for card in cards] == [("m", 99), ("o", 0)]


async def test_models_nonsense() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.head_ok("application/json")
        await exchange.send(b"[]")

    async with serving(script) as server, OpenAICompatible(url=server.url) as provider:
        with pytest.raises(UpstreamError, match="no list of models"):
            await provider.models()


async def test_refusals_before_anything_is_sent() -> None:
    with pytest.raises(errors.ConfigError, match="http://"):
        OpenAICompatible(url="localhost:8000")
    with pytest.raises(errors.UnsupportedParameter, match="prompt_logprobs"):
        await events("http://127.0.0.1:1", request(sampling=SamplingParams(prompt_logprobs=1)))
