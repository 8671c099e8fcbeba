"""How far an index may be behind its sources: a number, a line in the log, a metric."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from headrace.retrieval.sync.state import SyncState

_LOG = logging.getLogger("headrace.retrieval.freshness")


@dataclass(frozen=True, kw_only=True, slots=True)
class Freshness:
    """One source at one moment."""

    source: str
    behind_s: float | None
    """The index may lack what changed in so many seconds; None = it never had all of it."""
    objective_s: float
    """As far as it may be behind; 0 = nobody said."""
    why: str = ""
    """What keeps it behind, where something is known."""

    @property
    def kept(self) -> bool:
        """Whether the objective is."""
        if not self.objective_s:
            return True
        return self.behind_s is not None and self.behind_s <= self.objective_s


def freshness(state: SyncState, source: str, *, objective_s: float, now_s: float) -> Freshness:
    """Of one source. An item that its source cannot give now is as old as when it last could."""
    listed, stale = state.last_listed(source), state.stale_since(source)
    why = state.failure(source)
    if stale and listed and stale < listed:
        listed, why = stale, why or "some of its items could not be fetched"
    behind = max(now_s - listed, 0.0) if listed else None
    return Freshness(source=source, behind_s=behind, objective_s=objective_s, why=why)


def alert(found: Freshness) -> None:
    """A warning in the log where the objective is not kept."""
    if found.kept:
        return
    behind = (
        "was never synced whole" if found.behind_s is None else f"{found.behind_s:.0f} s behind"
    )
    _LOG.warning(
        "an index is not as fresh as it should be",
        extra={
            "fields": {
                "source": found.source,
                "behind": behind,
                "objective_s": found.objective_s,
                "why": found.why or "no sync ran",
            }
        },
    )


class FreshnessCollector:
    """For a Prometheus registry: how old each index is behind its sources, and its documents."""

    def __init__(
        self,
        states: Callable[[], Mapping[str, SyncState]],
        objectives: Callable[[str, str], float],
        clock: Callable[[], float],
    ) -> None:
        """Take index → state, (index, source) → seconds, and Unix time."""
        self._states, self._objectives, self._clock = states, objectives, clock

    def collect(self) -> Iterator[Metric]:
        """The families of the moment."""
        labels = ("index", "source")
        behind = GaugeMetricFamily(
            "headrace_index_behind_seconds",
            "How old an index may be behind a source",
            labels=labels,
        )
        kept = GaugeMetricFamily(
            "headrace_index_fresh", "1 where a source's objective is kept", labels=labels
        )
        documents = GaugeMetricFamily(
            "headrace_index_documents", "Items of sources by outcome", labels=(*labels, "outcome")
        )
        for index, state in self._states().items():
            counts = state.counts()
            for source in sorted({source for source, _ in counts}):
                found = freshness(
                    state,
                    source,
                    objective_s=self._objectives(index, source),
                    now_s=self._clock(),
                )
                if source and found.behind_s is not None:
                    behind.add_metric([index, source], found.behind_s)
                if source:
                    kept.add_metric([index, source], float(found.kept))
            for (source, outcome), count in counts.items():
                documents.add_metric([index, source, outcome], count)
        yield behind
        yield kept
        yield documents
