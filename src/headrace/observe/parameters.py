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
and whose facts are the values. All is worked out of the kept request when a trace is written or
asked for, and only what is other than the default costs: most requests set two or three.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeAlias

from headrace.types import ChatRequest, CompletionRequest, Note, SamplingParams

HOP = "parameters"
REQUEST, DEFAULT, CLAMP = "request", "default", "clamp"
Value: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None
_SAMPLING = tuple(item.name for item in fields(SamplingParams) if item.name != "given")
_CHAT: Mapping[str, str] = {
    "tool_choice": "tool_choice.value",
    "parallel_tool_calls": "parallel_tool_calls",
    "response_format": "format.kind.value",
    "reasoning_enabled": "reasoning.enabled",
    "reasoning_effort": "reasoning.effort",
    "reasoning_budget_tokens": "reasoning.budget_tokens",
    "prompt_cache": "prompt_cache",
    "deadline_s": "deadline_s",
}
"""Name -> where a chat request has it."""


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
    chat = isinstance(asked, ChatRequest)
    found = dict(_PLAIN_CHAT if chat else _PLAIN_COMPLETION)

    def put(name: str, value: object, origin: str) -> None:
        found[name] = Parameter(name=name, value=_plain(value), origin=origin)

    given = asked.sampling.given
    before, now = _sampling_of(asked.sampling), _sampling_of(admitted)
    for name, was, value, default in zip(_SAMPLING, before, now, _SAMPLING_DEFAULTS, strict=True):
        if was != value:
            put(name, value, CLAMP)
        elif value != default or name in given:
            put(name, value, REQUEST)
    if chat:
        for name, value, default in zip(_CHAT, _chat_of(asked), _CHAT_DEFAULTS, strict=True):
            if value != default:
                put(name, value, REQUEST)
    for note in notes:
        if note.hop == HOP:
            for name, value in note.facts.items():
                put(name, value, note.text)
    return tuple(found.values())


def as_object(parameters: Iterable[Parameter]) -> dict[str, dict[str, Value]]:
    """Name -> value and origin, for JSON."""
    return {each.name: {"value": each.value, "origin": each.origin} for each in parameters}


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


def _defaults(names: Iterable[str], values: Iterable[object]) -> dict[str, Parameter]:
    return {
        name: Parameter(name=name, value=_plain(value), origin=DEFAULT)
        for name, value in zip(names, values, strict=True)
    }


_sampling_of: Callable[[SamplingParams], tuple[Any, ...]] = attrgetter(*_SAMPLING)
_chat_of: Callable[[ChatRequest], tuple[Any, ...]] = attrgetter(*_CHAT.values())
_SAMPLING_DEFAULTS = _sampling_of(SamplingParams())
_CHAT_DEFAULTS = _chat_of(ChatRequest(model="", messages=()))
_PLAIN_COMPLETION = _defaults(_SAMPLING, _SAMPLING_DEFAULTS)
_PLAIN_CHAT = _PLAIN_COMPLETION | _defaults(_CHAT, _CHAT_DEFAULTS)
