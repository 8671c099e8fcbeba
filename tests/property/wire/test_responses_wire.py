"""Responses: what is stored reads as it was sent and said; whatever the bytes, an error at most."""

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import UserError
from headrace.types import (
    Finished,
    FinishReason,
    Part,
    ReasoningDelta,
    ReasoningPart,
    Started,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
    Usage,
)
from headrace.wire import responses_lists, responses_request
from headrace.wire.query import Query
from headrace.wire.responses_answers import ResponseEncoder
from headrace.wire.responses_items import read_items, stored_items

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
CALL_IDS = st.sampled_from(["c1", "c2"])
SPOKEN = st.lists(
    st.one_of(
        TEXTS.map(lambda t: {"type": "output_text", "text": t, "annotations": []}),
        TEXTS.map(lambda t: {"type": "input_text", "text": t}),
    ),
    min_size=1,
    max_size=3,
)
ASKED = st.lists(
    st.one_of(
        TEXTS.map(lambda t: {"type": "input_text", "text": t}),
        st.just({"type": "input_image", "image_url": "data:image/png;base64,aGk="}),
        st.just({"type": "input_file", "filename": "a.pdf", "file_url": "https://e.com/a.pdf"}),
    ),
    min_size=1,
    max_size=3,
)
ITEMS = st.lists(
    st.one_of(
        st.builds(lambda c: {"role": "user", "content": c}, TEXTS | ASKED),
        st.builds(lambda c: {"type": "message", "role": "assistant", "content": c}, TEXTS | SPOKEN),
        st.builds(
            lambda i, a: {"type": "function_call", "call_id": i, "name": "f", "arguments": a},
            CALL_IDS,
            TEXTS,
        ),
        st.builds(
            lambda i, o: {"type": "function_call_output", "call_id": i, "output": o},
            CALL_IDS,
            TEXTS,
        ),
        st.builds(
            lambda t, s: {
                "type": "reasoning",
                "id": None,
                "summary": [],
                "content": [{"type": "reasoning_text", "text": t}],
                "encrypted_content": s,
            },
            TEXTS,
            st.none() | TEXTS | TEXTS.map(lambda t: "redacted:" + t),
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(items=ITEMS, later=st.lists(st.just({"role": "user", "content": "and?"}), max_size=1))
def test_stored_items_read_as_they_were_sent(items: list[Any], later: list[Any]) -> None:
    try:
        sent = read_items([*items, *later])
    except UserError:
        return  # an output without its call
    stored = json.loads(json.dumps(stored_items(items, of="resp_ab")))
    assert read_items(later, earlier=stored) == sent
    ids = [item["id"] for item in stored]
    assert len(set(ids)) == len(ids)
    assert all(id.split("_")[1] == "ab" for id in ids)


DELTAS = st.lists(
    st.one_of(
        TEXTS.map(lambda t: TextDelta(text=t)),
        st.builds(
            lambda t, s: ReasoningDelta(text=t, signature=s), TEXTS, st.sampled_from(["", "sig"])
        ),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(deltas=DELTAS, calls=st.lists(TEXTS, max_size=3))
def test_an_answer_reads_as_it_was_said(deltas: list[Any], calls: list[str]) -> None:
    call = responses_request.decode(b'{"model": "m", "input": "x"}')
    encoder = ResponseEncoder(call, id="resp_ab", model="m", stored=True)
    events = [
        Started(id="x", model="m", created_s=1, prompt_tokens=1),
        *deltas,
        *(
            ToolCallDelta(call=at, id=f"c{at}", name="f", arguments=text)
            for at, text in enumerate(calls)
        ),
        Finished(reason=FinishReason.STOP, usage=Usage(prompt_tokens=1)),
    ]
    frames = b"".join([*(encoder.push(event) for event in events), encoder.end()])
    told = [json.loads(line[6:]) for line in frames.split(b"\n") if line.startswith(b"data: {")]
    assert [event["sequence_number"] for event in told] == [*range(len(told))]
    stored = json.loads(json.dumps(encoder.whole()["output"]))
    parts: list[Part] = [
        part for message in read_items([], earlier=stored) for part in message.parts
    ]
    assert "".join(p.text for p in parts if isinstance(p, TextPart)) == "".join(
        d.text for d in deltas if isinstance(d, TextDelta)
    )
    thoughts = [p for p in parts if isinstance(p, ReasoningPart)]
    told_thoughts = [d for d in deltas if isinstance(d, ReasoningDelta)]
    assert "".join(p.text for p in thoughts) == "".join(d.text for d in told_thoughts)
    assert [p.signature for p in thoughts if p.signature] == [
        d.signature for d in told_thoughts if d.signature
    ]
    assert [p.arguments for p in parts if isinstance(p, ToolCallPart)] == calls


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "id", "call_id", "output", "name"])
            | st.text(max_size=5),
            inner
            | st.sampled_from(["message", "user", "function_call", "item_reference", "input_text"]),
            max_size=4,
        )
    ),
    max_leaves=10,
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("m"), "input": JSON},
    optional=dict.fromkeys(
        (
            "tools",
            "text",
            "reasoning",
            "store",
            "previous_response_id",
            "include",
            "metadata",
            "stream_options",
            "tool_choice",
        ),
        JSON,
    ),
)


@settings(max_examples=80, deadline=None)
@given(body=BODIES, earlier=st.lists(JSON, max_size=2))
def test_nothing_but_a_user_error(body: Any, earlier: list[Any]) -> None:
    with contextlib.suppress(UserError):
        call = responses_request.decode(json.dumps(body).encode())
        responses_request.resume(call, earlier=earlier)


QUERIES = st.binary(max_size=30) | st.lists(
    st.tuples(
        st.sampled_from(["after", "limit", "order", "include", "include[]", "stream", "x"]),
        st.sampled_from(["", "1", "-1", "100", "101", "asc", "desc", "false", "é", "٣"]),
    ),
    max_size=4,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode())


@settings(max_examples=80, deadline=None)
@given(raw=QUERIES)
def test_a_query_is_read_or_refused(raw: bytes) -> None:
    for read in (responses_lists.decode_get, responses_lists.decode_page, Query):
        with contextlib.suppress(UserError):
            read(raw)
