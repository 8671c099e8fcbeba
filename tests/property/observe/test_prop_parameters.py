"""Effective parameters beside the slow way to say it: every name, asked one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.observe.parameters import Parameter, effective
from headrace.types import (
    ChatRequest,
    CompletionRequest,
    FormatKind,
    Note,
    ReasoningParams,
    ResponseFormat,
    SamplingParams,
    ToolChoice,
)

_NAMES = [item.name for item in fields(SamplingParams) if item.name != "given"]
_SAMPLING = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1.0, 0.5]),
    top_k=st.sampled_from([0, 20]),
    max_tokens=st.sampled_from([None, 1, 90]),
    seed=st.sampled_from([None, 0, 7]),
    stop=st.sampled_from([(), ("x", "y")]),
    logit_bias=st.sampled_from([(), ((5, 1.5),)]),
    ignore_eos=st.booleans(),
    given=st.frozensets(st.sampled_from(_NAMES)),
)
_CHATS = st.builds(
    ChatRequest,
    model=st.just("m"),
    messages=st.just(()),
    sampling=_SAMPLING,
    tool_choice=st.sampled_from(ToolChoice),
    parallel_tool_calls=st.booleans(),
    format=st.builds(ResponseFormat, kind=st.sampled_from(FormatKind)),
    reasoning=st.builds(
        ReasoningParams,
        enabled=st.sampled_from([None, True, False]),
        effort=st.sampled_from([None, "low"]),
        budget_tokens=st.sampled_from([None, 0, 9]),
    ),
    prompt_cache=st.sampled_from(["", "5m"]),
    deadline_s=st.sampled_from([None, 2.5]),
)
_COMPLETIONS = st.builds(
    CompletionRequest, model=st.just("m"), prompt=st.just("p"), sampling=_SAMPLING
)
_NOTES = st.lists(
    st.builds(
        Note,
        hop=st.sampled_from(["parameters", "cache"]),
        text=st.sampled_from(["drawn", "route", "generation_config"]),
        facts=st.dictionaries(st.sampled_from(["seed", "top_k", "another"]), st.integers(0, 9)),
        at_s=st.just(0.0),
    ),
    max_size=3,
)


def slowly(
    asked: ChatRequest | CompletionRequest, admitted: SamplingParams, notes: Sequence[Note]
) -> tuple[Parameter, ...]:
    found: dict[str, Parameter] = {}

    def put(name: str, value: Any, origin: str) -> None:
        if isinstance(value, tuple):
            value = [list(each) if isinstance(each, tuple) else each for each in value]  # pyright: ignore
        found[name] = Parameter(name=name, value=value, origin=origin)

    for name in _NAMES:
        before, now = getattr(asked.sampling, name), getattr(admitted, name)
        default = getattr(SamplingParams(), name)
        said = name in asked.sampling.given or now != default
        put(name, now, "clamp" if before != now else "request" if said else "default")
    if isinstance(asked, ChatRequest):
        plain = _of_chat(ChatRequest(model="", messages=()))
        for name, value in _of_chat(asked).items():
            put(name, value, "default" if value == plain[name] else "request")
    for note in notes:
        if note.hop == "parameters":
            for name, value in note.facts.items():
                put(name, value, note.text)
    return tuple(found.values())


def _of_chat(asked: ChatRequest) -> Mapping[str, Any]:
    return {
        "tool_choice": asked.tool_choice.value,
        "parallel_tool_calls": asked.parallel_tool_calls,
        "response_format": asked.format.kind.value,
        "reasoning_enabled": asked.reasoning.enabled,
        "reasoning_effort": asked.reasoning.effort,
        "reasoning_budget_tokens": asked.reasoning.budget_tokens,
        "prompt_cache": asked.prompt_cache,
        "deadline_s": asked.deadline_s,
    }


@given(st.one_of(_CHATS, _COMPLETIONS), st.sampled_from([None, 40]), _NOTES)
def test_it_is_what_asking_for_each_says(
    asked: ChatRequest | CompletionRequest, clamped: int | None, notes: list[Note]
) -> None:
    admitted = asked.sampling
    if clamped is not None:
        admitted = replace(admitted, max_tokens=clamped)
    found = effective(asked, admitted, notes)
    assert found == slowly(asked, admitted, notes)
    assert [type(each.value) for each in found] == [
        type(each.value) for each in slowly(asked, admitted, notes)
    ]
