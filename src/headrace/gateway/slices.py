"""This worker's part of a limit's window, and what a request takes from it in the limit's unit.

Invariant: slice = free + held + unbooked; nothing here waits or does I/O.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.errors import BudgetExceeded, LimitExceeded, RateLimitExceeded
from headrace.gateway.need import Need
from headrace.gateway.tariff import Tariff
from headrace.store.entries import Entry
from headrace.store.leases import Refusal
from headrace.store.limits import Limit, Unit
from headrace.store.windows import FOREVER_S
from headrace.types import Usage


@dataclass(slots=True, eq=False)
class Slice:
    """What this worker was lent of one window."""

    limit: Limit
    starts_s: int
    ends_s: int
    counts_from_s: int
    window_id: int = 0
    free: int = 0
    held: int = 0
    unbooked: int = 0
    used_s: float = 0.0


@dataclass(slots=True, eq=False)
class Hold:
    """A reservation; given to `settle` exactly once."""

    entry: Entry
    output_tokens: int
    """What the answer may have: as asked, or what is left to pay for."""
    clamped: bool
    tariff: Tariff
    taken: list[tuple[Slice, int]] = field(default_factory=list[tuple[Slice, int]])
    began: float = 0.0
    settled: bool = False


def amounts(slices: Sequence[Slice], need: Need, output: int) -> list[int]:
    """What a request with so many tokens of answer takes from each slice."""
    by_unit: dict[Unit, int] = {}  # a request often has several limits of one unit
    found: list[int] = []
    for piece in slices:
        unit = piece.limit.unit
        amount = by_unit.get(unit)
        if amount is None:
            amount = by_unit[unit] = amount_of(unit, need, output)
        found.append(amount)
    return found


def amount_of(unit: Unit, need: Need, output: int) -> int:
    """The most that a request takes from a limit of this unit."""
    match unit:
        case Unit.MONEY:
            return need.tariff.bound(need.input_tokens, output)
        case Unit.INPUT_TOKENS:
            return need.input_tokens * need.tariff.calls
        case Unit.OUTPUT_TOKENS:
            return output * need.tariff.calls
        case Unit.REQUESTS | Unit.CONCURRENCY:
            return 1


def affordable(piece: Slice, need: Need) -> int:
    """Tokens of answer that a slice pays; -1 where it does not even pay the rest."""
    unit = piece.limit.unit
    if unit is Unit.MONEY:
        tokens = need.tariff.affordable(need.input_tokens, piece.free)
        return need.output_tokens if tokens is None else tokens
    if unit is Unit.OUTPUT_TOKENS:
        return piece.free // need.tariff.calls
    return need.output_tokens if piece.free >= amount_of(unit, need, 0) else -1


def used_of(unit: Unit, usage: Usage, cost: int) -> int:
    """What an ended request took from a limit of this unit."""
    match unit:
        case Unit.MONEY:
            return cost
        case Unit.INPUT_TOKENS:
            return usage.prompt_tokens
        case Unit.OUTPUT_TOKENS:
            return usage.completion_tokens
        case Unit.REQUESTS:
            return 1
        case Unit.CONCURRENCY:
            return 0


def shown(unit: Unit, amount: int) -> str:
    """An amount for people, exactly."""
    if unit is Unit.MONEY:
        whole, fraction = divmod(amount, 10**9)
        return f"${whole}.{f'{fraction:09d}'.rstrip('0'):0<2}"
    return f"{amount} {unit.value.replace('_', ' ')}"


def refused(refusal: Refusal, piece: Slice, need: Need, *, now_s: float) -> LimitExceeded:
    """The error for a limit that has too little left."""
    limit = piece.limit
    left = refusal.left + piece.free
    least = amount_of(limit.unit, need, need.least_output)
    ends = None if piece.ends_s >= FOREVER_S else piece.ends_s
    wait_s = None if ends is None else max(1, math.ceil(ends - now_s))
    until = "" if ends is None else f"; there is more in {wait_s} s"
    if limit.unit is Unit.CONCURRENCY:
        wait_s, until = 1, "; there is more when a request ends"
    details = {
        "scope": limit.scope,
        "subject": limit.subject,
        "unit": limit.unit.value,
        "window": limit.window,
        "limit": refusal.limit,
        "left": left,
        "needed": least,
        "resets_s": ends,
    }
    has = shown(limit.unit, left)
    message = (
        f"the {limit.window} limit of {limit.scope} {limit.subject}, "
        f"{shown(limit.unit, refusal.limit)}, has {has} left; this request "
        f"needs at least {shown(limit.unit, least)}{until}"
    )
    kind = BudgetExceeded if limit.unit is Unit.MONEY else RateLimitExceeded
    return kind(message, details=details, retry_after_s=wait_s)
