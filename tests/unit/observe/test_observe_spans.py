"""A request's place in a trace, its spans, and the names that the conventions give them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.observe.context import join
from headrace.observe.genai import BOTH, LATEST, NAMES, OLD, named
from headrace.observe.parameters import as_object, effective
from headrace.observe.spans import Span, spans
from headrace.observe.usage import UsageRecord
from headrace.types import (
    ChatRequest,
    Leg,
    Note,
    ReasoningParams,
    SamplingParams,
    ToolChoice,
    Usage,
)

ID = "0123456789abcdef0123456789abcdee"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RECORD = UsageRecord(
    id=ID,
    route="/v1/chat/completions",
    status=200,
    finish="stop",
    key_id="k",
    model="route",
    streamed=True,
    usage=Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=6),
    started_s=1_764_000_000.25,
    duration_s=1.0,
    admission_s=0.5,
    first_token_s=0.6,
    legs=(
        Leg(
            provider="one",
            model="big",
            usage=Usage(),
            outcome="upstream_error",
            seconds=0.2,
            ended_s=100.3,
        ),
        Leg(
            provider="",
            model="sprout",
            usage=Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=6),
            outcome="stop",
            seconds=0.65,
            ended_s=100.95,
        ),
    ),
    notes=(Note(hop="router", text="the first rule", facts={"rule": 1}, at_s=100.07),),
)
MARKS = {"identified": 0.01, "decoded": 0.02, "rendered": 0.03, "held": 0.05, "last": 0.9}


def made(record: UsageRecord = RECORD, parent: str | None = PARENT) -> tuple[Span, ...]:
    parameters = {"temperature": 0.5, "max_tokens": None, "n": 1, "stop": ["x"]}
    return spans(record, join(ID, parent), began_s=100.0, marks=MARKS, parameters=parameters)


def test_the_tree() -> None:
    found = {span.name: span for span in made()}
    assert list(found) == [
        "POST /v1/chat/completions",
        "identify",
        "receive",
        "render",
        "admission",
        "route",
        "chat big",
        "chat sprout",
        "queue",
        "prefill",
        "decode",
    ]
    root, answered = found["POST /v1/chat/completions"], found["chat sprout"]
    assert (root.parent, root.kind, root.error) == ("b7ad6b7169203331", "server", "")
    assert found["chat big"].error == "upstream_error"
    assert answered.error == ""
    assert {found[name].parent for name in ("queue", "prefill", "decode")} == {answered.id}
    assert {found[name].parent for name in ("route", "chat big", "receive")} == {root.id}
    assert len({span.id for span in found.values()}) == len(found)
    assert math.isclose(found["chat big"].start_s, 0.1)
    assert math.isclose(found["route"].end_s, 0.1)
    assert [event.name for event in found["route"].events] == ["router"]
    assert found["route"].events[0].attributes == {"text": "the first rule", "rule": 1}
    assert (found["prefill"].start_s, found["prefill"].end_s) == (0.5, 0.6)
    assert (found["decode"].start_s, found["decode"].end_s) == (0.6, 0.9)
    for span in found.values():
        assert 0 <= span.start_s <= span.end_s <= root.end_s


def test_a_refused_request_has_a_root_alone() -> None:
    refused = UsageRecord(
        id=ID, route="/v1/chat/completions", status=401, finish="invalid_api_key", duration_s=0.1
    )
    [root] = spans(refused, join(ID, None), began_s=0, marks={}, parameters={})
    assert root.error == "invalid_api_key"
    assert root.parent == ""
    assert root.genai == {}


def test_names_by_version() -> None:
    root = made()[0]
    old, latest = dict(named(root.genai, OLD)), dict(named(root.genai, LATEST))
    leg = made()[6]
    assert dict(named(leg.genai, OLD))["gen_ai.system"] == "one"
    assert dict(named(leg.genai, LATEST))["gen_ai.provider.name"] == "one"
    assert "gen_ai.provider.name" not in dict(named(leg.genai, OLD))
    assert latest["gen_ai.usage.cache_read.input_tokens"] == 4
    assert latest["gen_ai.response.time_to_first_chunk"] == 0.6
    assert not any("cache" in name for name in old)
    for found in (old, latest):
        assert found["gen_ai.usage.input_tokens"] == 10
        assert found["gen_ai.request.temperature"] == 0.5
        assert found["gen_ai.operation.name"] == "chat"
        assert "gen_ai.request.max_tokens" not in found  # None = the rest of the context
    both = list(named(root.genai, BOTH))
    assert len(both) == len(dict(both))
    assert dict(both) == old | latest
    assert all(name.old or name.latest for name in NAMES.values())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        PARENT + "-more",
    ],
)
def test_a_malformed_parent_begins_a_trace(header: str | None) -> None:
    context = join(ID, header, "a=b")
    assert context.trace_id == ID
    assert (context.parent_id, context.state, context.sampled) == ("", "", True)


def test_a_parent_is_joined_and_passed_on() -> None:
    context = join(ID, PARENT, "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE")
    assert context.traceparent == f"00-0af7651916cd43dd8448eb211c80319c-{ID[16:]}-01"
    assert context.state == "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    assert not join(ID, PARENT[:-1] + "0").sampled
    later = join(ID, PARENT.replace("00-", "cc-", 1) + "-what-comes")
    assert later.parent_id == "b7ad6b7169203331"  # a version yet to be: read as far as known
    assert join(ID, PARENT, "Not Valid").state == ""
    assert join(ID, PARENT, ",".join(f"k{at}=v" for at in range(33))).state == ""


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_header_breaks_it(parent: str, state: str) -> None:
    context = join(ID, parent, state)
    assert join(ID, context.traceparent).trace_id == context.trace_id
    assert context.state.isascii()


def test_every_parameter_says_where_it_is_from() -> None:
    sampling = SamplingParams(
        temperature=1.0, max_tokens=100, given=frozenset({"temperature", "max_tokens"})
    )
    asked = ChatRequest(
        model="m",
        messages=(),
        sampling=sampling,
        tool_choice=ToolChoice.NONE,
        reasoning=ReasoningParams(effort="low"),
    )
    admitted = SamplingParams(temperature=1.0, max_tokens=40, given=sampling.given)
    notes = [
        Note(hop="router", text="generation_config", facts={"temperature": 9}),
        Note(hop="parameters", text="generation_config", facts={"top_k": 20}),
        Note(hop="parameters", text="drawn", facts={"seed": 7}),
    ]
    found = as_object(effective(asked, admitted, notes))
    assert found["temperature"] == {"value": 1.0, "origin": "request"}  # though it is the default
    assert found["max_tokens"] == {"value": 40, "origin": "clamp"}
    assert found["top_k"] == {"value": 20, "origin": "generation_config"}
    assert found["seed"] == {"value": 7, "origin": "drawn"}
    assert found["top_p"] == {"value": 1.0, "origin": "default"}
    assert found["tool_choice"] == {"value": "none", "origin": "request"}
    assert found["reasoning_effort"] == {"value": "low", "origin": "request"}
    assert found["response_format"] == {"value": "text", "origin": "default"}
