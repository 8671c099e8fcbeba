"""How records fare on their way out: written, waiting, dropped and why; by where they go."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class Pipelines:
    """The metrics of all of them, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._written = Counter(
            "headrace_traces_written", "Traces that arrived", ("sink",), registry=registry
        )
        self._dropped = Counter(
            "headrace_traces_dropped",
            "Traces that did not arrive: sampled out (rate), no place, or an error",
            ("sink", "reason"),
            registry=registry,
        )
        self._waiting = Gauge(
            "headrace_traces_waiting", "Traces on their way", ("sink",), registry=registry
        )
        self._expired = Counter(
            "headrace_traces_expired", "Traces deleted for their age", ("sink",), registry=registry
        )

    def of(self, sink: str) -> "Pipeline":
        """That of one place, from a closed set of names."""
        return Pipeline(
            written=self._written.labels(sink).inc,
            dropped=lambda reason, count: self._dropped.labels(sink, reason).inc(count),
            waiting=self._waiting.labels(sink).set,
            expired=self._expired.labels(sink).inc,
        )


class Pipeline:
    """Counts for one place."""

    def __init__(
        self,
        *,
        written: Callable[[float], None],
        dropped: Callable[[str, int], None],
        waiting: Callable[[float], None],
        expired: Callable[[float], None],
    ) -> None:
        self.written = written
        self.dropped = dropped
        """(why, how many)."""
        self.waiting = waiting
        self.expired = expired
