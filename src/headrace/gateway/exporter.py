"""Records → a collector by OTLP/HTTP: built off the hot path, sent in batches, never waited for.

Invariants: what waits is bounded, what did not arrive is counted (`headrace_traces_dropped_total`
of the sink `otlp`); a request that its caller does not record (a traceparent without the sampled
flag) is not exported; no prompt and no answer is in a span.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from headrace.config import OtlpSettings, ProviderSettings, secret
from headrace.errors import ConfigError
from headrace.gateway.backlog import Backlog, Waiting
from headrace.gateway.detail import Detail
from headrace.gateway.http import stop
from headrace.observe import otlp
from headrace.observe.genai import PROVIDERS, VERSIONS
from headrace.observe.otlp import Traced
from headrace.observe.parameters import effective
from headrace.observe.pipeline import Pipeline
from headrace.observe.spans import Attribute, Span, spans
from headrace.observe.usage import UsageRecord
from headrace.providers.collector import Collector, Outcome

BATCH = 128
FLUSH_S = 1.0
_MAX_BYTES = 32 << 20
_TRIES = 6
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_CLOSE_S = 5.0
_LOG = logging.getLogger("headrace.otlp")


class Rules(NamedTuple):
    """Settings that held."""

    settings: OtlpSettings
    headers: Callable[[], Mapping[str, str]]
    kinds: Mapping[str, str]
    """Provider's name in the settings -> its kind."""


def rules(settings: OtlpSettings, providers: Mapping[str, ProviderSettings]) -> Rules:
    """Check the settings.

    Raises:
        ConfigError: One that cannot be, by its name.
        MissingExtra: Protobuf without `opentelemetry-proto`.
    """
    if settings.endpoint and not settings.endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            f"otlp.endpoint = {settings.endpoint!r} is no address; write http://HOST:4318"
        )
    for name, value, known in (
        ("encoding", settings.encoding, tuple(otlp.CONTENT_TYPES)),
        ("names", settings.names, VERSIONS),
    ):
        if value not in known:
            raise ConfigError(f"otlp.{name} = {value!r}; there are {', '.join(known)}")
    if not 0 <= settings.rate <= 1:
        raise ConfigError(f"otlp.rate = {settings.rate} is not a part of one; it takes 0 to 1")
    if settings.max_queued < 1:
        raise ConfigError(f"otlp.max_queued = {settings.max_queued}; it takes 1 or more")
    otlp.check(settings.encoding)
    headers = _headers(settings.headers)
    headers()
    return Rules(settings, headers, {name: entry.kind for name, entry in providers.items()})


class Exporter:
    """A `DetailSink`; `run` it as a task, `close` it after the last request."""

    def __init__(self, found: Rules, *, pipeline: Pipeline) -> None:
        self._rules = found
        self._pipeline = pipeline
        self._backlog = Backlog(pipeline)
        self._collector: Collector | None = None
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()

    def use(self, found: Rules) -> None:
        """Other settings, from the next batch on."""
        self._rules = found

    def take(self, record: UsageRecord, detail: Detail) -> None:
        """Queue one."""
        settings = self._rules.settings
        if not settings.endpoint or not record.key_id or not detail.context.sampled:
            return
        if int(detail.context.trace_id[-12:], 16) >= settings.rate * 16**12:
            self._pipeline.dropped("rate", 1)
            return
        self._backlog.put(record, detail, most=settings.max_queued, most_bytes=_MAX_BYTES)
        if len(self._backlog) >= BATCH:
            self._news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), FLUSH_S)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - the next ones must still be sent
                _LOG.exception("a bug while exporting spans")

    async def flush(self) -> None:
        """Send everything that waits; what the collector does not take in the end is counted."""
        async with self._turn:
            found = self._rules
            collector = await self._at(found.settings.endpoint)
            while collector is not None and (batch := self._backlog.take(BATCH)):
                try:
                    await self._send(collector, found, batch)
                except asyncio.CancelledError:
                    self._backlog.restore(batch)
                    raise
                except Exception:
                    self._pipeline.dropped("error", len(batch))
                    self._backlog.done(batch)
                    raise
                self._backlog.done(batch)

    async def close(self) -> None:
        """Send what waits, for a while; the rest is counted as dropped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.flush()
        self._backlog.abandon()
        if self._collector is not None:
            await self._collector.close()

    async def _at(self, endpoint: str) -> Collector | None:
        url = endpoint.rstrip("/") + "/v1/traces"
        if self._collector is not None and (not endpoint or self._collector.url != url):
            await self._collector.close()
            self._collector = None
        if self._collector is None and endpoint:
            self._collector = Collector(url)
        return self._collector

    async def _send(self, collector: Collector, found: Rules, batch: list[Waiting]) -> None:
        body = await asyncio.to_thread(_encoded, found, batch)
        kind = otlp.CONTENT_TYPES[found.settings.encoding]
        pause_s, tries = _FIRST_PAUSE_S, 0
        while True:
            tries += 1
            verdict = await collector.post(body, {**found.headers(), "content-type": kind})
            if verdict.outcome is Outcome.TAKEN:
                refused = otlp.rejected(verdict.body)
                if refused:
                    _LOG.warning("the collector left out %d spans", refused)
                self._pipeline.written(len(batch))
                return
            if verdict.outcome is Outcome.REFUSED or tries == _TRIES:
                break
            wait_s = verdict.retry_after_s or pause_s * random.uniform(0.5, 1)
            await asyncio.sleep(min(wait_s, _LONGEST_PAUSE_S))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        reason = "refused" if verdict.outcome is Outcome.REFUSED else "unreachable"
        _LOG.warning("%d traces were not exported: %s", len(batch), verdict.reason)
        self._pipeline.dropped(reason, len(batch))


@contextlib.asynccontextmanager
async def open_exporter(found: Rules, *, pipeline: Pipeline) -> AsyncGenerator[Exporter]:
    """The exporter of a running gateway, sending until the end of the block."""
    exporter = Exporter(found, pipeline=pipeline)
    task = asyncio.create_task(exporter.run())
    try:
        yield exporter
    finally:
        await stop(task)
        await exporter.close()


def traced(record: UsageRecord, detail: Detail, kinds: Mapping[str, str]) -> Traced:
    """The spans of a request, its providers by the conventions' names."""
    parameters: dict[str, object] = {}
    if detail.asked is not None:
        sampling = detail.admitted or detail.asked.sampling
        found = effective(detail.asked, sampling, record.notes)
        # Stop strings are the caller's text, and nobody redacts what is exported.
        parameters = {each.name: each.value for each in found if each.name != "stop"}
    made = spans(
        record,
        detail.context,
        began_s=detail.began_s,
        marks=detail.marks,
        parameters=parameters,
    )
    return Traced(detail.context, record.started_s, tuple(_by_kind(span, kinds) for span in made))


def _by_kind(span: Span, kinds: Mapping[str, str]) -> Span:
    provider = span.genai.get("provider")
    if provider is None:
        return span
    kind = kinds.get(str(provider), str(provider))
    return replace(span, genai={**span.genai, "provider": PROVIDERS.get(kind, kind)})


def _encoded(found: Rules, batch: list[Waiting]) -> bytes:
    settings = found.settings
    resource: dict[str, Attribute] = {
        "service.name": settings.service,
        "telemetry.sdk.name": "headrace",
        "telemetry.sdk.language": "python",
    }
    return otlp.encode(
        [traced(item.record, item.detail, found.kinds) for item in batch],
        encoding=settings.encoding,
        names=settings.names,
        resource=resource,
    )


def _headers(reference: str) -> Callable[[], Mapping[str, str]]:
    """`name=value` pairs, comma-separated, as OTEL_EXPORTER_OTLP_HEADERS has them."""
    if not reference:
        return dict
    try:
        read = secret(reference)
    except ConfigError as error:
        raise ConfigError(f"otlp.headers: {error.message}") from error

    def headers() -> Mapping[str, str]:
        pairs = [pair.partition("=") for pair in read().split(",") if pair.strip()]
        if not all(separator and name.strip() for name, separator, _ in pairs):
            raise ConfigError("otlp.headers is no list of name=value, name=value")
        return {name.strip(): value.strip() for name, _, value in pairs}

    return headers
