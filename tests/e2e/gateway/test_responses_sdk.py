"""The official `openai` client's Responses API, plain and asynchronous, against the gateway."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from gateway_server import Gateway, serving
from headrace.errors import UpstreamError
from headrace.testing import Pause, Step
from headrace.types import (
    ChatRequest,
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

STARTED = Started(id="x", model="m", created_s=1, prompt_tokens=30, seed=9)
USAGE = Usage(prompt_tokens=30, cached_tokens=20, completion_tokens=5, reasoning_tokens=2)
CALLS: list[Step] = [
    STARTED,
    ReasoningDelta(text="let me "),
    ReasoningDelta(text="see", signature="sig"),
    TextDelta(text="I "),
    TextDelta(text="look."),
    ToolCallDelta(call=0, id="c1", name="f"),
    ToolCallDelta(call=0, arguments='{"a": 1}'),
    ToolCallDelta(call=1, id="c2", name="g", arguments="{}"),
    Finished(reason=FinishReason.TOOL_CALLS, usage=USAGE),
]
FUNCTION: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with serving() as running:
        yield running


def sdk(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0)


def test_whole_and_streamed_say_the_same(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        whole = client.responses.create(model="m", input="hi", metadata={"a": "b"})
        with client.responses.stream(model="m", input="hi") as stream:
            streamed = stream.get_final_response()
    assert whole.output_text == streamed.output_text == "Hello, world"
    assert whole.status == streamed.status == "completed"
    assert whole.usage == streamed.usage
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (7, 3)
    assert whole.usage.input_tokens_details.cached_tokens == 2
    assert whole.metadata == {"a": "b"}


async def test_async_client(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(
        base_url=gateway.url + "/v1", api_key="x", max_retries=0
    ) as client:
        whole = await client.responses.create(model="m", input="hi", max_output_tokens=2)
        assert whole.status == "incomplete"
        assert whole.incomplete_details is not None
        assert whole.incomplete_details.reason == "max_output_tokens"
        kinds: list[str] = []
        numbers: list[int] = []
        async for event in await client.responses.create(model="m", input="hi", stream=True):
            kinds.append(event.type)
            numbers.append(event.sequence_number)
    assert numbers == [*range(len(numbers))]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_items_of_thoughts_text_and_calls() -> None:
    with serving(CALLS) as gateway, sdk(gateway) as client:
        whole = client.responses.create(
            model="m", input="hi", include=["reasoning.encrypted_content"]
        )
        with client.responses.stream(model="m", input="hi") as stream:
            streamed = stream.get_final_response()
    for answer in (whole, streamed):
        thought, message, first, second = (item.to_dict() for item in answer.output)
        assert thought["content"] == [{"type": "reasoning_text", "text": "let me see"}]
        assert message["type"] == "message"
        assert answer.output_text == "I look."
        assert (first["name"], first["call_id"], first["arguments"]) == ("f", "c1", '{"a": 1}')
        assert (second["name"], second["call_id"], second["arguments"]) == ("g", "c2", "{}")
        assert answer.usage is not None
        assert answer.usage.output_tokens_details.reasoning_tokens == 2
    assert whole.output[0].to_dict()["encrypted_content"] == "sig"
    assert "encrypted_content" not in streamed.output[0].to_dict()


def test_an_answer_can_be_sent_back_as_input() -> None:
    with serving(CALLS) as gateway, sdk(gateway) as client:
        answer = client.responses.create(
            model="m", input="hi", include=["reasoning.encrypted_content"], tools=[FUNCTION]
        )
        items: list[Any] = [
            {"role": "user", "content": "hi"},
            *(item.to_dict() for item in answer.output),
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "and?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,aGk="},
                ],
            },
        ]
        client.responses.create(
            model="m",
            input=items,
            instructions="be brief",
            tools=[FUNCTION],
            tool_choice={"type": "function", "name": "f"},
            parallel_tool_calls=False,
            reasoning={"effort": "low"},
            text={"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}},
            user="u",
        )
        request = gateway.backend.requests[-1]
        assert gateway.last().end_user in ("", "u")
    assert isinstance(request, ChatRequest)
    roles = [message.role for message in request.messages]
    assert roles == [Role.DEVELOPER, Role.USER, Role.ASSISTANT, Role.TOOL, Role.USER]
    thought, _, first, second = request.messages[2].parts
    assert thought == ReasoningPart(text="let me see", signature="sig")
    assert isinstance(first, ToolCallPart)
    assert isinstance(second, ToolCallPart)
    [result] = request.messages[3].parts
    assert isinstance(result, ToolResultPart)
    assert result.text == "42"
    assert isinstance(request.messages[4].parts[1], ImagePart)
    assert (request.tool_choice, request.tool_name) == (ToolChoice.REQUIRED, "f")
    assert not request.parallel_tool_calls
    assert request.reasoning.effort == "low"
    assert request.format.kind is FormatKind.JSON_SCHEMA


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"input": [{"type": "item_reference"}]}, "input[].id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"input": []}, "input"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input[0]"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"include": ["file_search_call.results"]}, "include[0]"),
    ({"truncation": "auto"}, "truncation"),
    ({"temperature": 3}, "temperature"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"extra_body": {"best_of": 2}}, "best_of"),
]


@pytest.mark.parametrize(("change", "param"), WRONG)
def test_what_is_wrong_is_named(gateway: Gateway, change: dict[str, Any], param: str) -> None:
    call: dict[str, Any] = {"model": "m", "input": "hi", **change}
    with sdk(gateway) as client, pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**call)
    assert (caught.value.param or "").startswith(param)
    assert param in caught.value.message


def test_an_error_in_the_middle_is_a_failed_response() -> None:
    script = [STARTED, TextDelta(text="Hel"), UpstreamError("it broke")]
    with serving(script) as gateway, sdk(gateway) as client:
        events: list[Any] = list(client.responses.create(model="m", input="hi", stream=True))
    assert events[-2].type == "error"
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.message == "it broke"
    assert events[-1].response.output[0].content[0].text == "Hel"
    with serving([UpstreamError("it broke")]) as gateway, sdk(gateway) as client:
        for stream in (True, False):
            with pytest.raises(openai.InternalServerError, match="it broke"):
                client.responses.create(model="m", input="hi", stream=stream)


def test_a_client_that_leaves_cancels() -> None:
    script = [STARTED, TextDelta(text="Hel"), Pause(seconds=30)]
    with serving(script) as gateway, sdk(gateway) as client:
        stream = client.responses.create(model="m", input="hi", stream=True)
        next(iter(stream))
        stream.close()
        gateway.wait(lambda: gateway.backend.running == 0, timeout_s=1)
        assert gateway.backend.cancelled
