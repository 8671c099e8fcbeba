"""Answers: echo and its log-probabilities, prompt_logprobs, reasons, formats and media parts."""

import json
import math
from typing import Any

import pytest

from headrace.errors import InvalidParameter
from headrace.types import (
    AudioPart,
    Choice,
    Collected,
    Event,
    Finished,
    FinishReason,
    FormatKind,
    Started,
    TextDelta,
    TokenText,
    Usage,
)
from headrace.wire import openai_chat, openai_completions
from headrace.wire.openai_answers import AnswerInfo, finish_fields

SCORED = TokenText(token=2, data=b"b", logprob=-1.0, top=((3, b"c", -0.5), (2, b"b", -1.0)))
SAMPLED = TokenText(token=4, data="é".encode()[:1], logprob=-math.inf)
STARTED = Started(
    id="x",
    model="m",
    created_s=1,
    prompt_tokens=2,
    prompt_ids=(1, 2),
    prompt_logprobs=(None, SCORED),
)
USAGE = Usage(prompt_tokens=2, completion_tokens=1)
INFO = AnswerInfo(id="cmpl-1", model="m", logprobs=True, return_token_ids=True, include_usage=True)
EVENTS: list[Event] = [
    STARTED,
    TextDelta(text="ab"),
    TextDelta(text="é", token_ids=(4,), logprobs=(SAMPLED,)),
    Finished(reason=FinishReason.LENGTH, usage=USAGE),
]
COLLECTED = Collected(
    started=STARTED,
    usage=USAGE,
    choices=(
        Choice(
            index=0,
            text="abé",
            reasoning="",
            tool_calls=(),
            finish=FinishReason.LENGTH,
            stop=None,
            token_ids=(4,),
            logprobs=(SAMPLED,),
        ),
    ),
)


def test_echo_scores_the_prompt_whole_and_streamed() -> None:
    whole = json.loads(openai_completions.encode(INFO, [COLLECTED], unscored=["a"]))
    [choice] = whole["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "�"]
    assert logprobs["token_logprobs"] == [None, -1.0, -9999.0]
    assert logprobs["top_logprobs"] == [None, {"c": -0.5, "b": -1.0}, {}]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([1, 2], [4])
    encoder = openai_completions.ChunkEncoder(INFO, choices_per_prompt=1, unscored=["a"])
    sent = b"".join([*(encoder.push(0, event) for event in EVENTS), encoder.end()])
    chunks = [json.loads(part.removeprefix("data: ")) for part in sent.decode().split("\n\n")[:-1]]
    assert "".join(item["text"] for chunk in chunks for item in chunk["choices"]) == "abé"
    joined: dict[str, list[Any]] = {name: [] for name in logprobs}
    for item in (item for chunk in chunks for item in chunk["choices"] if item["logprobs"]):
        for name, values in item["logprobs"].items():
            joined[name] += values
    assert joined == logprobs
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[0]["usage"] is None


def test_prompt_logprobs_in_vllms_shape() -> None:
    expected = [
        None,
        {
            "2": {"logprob": -1.0, "rank": 2, "decoded_token": "b"},
            "3": {"logprob": -0.5, "rank": 1, "decoded_token": "c"},
        },
    ]
    raw = json.loads(openai_completions.encode(INFO, [COLLECTED], unscored=[None]))
    assert raw["choices"][0]["prompt_logprobs"] == expected
    chat = json.loads(openai_chat.encode(INFO, COLLECTED))
    assert chat["prompt_logprobs"] == expected
    assert chat["prompt_token_ids"] == [1, 2]
    assert chat["choices"][0]["logprobs"]["content"][0]["bytes"] == [0xC3]


def test_what_was_cut_short_says_so() -> None:
    for reason in FinishReason:
        sent = finish_fields(reason, None)
        assert sent["finish_reason"] in ("stop", "length", "tool_calls", "content_filter")
        cut = reason in (FinishReason.DEADLINE, FinishReason.ABORT, FinishReason.ERROR)
        assert (sent["stop_reason"] == reason.value) is cut
    assert finish_fields(FinishReason.STOP, "x") == {"finish_reason": "stop", "stop_reason": "x"}


def decode(**change: Any) -> openai_chat.ChatCall:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **change}
    return openai_chat.decode(json.dumps(body).encode())


def test_a_schema_reaches_the_backend() -> None:
    schema = {"type": "object"}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    made = decode(response_format=wanted).request.format
    assert (made.kind, made.schema) == (FormatKind.JSON_SCHEMA, schema)
    with pytest.raises(InvalidParameter) as caught:
        decode(response_format={"type": "json_schema"})
    assert caught.value.param == "response_format.json_schema"


def test_sound_and_pictures() -> None:
    def part(value: dict[str, Any]) -> Any:
        messages = [{"role": "user", "content": [value]}]
        return decode(messages=messages).request.messages[0].parts[0]

    sound = part({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}})
    assert sound == AudioPart(media_type="audio/wav", data=b"hi")
    picture = part({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}})
    assert picture.url == "https://x.example/a.png"
    for bad in (
        {"type": "input_audio", "input_audio": {"data": "%", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "ogg"}},
        {"type": "image_url", "image_url": {"url": "data:text"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}},
        {"type": "text"},
    ):
        with pytest.raises(InvalidParameter, match="content"):
            part(bad)
