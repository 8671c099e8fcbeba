"""Effective parameters: what a request ran with, and where each value came from.

| origin | |
|---|---|
| request | the client set it |
| default | nobody did; OpenAI's default, or this server's |
| clamp | admission lowered it to what could be paid or does fit |
| generation_config | the model's makers recommend it |
| route | the operator's settings for the route |
| drawn | the server drew it (a seed) |

The last three are told by whoever fills them: a note of hop `parameters` whose text is the origin
and whose facts are the values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from headrace.types import ChatRequest, CompletionRequest, Note, SamplingParams

HOP = "parameters"
REQUEST, DEFAULT, CLAMP = "request", "default", "clamp"
Value: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None
_DEFAULT_SAMPLING = SamplingParams()
_DEFAULT_CHAT = ChatRequest(model="", messages=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One effective value."""

    name: str
    value: Value
    origin: str


def effective(
    asked: ChatRequest | CompletionRequest,
    admitted: SamplingParams,
    notes: Iterable[Note],
) -> tuple[Parameter, ...]:
    """Every parameter of a request.

    Args:
        asked: As decoded from the client's body.
        admitted: The sampling that admission let through.
        notes: The trail's.
    """
    found: dict[str, Parameter] = {}

    def put(name: str, value: object, origin: str) -> None:
        found[name] = Parameter(name=name, value=_plain(value), origin=origin)

    for item in fields(SamplingParams):
        if item.name == "given":
            continue
        before, now = getattr(asked.sampling, item.name), getattr(admitted, item.name)
        if before != now:
            put(item.name, now, CLAMP)
        else:
            put(item.name, now, _origin(item.name, now, asked.sampling))
    if isinstance(asked, ChatRequest):
        for name, value, default in _of_chat(asked):
            put(name, value, DEFAULT if value == default else REQUEST)
    for note in notes:
        if note.hop == HOP:
            for name, value in note.facts.items():
                put(name, value, note.text)
    return tuple(found.values())


def as_object(parameters: Iterable[Parameter]) -> dict[str, dict[str, Value]]:
    """Name -> value and origin, for JSON."""
    return {each.name: {"value": each.value, "origin": each.origin} for each in parameters}


def _origin(name: str, value: object, sampling: SamplingParams) -> str:
    set_anyway = value != getattr(_DEFAULT_SAMPLING, name)
    return REQUEST if name in sampling.given or set_anyway else DEFAULT


def _of_chat(asked: ChatRequest) -> Iterable[tuple[str, object, object]]:
    plain = _DEFAULT_CHAT
    yield "tool_choice", asked.tool_choice.value, plain.tool_choice.value
    yield "parallel_tool_calls", asked.parallel_tool_calls, plain.parallel_tool_calls
    yield "response_format", asked.format.kind.value, plain.format.kind.value
    yield "reasoning_enabled", asked.reasoning.enabled, plain.reasoning.enabled
    yield "reasoning_effort", asked.reasoning.effort, plain.reasoning.effort
    yield "reasoning_budget_tokens", asked.reasoning.budget_tokens, plain.reasoning.budget_tokens
    yield "prompt_cache", asked.prompt_cache, plain.prompt_cache
    yield "deadline_s", asked.deadline_s, plain.deadline_s


def _plain(value: object) -> Value:
    match value:
        case None | str() | int() | float():
            return value
        case Mapping():
            return {str(name): _plain(found) for name, found in value.items()}
        case tuple() | list():
            return [_plain(found) for found in value]
        case _:
            return str(value)
