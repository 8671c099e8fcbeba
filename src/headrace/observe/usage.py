"""One request that ended → one record: who, what, how many tokens, how long, how it ended.

Invariant: exactly one record a request that reached a data route, whatever became of it; metrics,
log lines and, later, the ledger are made from it and from nothing else, so they agree.
"""

from dataclasses import dataclass, field
from typing import Protocol

from headrace.types import Leg, Note, Quote, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageRecord:
    """Times are seconds; None where the moment never came."""

    id: str
    route: str
    status: int
    """HTTP status; 499 where the client left first."""
    finish: str
    """A finish reason, `abort`, or the error's code."""
    key_id: str = ""
    org: str = ""
    team: str = ""
    user: str = ""
    feature: str = ""
    model: str = ""
    """A served model's name; empty where the request named none."""
    end_user: str = ""
    streamed: bool = False
    batch: str = ""
    """Id of the batch that it was a line of."""
    usage: Usage = field(default_factory=Usage)
    """As the backend reported it; of a request cut short, what had been delivered."""
    started_s: float = 0.0
    """Unix time of arrival."""
    duration_s: float = 0.0
    admission_s: float | None = None
    """Arrival to where the backend began: reading, rendering and waiting for a place."""
    first_token_s: float | None = None
    """Arrival to the first delta."""
    legs: tuple[Leg, ...] = ()
    """Every call of a real backend, as they ended; what is paid for. Without any, `usage` is."""
    notes: tuple[Note, ...] = ()
    """Every decision on the way, in order."""
    quotes: tuple[Quote, ...] = ()
    """Documents that a model was shown."""
    continues: tuple[str, ...] = ()
    """Requests whose answers are part of its conversation."""
    cache: str = ""
    """hit | miss; empty = no cache was asked."""
    cost_nanousd: int | None = None
    """As the ledger books it; None where there is none, or nothing was held."""


class UsageSink(Protocol):
    """Whatever keeps the records."""

    def record(self, record: UsageRecord) -> None:
        """Take one; must neither block nor raise."""
        ...
