"""A request's record and marks → its spans, in the words of no convention yet (see `genai`).

    POST /v1/chat/completions       server
    ├── identify                    the key
    ├── receive                     the body: read and decoded
    ├── render                      the prompt, where it is counted before the call
    ├── admission                   limits and money held
    ├── route                       from there to the first call; its events are the decisions
    └── chat MODEL                  client: each call of a real backend
        ├── queue                   until it began
        ├── prefill                 to the first piece of the answer
        └── decode                  to the last

The last three are of the call that answered and follow each other without a gap: queue and prefill
are the time to the first token from when the backend was called. The local engine tells with its
first token for how long it ran the prompt until then; of a provider it is known when it answered.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from headrace.observe.context import TraceContext
from headrace.observe.usage import UsageRecord
from headrace.types import FinishReason, Leg, Note, Usage

Attribute: TypeAlias = str | int | float | bool | tuple[str, ...]
_GOOD = frozenset(reason.value for reason in FinishReason) - {FinishReason.ERROR.value}


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanEvent:
    """A moment within a span."""

    name: str
    at_s: float
    """Seconds after the request's arrival."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Times are seconds after the request's arrival."""

    id: str
    parent: str
    """Empty = the trace begins here."""
    name: str
    kind: str
    """server | client | internal."""
    start_s: float
    end_s: float
    genai: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    """By the keys of `genai.NAMES`."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    """By their own names."""
    events: tuple[SpanEvent, ...] = ()
    error: str = ""
    """An error's code; empty = it went well."""


def spans(
    record: UsageRecord,
    context: TraceContext,
    *,
    began_s: float,
    marks: Mapping[str, float],
    parameters: Mapping[str, object],
) -> tuple[Span, ...]:
    """All spans of a request, the root first.

    Args:
        record: What became of it.
        context: Its place in a trace.
        began_s: Its arrival on the clock of notes and legs.
        marks: Moment -> seconds after arrival.
        parameters: Effective ones, by name.
    """
    root = _root(record, context, parameters)
    made = [root, *_steps(root, record.notes, record.legs, marks, began_s)]
    answered = _answered(record.legs)
    for at, leg in enumerate(record.legs):
        span = _leg(root, at, leg, began_s, record, parameters)
        made.append(span)
        if leg is answered:
            made += _phases(span, record, marks)
    return tuple(made)


def _root(record: UsageRecord, context: TraceContext, parameters: Mapping[str, object]) -> Span:
    usage = record.usage
    attributes: dict[str, Attribute] = {
        "http.request.method": "POST",
        "http.route": record.route,
        "http.response.status_code": record.status,
        "headrace.request.id": record.id,
        "headrace.org": record.org,
        "headrace.team": record.team,
        "headrace.key": record.key_id,
        "headrace.feature": record.feature,
        "headrace.cache": record.cache,
        "user.id": record.end_user,
    }
    failed = record.status >= 400
    return Span(
        id=context.span_id,
        parent=context.parent_id,
        name=f"POST {record.route}",
        kind="server",
        start_s=0.0,
        end_s=record.duration_s,
        genai=_genai(record, record.model, usage, record.finish, parameters)
        if record.model
        else {},
        attributes={name: value for name, value in attributes.items() if value != ""},
        error=record.finish if failed else "",
    )


def _steps(
    root: Span,
    notes: Sequence[Note],
    legs: Sequence[Leg],
    marks: Mapping[str, float],
    began_s: float,
) -> Iterator[Span]:
    order = (
        ("identify", "identified"),
        ("receive", "decoded"),
        ("render", "rendered"),
        ("admission", "held"),
    )
    before = 0.0
    for name, mark in order:
        at = marks.get(mark)
        if at is not None:
            yield _internal(root, name, before, at)
            before = at
    if "held" in marks:
        first = min((leg.ended_s - leg.seconds - began_s for leg in legs), default=root.end_s)
        events = tuple(
            SpanEvent(
                name=note.hop,
                at_s=max(note.at_s - began_s, 0.0),
                attributes={"text": note.text, **note.facts},
            )
            for note in notes
        )
        yield _internal(root, "route", before, max(first, before), events)


def _leg(
    root: Span,
    at: int,
    leg: Leg,
    began_s: float,
    record: UsageRecord,
    parameters: Mapping[str, object],
) -> Span:
    end = max(leg.ended_s - began_s, 0.0)
    good = leg.outcome in _GOOD
    genai = _genai(record, leg.model, leg.usage, leg.outcome, parameters)
    genai["provider"] = leg.provider
    return Span(
        id=_child(root.id, f"leg {at}"),
        parent=root.id,
        name=f"{genai['operation']} {leg.model}",
        kind="client",
        start_s=max(end - leg.seconds, 0.0),
        end_s=end,
        genai=genai,
        attributes={"headrace.provider": leg.provider or "local", "headrace.leg": at},
        error="" if good else leg.outcome,
    )


def _phases(leg: Span, record: UsageRecord, marks: Mapping[str, float]) -> Iterator[Span]:
    admitted, first, last = record.admission_s, record.first_token_s, marks.get("last")
    if admitted is not None and leg.start_s <= admitted <= leg.end_s:
        yield _internal(leg, "queue", leg.start_s, admitted)
        if first is not None:
            yield _internal(leg, "prefill", admitted, max(first, admitted))
            if last is not None:
                # Whoever notes the last piece does so a moment after the call has ended.
                yield _internal(leg, "decode", first, max(min(last, leg.end_s), first))


def _internal(
    parent: Span, name: str, start_s: float, end_s: float, events: tuple[SpanEvent, ...] = ()
) -> Span:
    return Span(
        id=_child(parent.id, name),
        parent=parent.id,
        name=name,
        kind="internal",
        start_s=start_s,
        end_s=end_s,
        events=events,
    )


def _answered(legs: Sequence[Leg]) -> Leg | None:
    """The call whose answer the client got: the last that went well, else the last."""
    good = [leg for leg in legs if leg.outcome in _GOOD]
    return (good or list(legs) or [None])[-1]


def _genai(
    record: UsageRecord,
    model: str,
    usage: Usage,
    finish: str,
    parameters: Mapping[str, object],
) -> dict[str, Attribute]:
    completion = record.route.endswith("/completions") and "chat" not in record.route
    made: dict[str, Attribute] = {
        "operation": "text_completion" if completion else "chat",
        "request_model": record.model,
        "response_model": model,
        "response_id": record.id,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_read_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "stream": record.streamed,
    }
    if finish in _GOOD:
        made["finish_reasons"] = (finish,)
    if record.first_token_s is not None:
        made["time_to_first_chunk"] = record.first_token_s
    for name in _REQUESTED:
        value = parameters.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            made[name] = value
    stop = parameters.get("stop")
    if isinstance(stop, list) and stop:
        made["stop"] = tuple(str(each) for each in stop)
    return made


_REQUESTED = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "n",
)


def _child(parent: str, name: str) -> str:
    return hashlib.sha256(f"{parent} {name}".encode()).hexdigest()[:16]
