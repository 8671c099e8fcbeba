"""What is read when somebody looks at the metrics: budgets, breakers, sources of indexes.

Bounded at any number.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric

MOST_BUDGETS = 200
"""Those with the least left; the number of all is a metric of its own."""
MOST_SOURCES = 200
"""Those furthest beyond their objective; the number of all is a metric of its own."""
_OPEN: Mapping[str, float] = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


class BudgetLeft(NamedTuple):
    """One limit's window of now."""

    scope: str
    subject: str
    unit: str
    window: str
    left: float
    """Part of the limit that nothing has used, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceAge:
    """How far an index is behind one of its sources."""

    org: str
    team: str
    index: str
    source: str
    complete_s: float
    """The moment up to which the index has all of it, Unix time; 0 = it never had."""
    behind_s: float | None
    """Since then; None = it never had all of it."""
    objective_s: float
    """As far as it may be behind; 0 = nobody said."""
    why: str = ""
    items: Mapping[str, int] = field(default_factory=dict[str, int])
    """Outcome -> items of the last sync."""

    @property
    def late(self) -> bool:
        """Whether it is further behind than it may be."""
        behind = math.inf if self.behind_s is None else self.behind_s
        return bool(self.objective_s) and behind > self.objective_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The moment's."""

    budgets: Sequence[BudgetLeft] | None = None
    """None = nobody could say."""
    breakers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Route -> closed, half-open or open."""
    sources: Sequence[SourceAge] | None = None
    """None = there are no indexes, or nobody could say."""


class StandingCollector:
    """Yields what was set last."""

    def __init__(self) -> None:
        self.standing = Standing()

    def collect(self) -> Iterator[Metric]:
        """The families; none of what nobody could say."""
        budgets = self.standing.budgets
        if budgets is not None:
            yield GaugeMetricFamily("headrace_budgets", "Limits that there are", value=len(budgets))
            left = GaugeMetricFamily(
                "headrace_budget_left_ratio",
                f"Part of a limit's window that is left; the {MOST_BUDGETS} with the least",
                labels=("scope", "subject", "unit", "window"),
            )
            for each in sorted(budgets, key=lambda each: each.left)[:MOST_BUDGETS]:
                left.add_metric([each.scope, each.subject, each.unit, each.window], each.left)
            yield left
        breakers = GaugeMetricFamily(
            "headrace_breaker_open",
            "Of a route's provider: 1 not asked, 0.5 being tried, 0 asked",
            labels=("model",),
        )
        for name, state in self.standing.breakers.items():
            breakers.add_metric([name], _OPEN[state])
        yield breakers
        if self.standing.sources is not None:
            yield from _ages(self.standing.sources)


def _ages(sources: Sequence[SourceAge]) -> Iterator[Metric]:
    """How far behind, how far they may be, and what became of their items."""
    labels = ("org", "team", "index", "source")
    yield GaugeMetricFamily(
        "headrace_index_sources", "Sources that indexes have", value=len(sources)
    )
    behind = GaugeMetricFamily(
        "headrace_index_source_behind_seconds",
        "The index may lack what its source changed in so many seconds; +Inf: it never had all of "
        f"it; the {MOST_SOURCES} furthest beyond their objective",
        labels=labels,
    )
    objective = GaugeMetricFamily(
        "headrace_index_source_objective_seconds",
        "As far as it may be behind (`fresh_s`); none where nobody said",
        labels=labels,
    )
    late = GaugeMetricFamily(
        "headrace_index_source_late", "1 where it is further behind than it may be", labels=labels
    )
    items = GaugeMetricFamily(
        "headrace_index_source_items",
        "Items of the last sync by what became of them",
        labels=(*labels, "outcome"),
    )
    for each in sorted(sources, key=_beyond, reverse=True)[:MOST_SOURCES]:
        named = [each.org, each.team, each.index, each.source]
        behind.add_metric(named, math.inf if each.behind_s is None else each.behind_s)
        late.add_metric(named, float(each.late))
        if each.objective_s:
            objective.add_metric(named, each.objective_s)
        for outcome, count in each.items.items():
            items.add_metric([*named, outcome], count)
    yield from (behind, objective, late, items)


def _beyond(each: SourceAge) -> tuple[bool, float]:
    return each.late, math.inf if each.behind_s is None else each.behind_s - each.objective_s
