"""A stored trace, its content and its ledger rows → one object that says what happened and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.gateway.trace_body import Trace, decode
from headrace.observe.parameters import as_object
from headrace.observe.spans import Span, spans
from headrace.store.traces import Content, TraceRow
from headrace.types import Note

CHECKS = frozenset({"check", "guard", "policy", "cascade"})
"""Hops whose notes are verdicts on what was said."""


def explanation(
    row: TraceRow, content: Content | None, ledger: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Everything that is known of a request.

    Args:
        row: Its trace.
        content: What was said, where it was sampled and is still kept.
        ledger: Its rows, by table.
    """
    trace = decode(row)
    record = trace.record
    booked = ledger.get("transactions", ())
    return {
        "object": "request.explanation",
        **_head(trace),
        "content": "kept" if content is not None else _why_none(trace),
        "prompt": None if content is None else msgspec.json.decode(content.prompt),
        "answer": None if content is None else msgspec.json.decode(content.answer),
        "parameters": as_object(trace.parameters),
        "cache": _cache(trace),
        "decisions": [_note(note, trace.began_s) for note in record.notes],
        "checks": [_note(note, trace.began_s) for note in record.notes if note.hop in CHECKS],
        "legs": [_without(msgspec.to_builtins(leg), "ended_s") for leg in record.legs],
        "usage": msgspec.to_builtins(record.usage),
        "timings": _timings(trace),
        "spans": [_span(span) for span in spans_of(trace)],
        "cost": {
            "nanousd": record.cost_nanousd,
            "booked": bool(booked),
            "ledger": ledger,
        },
    }


def spans_of(trace: Trace) -> tuple[Span, ...]:
    """The spans of a trace."""
    return spans(
        trace.record,
        trace.context,
        began_s=trace.began_s,
        marks=trace.marks,
        parameters={each.name: each.value for each in trace.parameters},
    )


def _head(trace: Trace) -> dict[str, Any]:
    record, context = trace.record, trace.context
    names = ("id", "route", "model", "status", "finish", "streamed", "org", "team", "key_id")
    head: dict[str, Any] = {name: getattr(record, name) for name in names}
    for name in ("user", "feature", "end_user"):
        head[name] = getattr(record, name)
    head["started_s"] = record.started_s
    head["trace"] = {
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_id": context.parent_id,
    }
    return head


def _why_none(trace: Trace) -> str:
    if trace.sampled:
        return "deleted"
    return "not sampled: the rate of its team, its organization or traces.content_rate left it out"


def _cache(trace: Trace) -> dict[str, Any]:
    record = trace.record
    why = [note.text for note in record.notes if note.hop == "cache"]
    usage = record.usage
    return {
        "result": record.cache or "none",
        "why": why or ["no cache of whole answers was asked"],
        "prefix_cached_tokens": usage.cached_tokens,
        "prefix_uncached_tokens": usage.prompt_tokens - usage.cached_tokens,
    }


def _note(note: Note, began_s: float) -> dict[str, Any]:
    return {
        "hop": note.hop,
        "text": note.text,
        "facts": dict(note.facts),
        "at_s": round(max(note.at_s - began_s, 0.0), 6),
    }


def _timings(trace: Trace) -> dict[str, float | None]:
    record = trace.record
    found: dict[str, float | None] = {
        f"{moment}_s": round(at, 6) for moment, at in trace.marks.items()
    }
    found["admission_s"] = record.admission_s
    found["first_token_s"] = record.first_token_s
    found["duration_s"] = record.duration_s
    first, last = record.first_token_s, trace.marks.get("last")
    if first is not None and last is not None and last > first:
        found["tokens_per_s"] = (record.usage.completion_tokens - 1) / (last - first)
    return found


def _span(span: Span) -> dict[str, Any]:
    return {
        "id": span.id,
        "parent": span.parent,
        "name": span.name,
        "start_s": round(span.start_s, 6),
        "end_s": round(span.end_s, 6),
        "error": span.error,
    }


def _without(found: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != name}
