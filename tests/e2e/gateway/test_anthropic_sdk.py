"""The official `anthropic` client, plain and asynchronous, against the gateway."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from gateway_server import Gateway, serving
from headrace.errors import NotReady, Overloaded, Unauthorized, UpstreamError
from headrace.gateway.asgi import Services
from headrace.gateway.keys import Credentials
from headrace.testing import Pause, Step
from headrace.types import (
    Caller,
    ChatRequest,
    DocumentPart,
    Finished,
    FinishReason,
    FormatKind,
    ImagePart,
    ReasoningDelta,
    ReasoningPart,
    Role,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
)

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
STARTED = Started(id="x", model="m", created_s=1, prompt_tokens=30, seed=9)
USAGE = Usage(prompt_tokens=30, cached_tokens=20, cache_write_tokens=4, completion_tokens=5)
CALLS: list[Step] = [
    STARTED,
    ReasoningDelta(text="let me "),
    ReasoningDelta(text="see", signature="sig"),
    ReasoningDelta(text="", signature="cipher", redacted=True),
    TextDelta(text=""),
    TextDelta(text="I "),
    TextDelta(text="look."),
    ToolCallDelta(call=0, id="c1", name="f"),
    ToolCallDelta(call=0, arguments='{"a": '),
    ToolCallDelta(call=0, arguments="1}"),
    ToolCallDelta(call=1, id="c2", name="g"),
    Finished(reason=FinishReason.TOOL_CALLS, usage=USAGE),
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with serving() as running:
        yield running


def sdk(gateway: Gateway, *, api_key: str = "none") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=api_key, max_retries=0)


def test_whole_and_streamed_say_the_same(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        whole = client.messages.create(model="m", max_tokens=9, messages=MESSAGES)
        with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
            text = "".join(stream.text_stream)
            streamed = stream.get_final_message()
    assert text == "Hello, world"
    assert [block.model_dump() for block in whole.content] == [
        {"type": "text", "text": "Hello, world", "citations": None}
    ]
    assert streamed.content[0].to_dict()["text"] == "Hello, world"
    assert whole.stop_reason == streamed.stop_reason == "end_turn"
    assert (whole.usage.input_tokens, whole.usage.cache_read_input_tokens) == (5, 2)
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 3
    assert streamed.usage.input_tokens == 5
    assert whole.id.startswith("msg_")
    assert whole._request_id is not None


async def test_async_client(gateway: Gateway) -> None:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="x", max_retries=0) as client:
        whole = await client.messages.create(model="m", max_tokens=2, messages=MESSAGES)
        assert whole.stop_reason == "max_tokens"
        texts: list[str] = []
        async with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
            async for piece in stream.text_stream:
                texts.append(piece)
        count = await client.messages.count_tokens(model="m", messages=MESSAGES)
    assert texts == ["Hello", ", ", "world"]
    assert count.input_tokens == 3


def test_blocks_of_thinking_text_and_calls() -> None:
    with serving(CALLS) as gateway, sdk(gateway) as client:
        whole = client.messages.create(model="m", max_tokens=9, messages=MESSAGES)
        kinds: list[tuple[str, Any]] = []
        with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
            for event in stream:
                if event.type in ("content_block_start", "content_block_stop"):
                    at = event.to_dict()["index"]
                    kinds.append((event.type.removeprefix("content_block_"), at))
            streamed = stream.get_final_message()
    expected: list[Any] = [
        {"type": "thinking", "thinking": "let me see", "signature": "sig"},
        {"type": "redacted_thinking", "data": "cipher"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
    ]
    for message in (whole, streamed):
        found = [block.to_dict() for block in message.content]
        assert [{k: v for k, v in block.items() if v is not None} for block in found] == expected
        assert message.stop_reason == "tool_use"
        usage = message.usage
        assert (usage.input_tokens, usage.output_tokens) == (6, 5)
        assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (20, 4)
    assert kinds == [(kind, at) for at in range(5) for kind in ("start", "stop")]


def test_stop_reasons() -> None:
    def end(reason: FinishReason, stop: str | None = None) -> Any:
        script = [STARTED, Finished(reason=reason, stop=stop, usage=USAGE)]
        with serving(script) as gateway, sdk(gateway) as client:
            return client.messages.create(model="m", max_tokens=9, messages=MESSAGES)

    stopped = end(FinishReason.STOP, "END")
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "END")
    assert end(FinishReason.CONTENT_FILTER).stop_reason == "refusal"
    assert end(FinishReason.DEADLINE).stop_reason == "max_tokens"


def test_everything_reaches_the_backend(gateway: Gateway) -> None:
    messages: list[Any] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
                },
                {
                    "type": "document",
                    "title": "d",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": "ö"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "42"}],
                    "is_error": True,
                },
                {"type": "text", "text": "and?"},
            ],
        },
        {"role": "assistant", "content": "Well"},
    ]
    with sdk(gateway) as client:
        client.messages.create(
            model="m",
            max_tokens=2048,
            system=[{"type": "text", "text": "be brief"}],
            messages=messages,
            tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            thinking={"type": "enabled", "budget_tokens": 1024},
            stop_sequences=["x"],
            extra_body={"top_k": 4, "temperature": 0.5},  # newer SDKs know them no more
            metadata={"user_id": "u"},
            output_config={
                "effort": "high",
                "format": {"type": "json_schema", "schema": {"type": "object"}},
            },
        )
    request = gateway.backend.requests[-1]
    assert isinstance(request, ChatRequest)
    roles = [message.role for message in request.messages]
    assert roles == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL, Role.USER, Role.ASSISTANT]
    _, image, document = request.messages[1].parts
    assert isinstance(image, ImagePart)
    assert image.data == b"hi"
    assert isinstance(document, DocumentPart)
    assert document.data == b"hi"
    thought, redacted, call = request.messages[2].parts
    assert thought == ReasoningPart(text="hm", signature="s")
    assert redacted == ReasoningPart(text="", signature="x", redacted=True)
    assert isinstance(call, ToolCallPart)
    assert json.loads(call.arguments) == {"a": "ö"}
    [result] = request.messages[3].parts
    assert isinstance(result, ToolResultPart)
    assert (result.text, result.is_error) == ("42", True)
    assert (request.tool_choice, request.tool_name) == (ToolChoice.REQUIRED, "f")
    assert not request.parallel_tool_calls
    assert request.continue_final_message
    assert request.prompt_cache == "5m"
    assert request.reasoning.budget_tokens == 1024
    assert request.reasoning.effort == "high"
    assert request.format.kind is FormatKind.JSON_SCHEMA
    assert request.sampling.stop == ("x",)
    assert (request.sampling.top_k, request.sampling.temperature) == (4, 0.5)
    assert gateway.last().end_user == "u"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"extra_body": {"temperature": 1.5}}, "temperature"),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
    ({"tools": [{"type": "web_search_20250305", "name": "s"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"extra_body": {"container": "c"}}, "container"),
    ({"extra_body": {"frequency_penalty": 1}}, "frequency_penalty"),
    ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages[0].content[0]"),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "nobody"}]}
            ]
        },
        "messages[0].content[0].tool_use_id",
    ),
]


@pytest.mark.parametrize(("change", "param"), WRONG)
def test_what_is_wrong_is_named(gateway: Gateway, change: dict[str, Any], param: str) -> None:
    call: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": MESSAGES, **change}
    with sdk(gateway) as client, pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**call)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"].startswith(param)
    assert param in body["error"]["message"]


def test_errors_have_anthropics_shape() -> None:
    cases: list[tuple[Exception, type[anthropic.APIStatusError], str]] = [
        (Overloaded("full", retry_after_s=7), anthropic.RateLimitError, "rate_limit_error"),
        (NotReady("starting"), anthropic.InternalServerError, "overloaded_error"),
        (UpstreamError("nonsense"), anthropic.InternalServerError, "api_error"),
    ]
    for error, kind, name in cases:
        with serving([error]) as gateway, sdk(gateway) as client:
            with pytest.raises(kind) as caught:
                client.messages.create(model="m", max_tokens=9, messages=MESSAGES)
            body: Any = caught.value.body
            assert body["error"]["type"] == name
            assert caught.value.response.headers["retry-after"] in ("7", "1")
            with (
                pytest.raises(kind),
                client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream,
            ):
                stream.until_done()
    with serving() as gateway, sdk(gateway) as client:
        with pytest.raises(anthropic.NotFoundError) as missing:
            client.messages.create(model="nope", max_tokens=9, messages=MESSAGES)
        assert "'nope' is not served here" in str(missing.value)


def test_an_error_in_the_middle_is_an_error_event() -> None:
    script = [STARTED, TextDelta(text="Hel"), UpstreamError("it broke")]
    with serving(script) as gateway, sdk(gateway) as client:
        texts: list[str] = []
        with (
            pytest.raises(anthropic.APIStatusError, match="it broke"),
            client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream,
        ):
            texts.extend(stream.text_stream)
    assert texts == ["Hel"]


def test_calls_that_no_message_can_hold_are_one_clear_error() -> None:
    script = [
        STARTED,
        ToolCallDelta(call=0, id="c", name="f", arguments="{oops"),
        Finished(reason=FinishReason.TOOL_CALLS, usage=USAGE),
    ]
    with (
        serving(script) as gateway,
        sdk(gateway) as client,
        pytest.raises(anthropic.InternalServerError, match="no JSON object"),
    ):
        client.messages.create(model="m", max_tokens=9, messages=MESSAGES)


class OneKey:
    """Knows `right`, in the header of Anthropic's older clients or of the newer ones."""

    async def identify(self, credentials: Credentials) -> Caller:
        if "right" not in (credentials.api_key or credentials.authorization or ""):
            raise Unauthorized("this API key is not valid here")
        return Caller()


def test_keys_as_anthropics_clients_send_them() -> None:
    with serving(base=Services(models={}, keys=OneKey())) as gateway:
        with sdk(gateway, api_key="right") as client:
            client.messages.create(model="m", max_tokens=9, messages=MESSAGES)
        with sdk(gateway) as client, pytest.raises(anthropic.AuthenticationError):
            client.messages.create(model="m", max_tokens=9, messages=MESSAGES)


def test_a_client_that_leaves_cancels() -> None:
    script = [STARTED, TextDelta(text="Hel"), Pause(seconds=30)]
    with serving(script) as gateway, sdk(gateway) as client:
        with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as stream:
            next(iter(stream.text_stream))
        gateway.wait(lambda: gateway.backend.running == 0, timeout_s=1)
        assert gateway.backend.cancelled
