"""An answer asked for whole says what its stream would have said, or is an error."""

import json
from dataclasses import replace
from typing import Any

import pytest

from headrace.errors import Overloaded, UpstreamError
from headrace.providers.openai_compatible import OpenAICompatible
from headrace.providers.openai_whole import WholeReader
from headrace.types import (
    ChatRequest,
    Collected,
    FinishReason,
    Message,
    Role,
    TextPart,
    ToolCallPart,
    collect,
)
from upstreams import Say, upstream

ASKED = ChatRequest(
    model="m", messages=(Message(role=Role.USER, parts=(TextPart(text="hi"),)),), streamed=False
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
ANSWER: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 5,
    "model": "m-2",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "żółw", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 3},
    },
}


def say(tree: object, kind: str = "application/json") -> Say:
    return Say(body=json.dumps(tree).encode(), kind=kind)


async def ask(url: str, request: ChatRequest = ASKED, *, stream_always: bool = False) -> Collected:
    async with OpenAICompatible(url=url, stream_always=stream_always) as provider:
        return await collect(provider.stream(request))


async def test_everything_arrives() -> None:
    with upstream(say(ANSWER)) as fake:
        answer = await ask(fake.url)
    [choice] = answer.choices
    assert (choice.text, choice.finish) == ("żółw", FinishReason.TOOL_CALLS)
    assert choice.tool_calls == (ToolCallPart(id="call_1", name="f", arguments='{"a": 1}'),)
    assert (answer.started.id, answer.started.model) == ("c-1", "m-2")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (7, 3, 4)
    assert "stream" not in fake.asked[0].json
    assert fake.asked[0].headers["accept"] == "application/json"


@pytest.mark.parametrize(("streamed", "always"), [(True, False), (False, True)])
async def test_a_stream_is_asked_for_where_one_is_wanted(streamed: bool, always: bool) -> None:
    words = "application/json where text/event-stream"
    with upstream(say(ANSWER)) as fake, pytest.raises(UpstreamError, match=words):
        await ask(fake.url, replace(ASKED, streamed=streamed), stream_always=always)
    assert fake.asked[0].json["stream"] is True


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({**ANSWER, "usage": None}, "no usage"),
        ({**ANSWER, "choices": []}, "0 of 1 choices"),
        ({**ANSWER, "choices": [{"index": 0, "message": 7, "finish_reason": "stop"}]}, "shape"),
        ({"error": {"message": "out of memory"}}, "out of memory"),
        ([1], "not an object"),
    ],
)
async def test_half_an_answer_is_an_error(tree: object, words: str) -> None:
    with upstream(say(tree)) as fake, pytest.raises(UpstreamError, match=words):
        await ask(fake.url)


async def test_a_cut_off_body_is_an_error() -> None:
    body = json.dumps(ANSWER).encode()
    cut = Say(body=body[:-20], kind="application/json")
    with upstream(cut) as fake, pytest.raises(UpstreamError, match="not JSON"):
        await ask(fake.url)


def test_an_endless_answer_is_refused() -> None:
    reader = WholeReader(choices=1)
    reader.push(b" " * (16 << 20))
    with pytest.raises(UpstreamError, match="larger than"):
        reader.push(b" ")


async def test_a_refusal_keeps_its_meaning() -> None:
    body = b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'
    busy = Say(body=body, status=429, kind="application/json")
    with upstream(busy) as fake, pytest.raises(Overloaded, match="slow down"):
        await ask(fake.url)
