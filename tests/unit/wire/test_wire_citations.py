"""Citations in the three protocols: what the official clients read of them, streamed and whole."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawContentBlockDeltaEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseOutputTextAnnotationAddedEvent

from headrace.types import (
    Citation,
    CitationVerdict,
    Collected,
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    Usage,
    collect,
)
from headrace.wire import anthropic_answers, anthropic_messages, openai_chat
from headrace.wire.openai_answers import AnswerInfo
from headrace.wire.responses_answers import ResponseEncoder
from headrace.wire.responses_request import decode as decode_response

GOOD = Citation(
    document="https://example.org/oil",
    title="Oil crisis",
    source=1,
    start=10,
    end=29,
    quote="began in October 73",
    support=0.93,
    verdict=CitationVerdict.SUPPORTED,
    claim_start=0,
    claim_end=23,
    mark_start=23,
    mark_end=27,
)
FILE = Citation(
    document="reports/1973.pdf",
    source=2,
    start=0,
    end=4,
    quote="Text",
    support=0.8,
    verdict=CitationVerdict.SUPPORTED,
    claim_start=27,
    claim_end=37,
    mark_start=37,
    mark_end=41,
)
BAD = Citation(
    document="",
    source=7,
    start=0,
    end=0,
    support=0.0,
    verdict=CitationVerdict.INVENTED,
    reason="there are 2 sources",
    claim_start=41,
    claim_end=51,
    mark_start=51,
    mark_end=55,
)
EVENTS: list[Event] = [
    Started(id="x", model="m", created_s=1, prompt_tokens=2),
    TextDelta(text="It began in October 73."),
    TextDelta(text=" [1]"),
    GOOD,
    TextDelta(text=" Two more. [2]"),
    FILE,
    TextDelta(text=" And more. [7]"),
    BAD,
    Finished(reason=FinishReason.STOP, usage=Usage(prompt_tokens=2, completion_tokens=9)),
]


async def _replayed() -> AsyncIterator[Event]:
    for event in EVENTS:
        yield event


def collected() -> Collected:
    return asyncio.run(collect(_replayed()))


def frames(sent: bytes) -> list[dict[str, Any]]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in sent.decode().splitlines()
        if line.startswith("data: {")
    ]


def test_collect_keeps_citations_in_order() -> None:
    [choice] = collected().choices
    assert choice.citations == (GOOD, FILE, BAD)
    assert not choice.not_in_sources
    for item in choice.citations:
        assert choice.text[item.mark_start : item.mark_end].strip() == f"[{item.source}]"


def test_chat_whole_and_streamed_are_openais_and_ours() -> None:
    body = json.loads(openai_chat.encode(AnswerInfo(id="c", model="m"), collected()))
    message = ChatCompletion.model_validate(body).choices[0].message
    assert message.annotations is not None
    assert [item.url_citation.url for item in message.annotations] == [
        "https://example.org/oil",
        "reports/1973.pdf",
    ]
    first = message.annotations[0].url_citation
    assert (first.start_index, first.end_index, first.title) == (23, 27, "Oil crisis")
    ours = body["choices"][0]["message"]["citations"]
    assert [item["verdict"] for item in ours] == ["supported", "supported", "invented"]
    assert ours[0]["quote"] == "began in October 73"
    assert ours[2]["reason"] == "there are 2 sources"
    encoder = openai_chat.ChunkEncoder(AnswerInfo(id="c", model="m"))
    chunks = frames(b"".join(encoder.push(event) for event in EVENTS))
    deltas = [ChatCompletionChunk.model_validate(chunk).choices[0].delta for chunk in chunks]
    streamed = [delta.model_extra or {} for delta in deltas]
    assert [item for extra in streamed for item in extra.get("citations", [])] == ours
    assert [item for extra in streamed for item in extra.get("annotations", [])] == body["choices"][
        0
    ]["message"]["annotations"]


def test_responses_annotations_count_within_their_part() -> None:
    call = decode_response(b'{"model": "m", "input": "when?"}')
    encoder = ResponseEncoder(call, id="resp_1", model="m")
    sent = frames(b"".join(encoder.push(event) for event in EVENTS))
    added = [item for item in sent if item["type"] == "response.output_text.annotation.added"]
    events = [ResponseOutputTextAnnotationAddedEvent.model_validate(item) for item in added]
    assert [event.annotation_index for event in events] == [0, 1]
    whole = encoder.whole()
    [part] = Response.model_validate(whole).output[0].content  # type: ignore[union-attr]
    assert part.type == "output_text"
    url, file = part.annotations
    assert url.type == "url_citation"
    assert part.text[url.start_index : url.end_index] == " [1]"
    assert file.type == "file_citation"
    assert file.file_id == "reports/1973.pdf"
    assert [item["annotation"] for item in added] == whole["output"][0]["content"][0]["annotations"]
    assert len(whole["output"][0]["content"][0]["citations"]) == 3


def test_anthropic_blocks_end_where_they_are_cited() -> None:
    body = json.loads(anthropic_answers.encode(EVENTS, id="msg_1", model="m"))
    message = AnthropicMessage.model_validate(body)
    texts = [block for block in message.content if block.type == "text"]
    assert [block.text for block in texts] == [
        "It began in October 73. [1]",
        " Two more. [2]",
        " And more. [7]",
    ]
    assert texts[0].citations is not None
    [found] = texts[0].citations
    assert found.type == "char_location"
    assert (found.document_index, found.start_char_index, found.end_char_index) == (0, 10, 29)
    assert not texts[2].citations
    assert [item["verdict"] for item in body["citations"]][-1] == "invented"
    encoder = anthropic_answers.MessageEncoder(id="msg_1", model="m")
    sent = frames(b"".join(encoder.push(event) for event in EVENTS))
    deltas = [item for item in sent if item["type"] == "content_block_delta"]
    for item in deltas:
        RawContentBlockDeltaEvent.model_validate(item)
    cited = {
        item["index"]: item["delta"]["citation"]
        for item in deltas
        if item["delta"]["type"] == "citations_delta"
    }
    assert cited == {at: body["content"][at]["citations"][0] for at in (0, 1)}
    assert sent[-1]["citations"] == body["citations"]


def test_an_answer_that_is_not_in_the_sources_says_so_everywhere() -> None:
    said = [
        EVENTS[0],
        TextDelta(text="The sources do not say."),
        Finished(reason=FinishReason.STOP, usage=Usage(), not_in_sources=True),
    ]
    encoder = openai_chat.ChunkEncoder(AnswerInfo(id="c", model="m"))
    assert frames(b"".join(encoder.push(event) for event in said))[-1]["choices"][0][
        "not_in_sources"
    ]
    assert json.loads(anthropic_answers.encode(said, id="i", model="m"))["not_in_sources"]
    responses = ResponseEncoder(decode_response(b'{"model": "m", "input": "?"}'), id="r", model="m")
    for event in said:
        responses.push(event)
    assert responses.whole()["not_in_sources"] is True


@pytest.mark.parametrize("surface", ["chat", "responses", "anthropic"])
def test_what_a_client_was_told_of_an_answer_may_be_sent_back(surface: str) -> None:
    note = [{"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}]
    user, more = {"role": "user", "content": "hi"}, {"role": "user", "content": "and?"}
    if surface == "chat":
        said: dict[str, Any] = {"role": "assistant", "content": "x", "annotations": note}
        messages = [user, {**said, "citations": [{}]}, more]
        request = openai_chat.decode(
            json.dumps({"model": "m", "messages": messages}).encode()
        ).request
    elif surface == "responses":
        part = {"type": "output_text", "text": "x", "annotations": note, "citations": [{}]}
        items = [user, {"type": "message", "role": "assistant", "content": [part]}, more]
        request = decode_response(json.dumps({"model": "m", "input": items}).encode()).request
    else:
        block = {"type": "text", "text": "x", "citations": note}
        turns = [user, {"role": "assistant", "content": [block]}, more]
        body = {"model": "m", "max_tokens": 5, "messages": turns}
        request = anthropic_messages.decode(json.dumps(body).encode()).request
    assert [message.text for message in request.messages] == ["hi", "x", "and?"]
