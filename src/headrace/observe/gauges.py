"""What is read when somebody looks at the metrics: budgets, breakers. Bounded at any number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric

MOST_BUDGETS = 200
"""Those with the least left; the number of all is a metric of its own."""
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
class Standing:
    """The moment's."""

    budgets: Sequence[BudgetLeft] | None = None
    """None = nobody could say."""
    breakers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Route -> closed, half-open or open."""


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
