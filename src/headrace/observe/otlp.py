"""Spans → the body of an OTLP/HTTP export, in JSON as the specification has it, or in protobuf.

JSON needs nothing; protobuf needs `opentelemetry-proto`. Both are made of the same tree. Sources:
https://opentelemetry.io/docs/specs/otlp/ (1.7: ids in hexadecimal, 64-bit integers as strings,
enumerations as numbers) and opentelemetry-proto 1.7's trace.proto.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from headrace import __version__
from headrace.errors import MissingExtra
from headrace.observe.context import TraceContext
from headrace.observe.genai import named
from headrace.observe.spans import Attribute, Span, SpanEvent

JSON, PROTOBUF = "json", "protobuf"
CONTENT_TYPES: Mapping[str, str] = {JSON: "application/json", PROTOBUF: "application/x-protobuf"}
_KINDS: Mapping[str, int] = {"internal": 1, "server": 2, "client": 3}
_ERROR = 2
_REMOTE_KNOWN, _REMOTE = 0x100, 0x200


class Traced(NamedTuple):
    """One request's spans."""

    context: TraceContext
    started_s: float
    """Unix time of its arrival."""
    spans: tuple[Span, ...]


def encode(
    traced: Sequence[Traced],
    *,
    encoding: str,
    names: str,
    resource: Mapping[str, Attribute],
) -> bytes:
    """One export request.

    Args:
        traced: What to export.
        encoding: json or protobuf.
        names: A version of `genai`.
        resource: Who says it: `service.name` and the like.

    Raises: MissingExtra for protobuf without `opentelemetry-proto`.
    """
    if encoding == JSON:
        return json.dumps(_tree(traced, names, resource, str), separators=(",", ":")).encode()
    message = _message()
    parse = _parser()
    tree = _tree(traced, names, resource, _base64)
    return bytes(parse(tree, message).SerializeToString())


def check(encoding: str) -> None:
    """Raises: MissingExtra for protobuf without `opentelemetry-proto`."""
    if encoding == PROTOBUF:
        _message()


def rejected(body: bytes) -> int:
    """Spans that a collector's 200 says it did not take; 0 where it says nothing readable."""
    try:
        found: Any = json.loads(body)
        return int(found.get("partialSuccess", {}).get("rejectedSpans", 0))
    except (ValueError, AttributeError, TypeError):
        return 0


def _tree(
    traced: Sequence[Traced],
    names: str,
    resource: Mapping[str, Attribute],
    spell: Callable[[str], str],
) -> dict[str, Any]:
    spans = [_span(each, span, names, spell) for each in traced for span in each.spans]
    scope = {"scope": {"name": "headrace", "version": __version__}, "spans": spans}
    owner = {"attributes": _attributes(resource.items())}
    return {"resourceSpans": [{"resource": owner, "scopeSpans": [scope]}]}


def _span(each: Traced, span: Span, names: str, spell: Callable[[str], str]) -> dict[str, Any]:
    context = each.context
    root = span.id == context.span_id
    flags = int(context.sampled) | _REMOTE_KNOWN | (_REMOTE if root and context.parent_id else 0)
    attributes = [*span.attributes.items(), *named(span.genai, names)]
    if span.error:
        attributes.append(("error.type", span.error))
    made: dict[str, Any] = {
        "traceId": spell(context.trace_id),
        "spanId": spell(span.id),
        "flags": flags,
        "name": span.name,
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": _nanos(each.started_s, span.start_s),
        "endTimeUnixNano": _nanos(each.started_s, max(span.end_s, span.start_s)),
        "attributes": _attributes(attributes),
        "events": [_event(each.started_s, event) for event in span.events],
    }
    if span.parent:
        made["parentSpanId"] = spell(span.parent)
    if context.state:
        made["traceState"] = context.state
    if span.error:
        made["status"] = {"code": _ERROR, "message": span.error}
    return made


def _event(started_s: float, event: SpanEvent) -> dict[str, Any]:
    return {
        "timeUnixNano": _nanos(started_s, event.at_s),
        "name": event.name,
        "attributes": _attributes(event.attributes.items()),
    }


def _nanos(started_s: float, after_s: float) -> str:
    # Apart, for a Unix time in seconds has no float that is exact to the nanosecond.
    return str(int(started_s * 1e6) * 1000 + int(after_s * 1e9))


def _attributes(found: Iterable[tuple[str, Attribute]]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in found]


def _value(value: Attribute) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case tuple():
            return {"arrayValue": {"values": [_value(each) for each in value]}}


def _base64(digits: str) -> str:
    """Protobuf's own JSON mapping, which `ParseDict` reads, has bytes so."""
    return base64.b64encode(bytes.fromhex(digits)).decode()


def _message() -> Any:
    try:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
    except ImportError:
        raise MissingExtra(
            "otlp.encoding = \"protobuf\" needs opentelemetry-proto: pip install 'headrace[otlp]'"
        ) from None
    return trace_service_pb2.ExportTraceServiceRequest()


def _parser() -> Any:
    from google.protobuf import json_format

    return json_format.ParseDict
