"""A record and its detail ⇄ the row of a trace and its redacted content. Pure; off the hot path.

The row's `body` is the record as it is: spans and effective parameters are made of it when somebody
asks, so that storing a request costs little.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace.gateway.detail import Detail, Said
from headrace.observe.context import TraceContext
from headrace.observe.parameters import DEFAULT, Parameter, effective
from headrace.observe.usage import UsageRecord
from headrace.store.traces import Content, TraceRow
from headrace.types import (
    AudioPart,
    ChatRequest,
    CompletionRequest,
    DocumentPart,
    ImagePart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

Clean = Callable[[str], str]
CUT = "… [cut]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Everything about a request but its content."""

    version: int = 1
    record: UsageRecord
    context: TraceContext
    began_s: float = 0.0
    """Of the arrival, on the monotonic clock that notes and legs have their times from."""
    marks: Mapping[str, float] = field(default_factory=dict[str, float])
    parameters: tuple[Parameter, ...] = ()
    sampled: bool = False
    """Whether its content was kept."""


def encode(record: UsageRecord, detail: Detail, clean: Clean) -> TraceRow:
    """The row."""
    parameters: tuple[Parameter, ...] = ()
    if detail.asked is not None:
        admitted = detail.admitted or detail.asked.sampling
        found = effective(detail.asked, admitted, record.notes)
        parameters = tuple(_redacted(each, clean) for each in found)
    trace = Trace(
        record=record,
        context=detail.context,
        began_s=detail.began_s,
        marks=detail.marks,
        parameters=parameters,
        sampled=detail.keeps_content,
    )
    return TraceRow(
        id=record.id,
        org=record.org,
        team=record.team,
        key=record.key_id,
        feature=record.feature,
        end_user=storable(record.end_user),
        created_s=int(record.started_s),
        model=record.model,
        route=record.route,
        status=record.status,
        finish=record.finish,
        trace_id=detail.context.trace_id,
        duration_us=round(record.duration_s * 1e6),
        prompt_tokens=record.usage.prompt_tokens,
        completion_tokens=record.usage.completion_tokens,
        cost_nanousd=record.cost_nanousd or 0,
        body=msgspec.json.encode(trace).decode(),
    )


def storable(text: str) -> str:
    """Text as every database takes it: without NUL (PostgreSQL) and lone surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def decode(row: TraceRow) -> Trace:
    """What `encode` made."""
    return msgspec.json.decode(row.body, type=Trace)


def content(record: UsageRecord, detail: Detail, clean: Clean) -> Content | None:
    """What was said, redacted and cut to the limit; None where it is not kept."""
    if not detail.keeps_content:
        return None

    def kept(text: str) -> str:
        limit = detail.max_characters
        cleaned = clean(text[: limit + 512])
        return cleaned if len(cleaned) <= limit else cleaned[:limit] + CUT

    answer: dict[str, Any] = {"choices": [_choice(at, said, kept) for at, said in _sorted(detail)]}
    if detail.error:
        answer["error"] = kept(detail.error)
    return Content(
        id=record.id,
        org=record.org,
        team=record.team,
        key=record.key_id,
        created_s=int(record.started_s),
        prompt=json.dumps(_prompt(detail, kept), ensure_ascii=False),
        answer=json.dumps(answer, ensure_ascii=False),
    )


def _sorted(detail: Detail) -> list[tuple[tuple[int, int], Said]]:
    return sorted(detail.said.items())


def _choice(at: tuple[int, int], said: Said, kept: Clean) -> dict[str, Any]:
    made: dict[str, Any] = {"prompt": at[0], "index": at[1], "text": kept("".join(said.text))}
    if said.reasoning:
        made["reasoning"] = kept("".join(said.reasoning))
    if said.calls:
        made["tool_calls"] = [
            {"name": kept(pieces[0]), "arguments": kept("".join(pieces[1:]))}
            for _, pieces in sorted(said.calls.items())
        ]
    return made


def _prompt(detail: Detail, kept: Clean) -> dict[str, Any]:
    """The rendered prompt, as the model read it, where its tokens are ours; else the messages."""
    made: dict[str, Any] = {}
    ids = [ids for _, ids in sorted(detail.prompt_ids.items()) if ids]
    if detail.detokenize is not None and ids:
        made["rendered"] = [kept(detail.detokenize(found)) for found in ids]
        return made
    match detail.asked:
        case ChatRequest() as asked:
            made["messages"] = [
                {"role": message.role.value, "parts": [_part(part, kept) for part in message.parts]}
                for message in asked.messages
            ]
            if asked.tools:
                made["tools"] = [tool.name for tool in asked.tools]
        case CompletionRequest() as asked:
            prompt = asked.prompt
            made["prompt"] = kept(prompt) if isinstance(prompt, str) else list(prompt)
        case None:
            pass
    return made


def _part(part: Part, kept: Clean) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"text": kept(part.text)}
        case ReasoningPart():
            return {"reasoning": kept(part.text)}
        case ToolCallPart():
            return {"tool_call": part.name, "arguments": kept(part.arguments)}
        case ToolResultPart():
            return {"tool_result": kept(part.text)}
        case DocumentPart():
            return {"document": kept(part.title or part.id), "text": kept(part.text)}
        case ImagePart() | AudioPart():
            # Nobody can redact a picture or a voice, so none is kept.
            return {"media": part.media_type, "bytes": len(part.data or b"")}


def _redacted(parameter: Parameter, clean: Clean) -> Parameter:
    value = parameter.value
    if parameter.origin == DEFAULT or not isinstance(value, str | list | dict):
        return parameter  # a default is no caller's text, and a number is none at all
    return Parameter(name=parameter.name, value=_cleaned(value, clean), origin=parameter.origin)


def _cleaned(value: Any, clean: Clean) -> Any:
    match value:
        case str():
            return clean(value)
        case list():
            return [_cleaned(each, clean) for each in value]
        case dict():
            return {name: _cleaned(each, clean) for name, each in value.items()}
        case _:
            return value
