"""The same fake servers, driven by the official SDKs and by our adapters: both see the same.

Requests too: what our adapters send is what the SDK sends of the same conversation.
"""

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anthropic
import boto3
import botocore.exceptions
import openai
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

from headrace.config import ProviderSettings, RouteSettings, Settings
from headrace.errors import HeadraceError, Overloaded, UpstreamError, UserError
from headrace.providers.assemble import Route, open_routes
from headrace.providers.bedrock import signed
from headrace.providers.upstream import HttpCall
from headrace.types import (
    ChatRequest,
    Collected,
    FinishReason,
    Message,
    Role,
    SamplingParams,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
    Usage,
    collect,
)
from upstreams import (
    ANTHROPIC_ANSWER,
    BEDROCK_ANSWER,
    EVENT_STREAM,
    GEMINI_ANSWER,
    OPENAI_ANSWER,
    FakeUpstream,
    Say,
    aws_event,
    sse,
    upstream,
)

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
ASKED = ChatRequest(
    model="m",
    messages=(
        Message(role=Role.SYSTEM, parts=(TextPart(text="be brief"),)),
        Message(role=Role.USER, parts=(TextPart(text="hi"),)),
        Message(
            role=Role.ASSISTANT, parts=(ToolCallPart(id="c0", name="f", arguments='{"a": 2}'),)
        ),
        Message(role=Role.TOOL, parts=(ToolResultPart(call_id="c0", text="42"),)),
    ),
    tools=(ToolSpec(name="f", description="d", parameters=SCHEMA),),
    tool_choice=ToolChoice.REQUIRED,
    tool_name="f",
    sampling=SamplingParams(
        max_tokens=99, temperature=0.5, stop=("x",), given=frozenset({"max_tokens", "temperature"})
    ),
)
ANSWERS: dict[str, Say] = {
    "openai": Say(OPENAI_ANSWER),
    "anthropic": Say(ANTHROPIC_ANSWER),
    "gemini": Say(GEMINI_ANSWER),
    "bedrock": Say(BEDROCK_ANSWER, kind=EVENT_STREAM),
}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def route(kind: str, url: str, stack: AsyncExitStack, **more: str) -> Route:
    provider = replace(
        ProviderSettings(
            kind=kind, url=url, key="env:TEST_PROVIDER_KEY", region="eu-west-1", attempts=1
        ),
        **more,  # pyright: ignore[reportArgumentType] - the tests' own
    )
    settings = Settings(
        providers={"p": provider}, routes={"r": RouteSettings(provider="p", model="m:1")}
    )
    return open_routes(settings, {}, stack)["r"]


async def ours(kind: str, url: str, asked: ChatRequest = ASKED, **more: str) -> Collected:
    async with AsyncExitStack() as stack:
        return await collect(route(kind, url, stack, **more).chat.stream(asked))


def seen(collected: Collected) -> dict[str, Any]:
    [choice] = collected.choices
    usage = collected.usage
    return {
        "text": choice.text,
        "reasoning": choice.reasoning,
        "calls": [(call.name, json.loads(call.arguments)) for call in choice.tool_calls],
        "finish": choice.finish,
        "prompt": usage.prompt_tokens,
        "cached": usage.cached_tokens,
        "completion": usage.completion_tokens,
    }


def by_openai(url: str) -> dict[str, Any]:
    text, reason, calls, usage = "", "", [], None
    with openai.OpenAI(base_url=url + "/v1", api_key="secret", max_retries=0) as client:
        for chunk in client.chat.completions.create(
            model="m:1",
            stream=True,
            messages=[
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "hi"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c0",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a": 2}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c0", "content": "42"},
            ],
            tools=[
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": SCHEMA},
                }
            ],
            tool_choice={"type": "function", "function": {"name": "f"}},
            max_completion_tokens=99,
            temperature=0.5,
            stop=["x"],
            stream_options={"include_usage": True},
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
                for call in choice.delta.tool_calls or []:
                    assert call.function is not None
                    if call.function.name:
                        calls.append([call.function.name, ""])
                    calls[-1][1] += call.function.arguments or ""
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    return {
        "text": text,
        "reasoning": "",
        "calls": [(name, json.loads(arguments)) for name, arguments in calls],
        "finish": FinishReason(reason),
        "prompt": usage.prompt_tokens,
        "cached": usage.prompt_tokens_details.cached_tokens,
        "completion": usage.completion_tokens,
    }


def by_anthropic(url: str) -> dict[str, Any]:
    with anthropic.Anthropic(base_url=url, api_key="secret", max_retries=0) as client:  # noqa: SIM117
        with client.messages.stream(
            model="m:1",
            max_tokens=99,
            extra_body={"temperature": 0.5},
            stop_sequences=["x"],
            system=[{"type": "text", "text": "be brief"}],
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "c0", "name": "f", "input": {"a": 2}}],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "c0", "content": "42"}],
                },
            ],
            tools=[{"name": "f", "description": "d", "input_schema": SCHEMA}],  # type: ignore
            tool_choice={"type": "tool", "name": "f"},
        ) as stream:
            found = stream.get_final_message()
    blocks = [block.to_dict() for block in found.content]
    usage = found.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return {
        "text": "".join(str(b["text"]) for b in blocks if b["type"] == "text"),
        "reasoning": "".join(str(b["thinking"]) for b in blocks if b["type"] == "thinking"),
        "calls": [(b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"],
        "finish": {"tool_use": FinishReason.TOOL_CALLS}[str(found.stop_reason)],
        "prompt": usage.input_tokens + read + written,
        "cached": read,
        "completion": usage.output_tokens,
    }


def by_gemini(url: str) -> dict[str, Any]:
    client = genai.Client(api_key="secret", http_options=genai_types.HttpOptions(base_url=url))
    contents: list[Any] = [
        {"role": "user", "parts": [{"text": "hi"}]},
        {
            "role": "model",
            "parts": [{"functionCall": {"id": "c0", "name": "f", "args": {"a": 2}}}],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c0", "name": "f", "response": {"output": "42"}}}
            ],
        },
    ]
    config: Any = {
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "temperature": 0.5,
        "maxOutputTokens": 99,
        "stopSequences": ["x"],
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "f", "description": "d", "parametersJsonSchema": SCHEMA}
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
    }
    text, reasoning, calls, finish, usage = "", "", [], None, None
    for chunk in client.models.generate_content_stream(
        model="m:1", contents=contents, config=config
    ):
        usage = chunk.usage_metadata or usage
        for candidate in chunk.candidates or []:
            finish = candidate.finish_reason or finish
            for part in (candidate.content and candidate.content.parts) or []:
                if part.function_call:
                    calls.append((part.function_call.name, part.function_call.args))
                elif part.thought:
                    reasoning += part.text or ""
                else:
                    text += part.text or ""
    client.close()
    assert finish == genai_types.FinishReason.STOP
    assert usage is not None
    return {
        "text": text,
        "reasoning": reasoning,
        "calls": calls,
        "finish": FinishReason.TOOL_CALLS,  # Gemini has no word of its own for it
        "prompt": usage.prompt_token_count,
        "cached": usage.cached_content_token_count,
        "completion": (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
    }


def bedrock_client(url: str) -> Any:
    return boto3.client(  # pyright: ignore[reportUnknownMemberType]
        "bedrock-runtime",
        region_name="eu-west-1",
        endpoint_url=url,
        config=Config(retries={"max_attempts": 0}),
    )


def by_bedrock(url: str) -> dict[str, Any]:
    client = bedrock_client(url)
    answer = client.converse_stream(
        modelId="m:1",
        system=[{"text": "be brief"}],
        messages=[
            {"role": "user", "content": [{"text": "hi"}]},
            {
                "role": "assistant",
                "content": [{"toolUse": {"toolUseId": "c0", "name": "f", "input": {"a": 2}}}],
            },
            {
                "role": "user",
                "content": [{"toolResult": {"toolUseId": "c0", "content": [{"text": "42"}]}}],
            },
        ],
        inferenceConfig={"maxTokens": 99, "temperature": 0.5, "stopSequences": ["x"]},
        toolConfig={
            "tools": [
                {"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": SCHEMA}}}
            ],
            "toolChoice": {"tool": {"name": "f"}},
        },
    )
    text, reasoning, name, arguments, finish = "", "", "", "", ""
    usage: dict[str, int] = {}
    for event in answer["stream"]:
        if "contentBlockStart" in event:
            name = event["contentBlockStart"]["start"]["toolUse"]["name"]
        elif "contentBlockDelta" in event:
            delta = event["contentBlockDelta"]["delta"]
            text += delta.get("text", "")
            reasoning += delta.get("reasoningContent", {}).get("text", "")
            arguments += delta.get("toolUse", {}).get("input", "")
        elif "messageStop" in event:
            finish = event["messageStop"]["stopReason"]
        elif "metadata" in event:
            usage = event["metadata"]["usage"]
    client.close()
    read, written = usage["cacheReadInputTokens"], usage["cacheWriteInputTokens"]
    return {
        "text": text,
        "reasoning": reasoning,
        "calls": [(name, json.loads(arguments))],
        "finish": {"tool_use": FinishReason.TOOL_CALLS}[finish],
        "prompt": usage["inputTokens"] + read + written,
        "cached": read,
        "completion": usage["outputTokens"],
    }


SDKS: dict[str, Callable[[str], dict[str, Any]]] = {
    "openai": by_openai,
    "anthropic": by_anthropic,
    "gemini": by_gemini,
    "bedrock": by_bedrock,
}


@pytest.mark.parametrize("kind", [*SDKS])
@pytest.mark.parametrize("piece", [0, 7])
async def test_both_see_the_same_and_ask_the_same(kind: str, piece: int) -> None:
    with upstream(replace(ANSWERS[kind], piece=piece)) as server:
        theirs = SDKS[kind](server.url)
        collected = await ours(kind, server.url)
        asked_theirs, asked_ours = server.asked
    assert seen(collected) == theirs
    assert theirs["text"] == "żółw 🐢"
    assert theirs["calls"] == [("f", {"a": 1})]
    assert (theirs["prompt"], theirs["cached"], theirs["completion"]) == (30, 20, 9)
    assert asked_ours.path == asked_theirs.path.replace("?alt=sse", "") + (
        "?alt=sse" if kind == "gemini" else ""
    )
    # Google's JSON takes both spellings, and its SDK sends this one as it is written in Python.
    sent = asked_theirs.body.replace(b"parameters_json_schema", b"parametersJsonSchema")
    assert asked_ours.json == json.loads(sent)


async def test_bedrock_is_signed_as_botocore_signs() -> None:
    with upstream(ANSWERS["bedrock"]) as server:
        by_bedrock(server.url)
        await ours("bedrock", server.url)
        theirs, mine = (asked.headers["authorization"] for asked in server.asked)
    # Only the seconds of the clock, which are in the signature, may differ.
    assert mine.partition("Signature=")[0] == theirs.partition("Signature=")[0]
    assert "Credential=AKIDEXAMPLE/" in mine
    with upstream(ANSWERS["bedrock"]) as server:
        url = f"{server.url}/model/m%3A1/converse-stream"
        call = await signed(region="eu-west-1")(HttpCall(url=url, body=b"{}"))
        asked = AWSRequest(
            method="POST", url=url, data=b"{}", headers={"Content-Type": "application/json"}
        )
        asked.context["timestamp"] = call.headers["X-Amz-Date"]
        auth = SigV4Auth(Credentials("AKIDEXAMPLE", "wJalr"), "bedrock", "eu-west-1")
        asked.headers["X-Amz-Date"] = call.headers["X-Amz-Date"]
        text = auth.string_to_sign(asked, auth.canonical_request(asked))
        assert auth.signature(text, asked) == call.headers["Authorization"].rpartition("=")[2]


def http_error(kind: str, status: int) -> Say:
    bodies: dict[str, Any] = {
        "openai": {
            "error": {"message": "no good", "type": "x", "code": None, "param": "temperature"}
        },
        "anthropic": {
            "type": "error",
            "error": {
                "type": {
                    400: "invalid_request_error",
                    429: "rate_limit_error",
                    401: "authentication_error",
                }.get(status, "api_error"),
                "message": "no good",
            },
        },
        "gemini": [{"error": {"code": status, "message": "no good", "status": "X"}}],
        "bedrock": {"message": "no good"},
    }
    return Say(
        json.dumps(bodies[kind]).encode(),
        status=status,
        kind="application/json",
        headers=(("Retry-After", "7"),),
    )


SDK_ERRORS = (
    openai.APIError,
    anthropic.APIError,
    genai_errors.APIError,
    botocore.exceptions.ClientError,
)


@pytest.mark.parametrize("kind", [*SDKS])
async def test_both_fail_alike(kind: str) -> None:
    expected: dict[int, type[HeadraceError]] = {
        400: UserError,
        401: UpstreamError,
        429: Overloaded,
        500: UpstreamError,
    }
    for status, error in expected.items():
        with upstream(http_error(kind, status)) as server:
            with pytest.raises(SDK_ERRORS, match="no good"):
                SDKS[kind](server.url)
            with pytest.raises(error) as caught:
                await ours(kind, server.url)
        assert type(caught.value) is error
        if status == 429:
            assert isinstance(caught.value, Overloaded)
            assert caught.value.retry_after_s == 7
        if status == 401:
            assert "its operator must mend it" in caught.value.message
        else:
            assert "no good" in caught.value.message


BROKEN: dict[str, list[bytes]] = {
    "openai": [sse({"error": {"message": "it broke"}})],
    "anthropic": [
        sse(
            {"type": "error", "error": {"type": "overloaded_error", "message": "it broke"}},
            named=True,
        )
    ],
    "gemini": [sse({"error": {"code": 503, "message": "it broke", "status": "UNAVAILABLE"}})],
    "bedrock": [
        aws_event("throttlingException", {"message": "it broke"}, message_type="exception")
    ],
}


@pytest.mark.parametrize("kind", [*SDKS])
async def test_an_error_in_the_middle(kind: str) -> None:
    whole = ANSWERS[kind]
    for broken in BROKEN[kind]:
        middle = (
            aws_event("messageStart", {"role": "assistant"})
            if kind == "bedrock"
            else whole.body[: whole.body.index(b"\n\n") + 2]
        )
        say = replace(whole, body=middle + broken)
        with upstream(say) as server, pytest.raises(HeadraceError, match="it broke"):
            await ours(kind, server.url)


@pytest.mark.parametrize("kind", [*SDKS])
async def test_half_an_answer_is_one_clear_error(kind: str) -> None:
    """At every cut, with the connection closed well or not."""
    whole = ANSWERS[kind]
    last = whole.body.rindex(b"data:") if kind != "bedrock" else len(whole.body) - 1
    cuts = range(1, last, max(last // 12, 1))
    for number, cut in enumerate(cuts):
        say = replace(whole, body=whole.body[:cut], cut=number % 2 == 0)
        with upstream(say) as server, pytest.raises(UpstreamError, match="provider p: "):
            await ours(kind, server.url)


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "bedrock"])
async def test_tokens_are_counted_ahead(kind: str) -> None:
    answer = {"input_tokens": 12, "totalTokens": 12, "inputTokens": 12}
    with upstream(Say(json.dumps(answer).encode(), kind="application/json")) as server:
        async with AsyncExitStack() as stack:
            counter = route(kind, server.url, stack).counter
            assert counter is not None
            assert await counter.count(ASKED) == 12


@pytest.mark.parametrize("kind", [*SDKS])
async def test_what_an_api_has_not_is_refused_by_name(kind: str) -> None:
    async with AsyncExitStack() as stack:
        chat = route(kind, "http://127.0.0.1:9", stack).chat
        refused = {
            "min_p": SamplingParams(min_p=0.5),
            "repetition_penalty": SamplingParams(repetition_penalty=1.5),
            "ignore_eos": SamplingParams(ignore_eos=True),
        }
        for field, sampling in refused.items():
            asked = replace(ASKED, sampling=sampling)
            with pytest.raises(UserError, match=field) as caught:
                await collect(chat.stream(asked))
            assert caught.value.param == field


async def test_usage_of_cache_writes() -> None:
    with upstream(ANSWERS["anthropic"]) as server:
        collected = await ours("anthropic", server.url)
    assert collected.usage == Usage(
        prompt_tokens=30, cached_tokens=20, cache_write_tokens=4, completion_tokens=9
    )


async def test_azures_two_addresses() -> None:
    with upstream(ANSWERS["openai"]) as server:
        await ours("azure", server.url)
        await ours("azure", server.url, api_version="2024-10-21")
        v1, deployed = server.asked
    assert v1.path == "/openai/v1/chat/completions"
    assert deployed.path == "/openai/deployments/m:1/chat/completions?api-version=2024-10-21"
    assert v1.headers["api-key"] == "secret"
    assert "authorization" not in v1.headers


async def test_vertex_address() -> None:
    with upstream(ANSWERS["gemini"]) as server:
        await ours("vertex", server.url, project="proj")
        [asked] = server.asked
    assert asked.path == (
        "/v1/projects/proj/locations/eu-west-1/publishers/google/models/m:1"
        ":streamGenerateContent?alt=sse"
    )
    assert asked.headers["authorization"] == "Bearer secret"


async def test_connections_are_used_again() -> None:
    with upstream(ANSWERS["openai"]) as server:
        async with AsyncExitStack() as stack:
            chat = route("openai", server.url, stack).chat
            for _ in range(5):
                await collect(chat.stream(ASKED))
        _check(server, connections=1)


def _check(server: FakeUpstream, *, connections: int) -> None:
    assert server.connections == connections
