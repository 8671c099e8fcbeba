"""The official `openai` client against the gateway over a scripted backend."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from gateway_server import Gateway, serving
from headrace.errors import ContextLengthExceeded, NotReady, Overloaded, Unauthorized, WorkerDied
from headrace.gateway.asgi import Services
from headrace.gateway.keys import Credentials
from headrace.testing import Pause, Step
from headrace.types import (
    Caller,
    ChatRequest,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
STARTED = Started(id="x", model="m", created_s=1, prompt_tokens=3, seed=9)
DONE = Finished(reason=FinishReason.STOP, usage=Usage(prompt_tokens=3, completion_tokens=1))


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with serving() as running:
        yield running


def sdk(
    gateway: Gateway, *, api_key: str = "none", timeout_s: float | None = None
) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=gateway.url + "/v1", api_key=api_key, max_retries=0, timeout=timeout_s
    )


def test_chat_whole_and_streamed_say_the_same(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        whole = client.chat.completions.create(model="m", messages=MESSAGES, n=2, seed=5)
        texts, roles = ["", ""], [0, 0]
        finishes: list[str | None] = [None, None]
        usage = None
        for chunk in client.chat.completions.create(
            model="m",
            messages=MESSAGES,
            n=2,
            stream=True,
            stream_options={"include_usage": True},
        ):
            usage = chunk.usage or usage
            assert chunk.id.startswith("chatcmpl-")
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                roles[choice.index] += choice.delta.role == "assistant"
                finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    assert texts == [choice.message.content for choice in whole.choices] == ["Hello, world"] * 2
    assert finishes == ["stop", "stop"]
    assert roles == [1, 1]
    assert usage is not None
    assert usage == whole.usage
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert usage.total_tokens == 13
    assert whole.model_extra is not None
    assert whole.model_extra["seed"] == 5
    assert whole.system_fingerprint == "scripted"


def test_logprobs_and_ids(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        answer = client.chat.completions.create(
            model="m",
            messages=MESSAGES,
            logprobs=True,
            top_logprobs=3,
            extra_body={"return_token_ids": True},
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert [entry.token for entry in logprobs.content] == ["Hello", ", ", "world"]
        assert all(len(entry.top_logprobs) == 3 for entry in logprobs.content)
        assert logprobs.content[0].bytes == list(b"Hello")
        assert answer.choices[0].model_extra is not None
        assert answer.choices[0].model_extra["token_ids"] == [1000, 1001, 1002]
        entries: list[Any] = []
        for chunk in client.chat.completions.create(
            model="m", messages=MESSAGES, logprobs=True, top_logprobs=3, stream=True
        ):
            for choice in chunk.choices:
                if choice.logprobs is not None:
                    entries += choice.logprobs.content or []
        assert entries == logprobs.content


def test_completions_of_several_prompts(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        whole = client.completions.create(model="m", prompt=["a", "b"], n=2, logprobs=2)
        assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
        assert whole.choices[3].text == "Hello, world"
        logprobs = whole.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.text_offset == [0, 5, 7]
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == 14
        texts = [""] * 4
        for chunk in client.completions.create(model="m", prompt=[[1], [2]], n=2, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        assert texts == ["Hello, world"] * 4


def test_parameters_reach_the_backend(gateway: Gateway) -> None:
    tools: list[Any] = [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    with sdk(gateway) as client:
        client.chat.completions.create(
            model="m",
            messages=[
                *MESSAGES,
                {"role": "assistant", "content": None, "tool_calls": [call]},  # pyright: ignore
                {"role": "tool", "tool_call_id": "c1", "content": "42"},
            ],
            tools=tools,
            tool_choice="auto",
            stop=["x", "y"],
            seed=3,
            logit_bias={"5": -100},
            max_completion_tokens=2,
            user="u1",
        )
    request = gateway.backend.requests[-1]
    assert isinstance(request, ChatRequest)
    assert request.tools[0].name == "f"
    assert isinstance(request.messages[1].parts[0], ToolCallPart)
    assert isinstance(request.messages[2].parts[0], ToolResultPart)
    assert request.sampling.stop == ("x", "y")
    assert request.sampling.logit_bias == ((5, -100.0),)
    assert request.sampling.given == {"stop", "seed", "logit_bias", "max_tokens"}
    gateway.wait(lambda: any(record.end_user == "u1" for record in gateway.records.seen))
    record = gateway.last()
    assert record.finish == "length"
    assert record.usage.completion_tokens == 2


def test_reasoning_and_tool_calls() -> None:
    script: list[Step] = [
        STARTED,
        ReasoningDelta(text="hmm"),
        TextDelta(text="so"),
        ToolCallDelta(call=0, id="c", name="f", arguments='{"a"'),
        ToolCallDelta(call=0, arguments=":1}"),
        Finished(reason=FinishReason.TOOL_CALLS, usage=Usage(prompt_tokens=3, completion_tokens=4)),
    ]
    with serving(script) as gateway, sdk(gateway) as client:
        message = client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message
        assert message.tool_calls is not None
        assert message.tool_calls[0].type == "function"
        assert message.tool_calls[0].function.arguments == '{"a":1}'
        assert message.content == "so"
        assert message.model_extra == {"reasoning_content": "hmm"}
        with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].finish_reason == "tool_calls"
        calls = final.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].function.name == "f"
        assert json.loads(calls[0].function.arguments) == {"a": 1}


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ContextLengthExceeded("too long"), openai.BadRequestError, "context_length_exceeded"),
        (Overloaded("full", retry_after_s=7), openai.RateLimitError, "overloaded"),
        (NotReady("draining"), openai.InternalServerError, "not_ready"),
        (ValueError("a bug"), openai.InternalServerError, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_answer_is_its_status(
    error: Exception, kind: type[openai.APIStatusError], code: str, *, stream: bool
) -> None:
    with serving([error]) as gateway, sdk(gateway) as client:
        with pytest.raises(kind) as caught:
            client.chat.completions.create(model="m", messages=MESSAGES, stream=stream)
        assert caught.value.code == code
        assert "a bug" not in caught.value.message
        assert caught.value.response.headers["x-request-id"]
        if code == "overloaded":
            assert caught.value.response.headers["retry-after"] == "7"
        assert gateway.last().finish == code


def test_an_error_in_the_middle_of_a_stream_is_raised() -> None:
    script: list[Step] = [STARTED, TextDelta(text="a"), WorkerDied("the engine died")]
    with serving(script) as gateway, sdk(gateway) as client:
        got: list[str] = []
        chunks = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)

        def read() -> None:
            for chunk in chunks:
                got.extend(choice.delta.content or "" for choice in chunk.choices)

        with pytest.raises(openai.APIError, match="engine died") as caught:
            read()
        assert "".join(got) == "a"
        assert caught.value.code == "worker_died"
        body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
        head = f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
        raw = gateway.raw(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + head + body,
            read_all=True,
        )
        assert b"[DONE]" not in raw
        assert gateway.last().finish == "worker_died"


def test_errors_of_the_request_itself(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        with pytest.raises(openai.NotFoundError, match="there is: m"):
            client.chat.completions.create(model="gpt-9", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="tempratur") as caught:
            client.chat.completions.create(
                model="m", messages=MESSAGES, extra_body={"tempratur": 1}
            )
        assert caught.value.param == "tempratur"
        assert "temperature" in caught.value.message
        with pytest.raises(openai.BadRequestError, match="makes no vectors") as caught:
            client.embeddings.create(model="m", input="x")
        assert caught.value.param == "model"


class OneKey:
    """Knows one key, for every feature."""

    async def identify(self, credentials: Credentials) -> Caller:
        if credentials.authorization != "Bearer hr-right":
            raise Unauthorized("this API key is not valid here")
        return Caller(key_id="first", tenant="first")


def test_keys() -> None:
    base = Services(models={}, keys=OneKey())
    with serving(base=base) as gateway:
        with sdk(gateway, api_key="hr-right") as client:
            assert [model.id for model in client.models.list()] == ["m"]
            assert client.models.retrieve("m").id == "m"
            client.chat.completions.create(model="m", messages=MESSAGES)
        assert gateway.backend.requests[0].caller.tenant == gateway.last().key_id == "first"
        with sdk(gateway, api_key="hr-wrong") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.chat.completions.create(model="m", messages=MESSAGES)
            assert caught.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        for path, status in (("livez", b"200"), ("readyz", b"200"), ("metrics", b"401")):
            answer = gateway.raw(f"GET /{path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            assert answer.split(b" ")[1] == status, path


def endless(request: Any) -> Iterator[Step]:
    yield replace(STARTED, id=request.trace)
    while True:
        yield TextDelta(text="x", token_ids=(1,))
        yield Pause(seconds=0.01)


def test_leaving_a_stream_cancels_the_backend() -> None:
    with serving(endless) as gateway, sdk(gateway) as client:
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        next(iter(stream))
        assert gateway.backend.running == 1
        stream.close()
        gateway.wait(lambda: gateway.backend.running == 0)
        assert len(gateway.backend.cancelled) == 1
        gateway.wait(lambda: bool(gateway.records.seen))
        record = gateway.last()
        assert (record.finish, record.status) == ("abort", 499)
        assert record.usage.completion_tokens >= 1


def test_leaving_a_plain_call_cancels_the_backend() -> None:
    with serving(endless) as gateway, sdk(gateway, timeout_s=0.3) as client:
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(model="m", prompt=["a", "b", "c"])
        gateway.wait(lambda: gateway.backend.running == 0)
        assert len(gateway.backend.cancelled) == 3
        assert gateway.last().finish == "abort"


async def test_the_async_client(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(
        base_url=gateway.url + "/v1", api_key="none", max_retries=0
    ) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        parts = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(parts) == "Hello, world"
