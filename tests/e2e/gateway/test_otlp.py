"""Spans, read by OpenTelemetry's own messages at a collector's stand-in."""

import asyncio
import base64
import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.parser import text_string_to_metric_families

from gateway_server import Records, services
from headrace.config import OtlpSettings, ProviderSettings, load
from headrace.errors import ConfigError
from headrace.gateway.asgi import build
from headrace.gateway.detail import Detail
from headrace.gateway.exporter import Exporter, rules
from headrace.gateway.services import Served, Services
from headrace.observe.context import join
from headrace.observe.usage import UsageRecord
from headrace.providers.assemble import open_routes
from headrace.types import Leg, Usage
from upstreams import ANTHROPIC_ANSWER, OPENAI_ANSWER, Asked, FakeUpstream, Say, upstream

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FINE = Say(b"{}", kind="application/json")
ANSWERS = {"/v1/chat/completions": OPENAI_ANSWER, "/v1/messages": ANTHROPIC_ANSWER}


def read(asked: Asked) -> ExportTraceServiceRequest:
    """The body as OpenTelemetry's message. Its JSON has ids in hexadecimal; protobuf's mapping
    wants base64, so they are turned first."""
    assert asked.path == "/v1/traces"
    if asked.headers["content-type"] == "application/x-protobuf":
        message = ExportTraceServiceRequest()
        message.ParseFromString(asked.body)
        return message
    assert asked.headers["content-type"] == "application/json"
    tree = asked.json
    for resource in tree["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in span:
                        raw = bytes.fromhex(span[name])
                        span[name] = base64.b64encode(raw).decode()
    return json_format.ParseDict(tree, ExportTraceServiceRequest())


def spans_of(asked: Sequence[Asked]) -> list[Span]:
    return [
        span
        for each in asked
        for resource in read(each).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        assert kind is not None
        value = getattr(pair.value, kind)
        if kind == "array_value":
            value = [each.string_value for each in value.values]
        found[pair.key] = value
    return found


class Sender:
    """An exporter and what its metrics say."""

    def __init__(self, settings: OtlpSettings) -> None:
        self.metrics = Records()
        found = rules(settings, {"one": ProviderSettings(kind="bedrock")})
        self.exporter = Exporter(found, pipeline=self.metrics.pipelines.of("otlp"))

    def put(self, parent: str | None = None) -> str:
        id = secrets.token_hex(16)
        record = UsageRecord(
            id=id,
            route="/v1/chat/completions",
            status=200,
            finish="stop",
            key_id="k",
            model="m",
            usage=Usage(prompt_tokens=2**40, completion_tokens=3),
            started_s=1_764_000_000.123456,
            duration_s=0.5,
            legs=(
                Leg(
                    provider="one",
                    model="m",
                    usage=Usage(),
                    outcome="stop",
                    seconds=0.25,
                    ended_s=10.5,
                ),
            ),
        )
        self.exporter.take(record, Detail(context=join(id, parent), began_s=10.0))
        return id

    def count(self, name: str, reason: str | None = None) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics.render().decode())
            for sample in family.samples
            if sample.name == name and sample.labels.get("reason") == reason
        )


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
async def test_both_encodings_say_the_same(encoding: str) -> None:
    with upstream(FINE) as collector:
        it = Sender(OtlpSettings(endpoint=collector.url + "/", encoding=encoding, names="latest"))
        id = it.put(PARENT)
        await it.exporter.flush()
        await it.exporter.close()
        message = read(collector.asked[0])
        [resource] = message.resource_spans
        assert resource.resource.attributes[0].value.string_value == "headrace"
        root, leg = spans_of(collector.asked)
        assert root.trace_id.hex() == PARENT.split("-")[1]
        assert root.parent_span_id.hex() == PARENT.split("-")[2]
        assert root.span_id.hex() == id[16:]
        assert leg.parent_span_id == root.span_id
        assert (root.kind, leg.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
        assert root.start_time_unix_nano == 1_764_000_000_123_456_000
        assert root.end_time_unix_nano - root.start_time_unix_nano == 500_000_000
        assert leg.start_time_unix_nano - root.start_time_unix_nano == 250_000_000
        found = attributes(root)
        assert found["gen_ai.usage.input_tokens"] == 2**40
        assert found["gen_ai.response.finish_reasons"] == ["stop"]
        assert attributes(leg)["gen_ai.provider.name"] == "aws.bedrock"
        assert root.status.code == Status.STATUS_CODE_UNSET
        assert root.flags & 0x301 == 0x301  # sampled; its parent is known to be remote
        assert it.count("headrace_traces_written_total") == 1


async def test_what_the_collector_says_is_heard() -> None:
    says = [
        Say(status=503, headers=(("Retry-After", "0"),)),
        Say(b'{"partialSuccess": {"rejectedSpans": "2"}}', kind="application/json"),
        Say(b"no", status=400),
    ]
    with upstream(says) as collector:
        it = Sender(OtlpSettings(endpoint=collector.url))
        it.put()
        await it.exporter.flush()
        assert len(collector.asked) == 2
        assert collector.asked[0].body == collector.asked[1].body
        assert it.count("headrace_traces_written_total") == 1
        it.put()
        await it.exporter.flush()
        assert it.count("headrace_traces_dropped_total", "refused") == 1
        await it.exporter.close()


async def test_a_collector_that_is_away_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.gateway.exporter._FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("headrace.gateway.exporter._LONGEST_PAUSE_S", 0.002)
    it = Sender(OtlpSettings(endpoint="http://127.0.0.1:1", max_queued=10))
    for _ in range(25):
        it.put()
    assert it.count("headrace_traces_dropped_total", "queue_full") == 15
    await it.exporter.flush()
    assert it.count("headrace_traces_dropped_total", "unreachable") == 10
    it.put(PARENT[:-1] + "0")  # its caller does not record it
    assert it.count("headrace_traces_waiting") == 0
    await it.exporter.close()


async def test_the_secret_header_comes_from_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_HEADERS", "authorization=Bearer x=y, x-tenant=mill")
    with upstream(FINE) as collector:
        it = Sender(OtlpSettings(endpoint=collector.url, headers="env:COLLECTOR_HEADERS"))
        it.put()
        await it.exporter.flush()
        await it.exporter.close()
        assert collector.asked[0].headers["authorization"] == "Bearer x=y"
        assert collector.asked[0].headers["x-tenant"] == "mill"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("endpoint", "collector:4318"),
        ("encoding", "xml"),
        ("names", "1.99"),
        ("rate", 2.0),
        ("headers", "authorization=secret"),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"otlp.{name}"):
        rules(replace(OtlpSettings(), **{name: value}), {})


def test_the_standard_variables_are_read() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
        "OTEL_SERVICE_NAME": "mill",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http,gen_ai_latest_experimental",
    }
    found = load(environ=environ).otlp
    assert (found.endpoint, found.service, found.names) == ("http://c:4318", "mill", "latest")
    own = load(environ={**environ, "HEADRACE_OTLP_ENDPOINT": "http://d:4318"})
    assert own.otlp.endpoint == "http://d:4318"
    assert own.origins["otlp.endpoint"] == "HEADRACE_OTLP_ENDPOINT"


@contextlib.asynccontextmanager
async def gateway(
    peer: FakeUpstream, collector: FakeUpstream, tmp_path: Path
) -> AsyncGenerator[httpx.AsyncClient]:
    file = tmp_path / "headrace.toml"
    file.write_text(
        f"""
        [providers.one]
        kind = "compatible"
        url = "{peer.url}"
        [providers.two]
        kind = "anthropic"
        url = "{peer.url}"
        key = "env:ANTHROPIC_TEST_KEY"
        [routes.r]
        provider = "one"
        [routes.c]
        provider = "two"
        [otlp]
        endpoint = "{collector.url}"
        """
    )
    settings = load(file=file, environ={})
    async with contextlib.AsyncExitStack() as stack:
        models = {
            name: Served(card=route.card, chat=route.chat, candidates=route.candidates)
            for name, route in open_routes(settings, {}, stack).items()
        }
        metrics = Records()
        exporter = Exporter(
            rules(settings.otlp, settings.providers), pipeline=metrics.pipelines.of("otlp")
        )
        base = Services(models=models, metrics=metrics, detail_sinks=(exporter,))
        app = build(services(base=base))
        transport = httpx.ASGITransport(app=app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            yield http
        await exporter.flush()
        await exporter.close()


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("model", ["r", "c"])
async def test_a_trace_goes_through(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_TEST_KEY", "secret")

    def answer(asked: Asked) -> Say:
        return Say(ANSWERS[asked.path])

    body = {"model": model, "messages": [{"role": "user", "content": "very private"}]}
    headers = {"traceparent": PARENT, "tracestate": "congo=t61"}
    with upstream(answer) as peer, upstream(FINE) as collector:
        async with gateway(peer, collector, tmp_path) as http:
            answered = await http.post("/v1/chat/completions", json=body, headers=headers)
            assert answered.status_code == 200
        [asked] = [each for each in peer.asked if each.path in ANSWERS]
        version, trace_id, span_id, flags = asked.headers["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", PARENT.split("-")[1], "01")
        assert asked.headers["tracestate"] == "congo=t61"
        found = spans_of(collector.asked)
        roots = [span for span in found if span.parent_span_id.hex() == PARENT.split("-")[2]]
        [root] = roots
        assert root.span_id.hex() == span_id
        assert {span.trace_id.hex() for span in found} == {trace_id}
        legs = [span for span in found if span.kind == Span.SPAN_KIND_CLIENT]
        provider = {"r": "openai", "c": "anthropic"}[model]
        assert [attributes(leg)["gen_ai.system"] for leg in legs] == [provider]
        assert attributes(root)["http.response.status_code"] == 200
        assert "very private" not in json.dumps([each.body.decode() for each in collector.asked])
