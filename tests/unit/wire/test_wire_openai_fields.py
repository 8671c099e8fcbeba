"""Each field: honoured, refused by name, or accepted because it changes nothing."""

import json
from pathlib import Path
from typing import Any

import openai.types.chat.completion_create_params as chat_params
import openai.types.completion_create_params as completion_params
import pytest

from headrace.errors import InvalidParameter, UnknownParameter, UnsupportedParameter, UserError
from headrace.types import ImagePart, Integrity, ReasoningPart, Role, TextPart
from headrace.wire import openai_chat, openai_completions

USER = {"role": "user", "content": "hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [USER]}
RAW: dict[str, Any] = {"model": "m", "prompt": "hi"}


def chat(**change: Any) -> openai_chat.ChatCall:
    return openai_chat.decode(json.dumps({**CHAT, **change}).encode())


def raw(**change: Any) -> openai_completions.CompletionCall:
    return openai_completions.decode(json.dumps({**RAW, **change}).encode())


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -5}, "top_k"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 2.0}, "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
    ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": "a" * 1025}, "stop"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {"1": 1, "01": 1}}, "logit_bias.01"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ({"deadline_s": 0}, "deadline_s"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    (
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]},
        "messages[0].tool_call_id",
    ),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    (
        {"tools": [{"type": "function", "function": {"name": "f"}}] * 2},
        "tools[1].function.name",
    ),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"tool_choice": "required"}, "tool_choice"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice.function.name",
    ),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
]


@pytest.mark.parametrize(("change", "param"), INVALID)
def test_invalid_values_are_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        chat(**change)
    assert caught.value.param == param


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"metadata": {"a": "b"}}, "metadata"),
    ({"functions": []}, "functions"),
    ({"guided_json": {}}, "guided_json"),
    (
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
        "stream_options.continuous_usage_stats",
    ),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "refusal"}]}]},
        "messages[0].content[0].type",
    ),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "file",
                            "file": {"file_id": "f", "file_data": "data:text/plain;base64,"},
                        }
                    ],
                }
            ]
        },
        "messages[0].content[0].file.file_id",
    ),
    ({"tools": [{"type": "custom"}]}, "tools[0].type"),
]


@pytest.mark.parametrize(("change", "param"), UNSUPPORTED)
def test_unsupported_values_are_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat(**change)
    assert caught.value.param == param


def test_values_without_effect_are_accepted() -> None:
    for name, values in openai_chat.WITHOUT_EFFECT.items():
        for value in [None, *values]:
            chat(**{name: value})
    chat(response_format={"type": "text"}, tool_choice="none", prompt_cache_key="k")


@pytest.mark.parametrize(
    ("names", "decode"),
    [
        (chat_params.CompletionCreateParamsBase.__annotations__, chat),
        (completion_params.CompletionCreateParamsBase.__annotations__, raw),
    ],
)
def test_every_field_the_sdk_knows_is_known(names: dict[str, Any], decode: Any) -> None:
    for name in names:
        with pytest.raises(UserError) as caught:
            decode(**{name: {"no": "such"}})
        unknown = isinstance(caught.value, UnknownParameter) and caught.value.param == name
        assert not unknown, f"{name} is OpenAI's, but unknown here"


def test_unknown_fields_suggest_the_nearest() -> None:
    with pytest.raises(UnknownParameter, match="`temperature`"):
        chat(tempreature=1)
    with pytest.raises(UnknownParameter) as caught:
        chat(messages=[{**USER, "colour": None}])
    assert caught.value.param == "messages[0].colour"


def test_parts_get_the_label_of_their_author() -> None:
    url = "data:image/png;base64,aGk="
    call = chat(
        messages=[
            {"role": "developer", "content": "d"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "t"},
                    {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
                ],
            },
            {"role": "assistant", "content": "a", "reasoning_content": "r", "refusal": None},
        ]
    )
    developer, user, assistant = call.request.messages
    assert developer.role is Role.DEVELOPER
    assert developer.parts[0].label.integrity is Integrity.SYSTEM
    image = user.parts[1]
    assert isinstance(image, ImagePart)
    assert (image.data, image.media_type) == (b"hi", "image/png")
    assert [type(part) for part in assistant.parts] == [ReasoningPart, TextPart]
    assert assistant.parts[1].label.integrity is Integrity.MODEL


def test_raw_prompts() -> None:
    assert [item.prompt for item in raw(prompt=["a", "b"]).requests] == ["a", "b"]
    assert raw(prompt=[1, 2]).requests[0].prompt == (1, 2)
    assert [item.prompt for item in raw(prompt=[[1], [2]]).requests] == [(1,), (2,)]
    assert raw().requests[0].sampling.max_tokens == 16
    assert raw(logprobs=0).requests[0].sampling.logprobs == 0
    for prompt in ([], [[]], [1, "a"], ["a", 1], [-1], [1.5], 5, {}, ["a"] * 129):
        with pytest.raises(InvalidParameter):
            raw(prompt=prompt)
    with pytest.raises(UnsupportedParameter, match="best_of"):
        raw(best_of=3)
    raw(best_of=2, n=2)
    with pytest.raises(UnsupportedParameter, match="suffix"):
        raw(suffix="x")


def test_json_that_says_two_things(tmp_path: Path) -> None:
    for body in (
        b'{"model":"a","model":"b"}',
        b'{"model":"a","messages":[{"role":"user","role":"system"}]}',
    ):
        with pytest.raises(InvalidParameter, match="twice"):
            openai_chat.decode(body)
