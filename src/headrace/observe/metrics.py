"""Usage records, token times and the engine's counters → Prometheus text.

A registry of its own: two services in one process do not share counters. Label values come from
closed sets (routes, served models, finish reasons, error codes), so a client cannot make series.
The names are frozen by a test; three of the engine's gauges are repeated under vLLM's names for
dashboards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from headrace.observe.gauges import Standing, StandingCollector
from headrace.observe.pipeline import Pipelines
from headrace.observe.usage import UsageRecord
from headrace.types import Usage

M = TypeVar("M", Counter, Gauge, Histogram)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """What an engine says of itself at one moment; counters since it started."""

    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0
    """Held by running requests."""
    kv_blocks_cached: int = 0
    """Free, with content that a prefix may hit."""
    kv_blocks_total: int = 0
    preemptions: int = 0
    restarts: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    """Kind (prompt, cached, completion, recomputed) -> tokens of requests that ended."""


class Metrics:
    """A service's metrics; also a `UsageSink`."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        labels = ("route", "model")
        self._requests = Counter(
            "headrace_requests",
            "Requests that ended",
            ("route", "model", "status", "finish"),
            registry=registry,
        )
        self._tokens = Counter(
            "headrace_tokens", "Tokens of requests that ended", ("model", "kind"), registry=registry
        )
        self._in_flight = Gauge(
            "headrace_requests_in_flight", "Requests being answered", ("route",), registry=registry
        )
        self._admission = Histogram(
            "headrace_admission_seconds",
            "Arrival to the backend's admission of the request",
            labels,
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._first = Histogram(
            "headrace_time_to_first_token_seconds",
            "Arrival to the first delta",
            labels,
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._gap = Histogram(
            "headrace_inter_token_latency_seconds",
            "Between two deltas of one choice",
            labels,
            buckets=_GAP_S,
            registry=registry,
        )
        self._children: dict[tuple[object, ...], Any] = {}
        self._duration = Histogram(
            "headrace_request_duration_seconds",
            "Arrival to the end of the answer",
            labels,
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.pipelines = Pipelines(registry)
        self._cache = Counter(
            "headrace_cache_requests",
            "Requests that asked the cache of answers",
            ("model", "result"),
            registry=registry,
        )
        self._cache_tokens = Counter(
            "headrace_cache_tokens",
            "Tokens of kept answers that were given again; no model ran them",
            ("model", "kind"),
            registry=registry,
        )
        self._reloads = Counter(
            "headrace_config_reloads",
            "Readings of changed settings",
            ("result",),
            registry=registry,
        )
        self._reload_accepted = Gauge(
            "headrace_config_accepted", "1 where the last reading was taken over", registry=registry
        )
        self._reload_accepted.set(1)
        self._cost = Counter(
            "headrace_cost_usd",
            "Dollars booked; the ledger has them exactly",
            ("model",),
            registry=registry,
        )
        self._upstream = Counter(
            "headrace_upstream_requests",
            "Calls of backends: of providers as the settings name them, and local",
            ("provider", "outcome"),
            registry=registry,
        )
        self._upstream_s = Histogram(
            "headrace_upstream_seconds",
            "Duration of calls of backends",
            ("provider",),
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._engine = _EngineCollector()
        registry.register(self._engine)
        self._standing = StandingCollector()
        registry.register(self._standing)
        self._registry = registry

    def arrived(self, route: str) -> None:
        """A request of a data route came in; `record` is its counterpart."""
        self._child(self._in_flight, route).inc()

    def gap(self, route: str, model: str, seconds: float) -> None:
        """Time between two deltas of one choice."""
        self._child(self._gap, route, model).observe(seconds)

    def record(self, record: UsageRecord) -> None:
        """Book a request that ended."""
        status = str(record.status)
        self._child(self._in_flight, record.route).dec()
        self._child(self._requests, record.route, record.model, status, record.finish).inc()
        tokens = self._cache_tokens if record.cache == "hit" else self._tokens
        for kind, count in kinds(record.usage).items():
            if count:
                self._child(tokens, record.model, kind).inc(count)
        if record.cache:
            self._child(self._cache, record.model, record.cache).inc()
        if record.cost_nanousd:
            self._child(self._cost, record.model).inc(record.cost_nanousd / 1e9)
        for leg in record.legs:
            provider = leg.provider or "local"
            self._child(self._upstream, provider, leg.outcome).inc()
            self._child(self._upstream_s, provider).observe(leg.seconds)
        self._child(self._duration, record.route, record.model).observe(record.duration_s)
        if record.admission_s is not None:
            self._child(self._admission, record.route, record.model).observe(record.admission_s)
        if record.first_token_s is not None:
            self._child(self._first, record.route, record.model).observe(record.first_token_s)

    def _child(self, metric: M, *values: str) -> M:
        """A metric's series; found once, for every token asks for one."""
        key = (metric, *values)
        if key not in self._children:
            self._children[key] = metric.labels(*values)
        return self._children[key]

    def reloaded(self, *, accepted: bool) -> None:
        """The settings were read again."""
        self._reloads.labels("accepted" if accepted else "rejected").inc()
        self._reload_accepted.set(accepted)

    def render(self, engine: EngineStats | None = None, standing: Standing | None = None) -> bytes:
        """Everything in Prometheus's text format, with the engine's gauges where there is one."""
        self._engine.stats = engine
        self._standing.standing = standing or Standing()
        return generate_latest(self._registry)


def kinds(usage: Usage) -> dict[str, int]:
    """Token kind -> count. `cached` is part of `prompt` and `reasoning` of `completion`."""
    return {
        "prompt": usage.prompt_tokens,
        "cached": usage.cached_tokens,
        "completion": usage.completion_tokens,
        "reasoning": usage.reasoning_tokens,
        "drafted": usage.drafted_tokens,
        "rejected": usage.rejected_tokens,
        "recomputed": usage.recomputed_tokens,
    }


class _EngineCollector:
    def __init__(self) -> None:
        self.stats: EngineStats | None = None

    def collect(self) -> Iterator[Metric]:
        stats = self.stats
        if stats is None:
            return
        used = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        for name, text, value in (
            ("headrace_engine_running", "Sequences in the batch", stats.running),
            ("headrace_engine_waiting", "Sequences that wait for a place", stats.waiting),
            ("headrace_engine_kv_blocks_used", "KV blocks held by sequences", stats.kv_blocks_used),
            (
                "headrace_engine_kv_blocks_cached",
                "Free KV blocks with content",
                stats.kv_blocks_cached,
            ),
            ("headrace_engine_kv_blocks_total", "KV blocks there are", stats.kv_blocks_total),
            ("vllm:num_requests_running", "headrace_engine_running", stats.running),
            ("vllm:num_requests_waiting", "headrace_engine_waiting", stats.waiting),
            ("vllm:kv_cache_usage_perc", "Used part of the KV blocks, 0 to 1", used),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily(
            "headrace_engine_preemptions", "Sequences put back to wait", value=stats.preemptions
        )
        yield CounterMetricFamily(
            "headrace_engine_restarts", "Times the worker was started again", value=stats.restarts
        )
        tokens = CounterMetricFamily(
            "headrace_engine_tokens", "Tokens as the engine counted them", labels=["kind"]
        )
        for kind, count in stats.tokens.items():
            tokens.add_metric([kind], count)
        yield tokens
