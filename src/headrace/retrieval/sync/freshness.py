"""How far an index may be behind its sources: a number, and a line in the log."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    complete_s: float = 0.0
    """The moment up to which the index has all of it, Unix time; 0 = it never had."""
    why: str = ""
    """What keeps it behind, where something is known."""

    @property
    def kept(self) -> bool:
        """Whether the objective is."""
        if not self.objective_s:
            return True
        return self.behind_s is not None and self.behind_s <= self.objective_s


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStanding:
    """How far a source was brought over, as its last sync left it."""

    source: str
    listed_s: float = 0.0
    """When the last whole sync began; 0 = there was none."""
    stale_s: float = 0.0
    """When the first item that it cannot give now was last known; 0 = it gives all."""
    failed: str = ""
    """Why the last sync did not come to its end; empty = it did."""
    items: Mapping[str, int] = field(default_factory=dict[str, int])
    """Outcome → items."""


def standing_of(state: SyncState, source: str) -> SourceStanding:
    """As the status table has it."""
    return SourceStanding(
        source=source,
        listed_s=state.last_listed(source),
        stale_s=state.stale_since(source),
        failed=state.failure(source),
        items={outcome: n for (name, outcome), n in state.counts().items() if name == source},
    )


def freshness(standing: SourceStanding, *, objective_s: float, now_s: float) -> Freshness:
    """Of one source. An item that its source cannot give now is as old as when it last could."""
    listed, why = standing.listed_s, standing.failed
    if standing.stale_s and listed and standing.stale_s < listed:
        listed, why = standing.stale_s, why or "some of its items could not be fetched"
    behind = max(now_s - listed, 0.0) if listed else None
    return Freshness(
        source=standing.source,
        behind_s=behind,
        objective_s=objective_s,
        complete_s=listed,
        why=why,
    )


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
