"""A hold and the trail of its request → what the ledger books of it."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from headrace.gateway.price import MILLION
from headrace.gateway.slices import Hold
from headrace.gateway.tariff import Bill, bill
from headrace.store.entries import Entry, LegLine
from headrace.types import Leg, Trail, Usage


class Calls(TypedDict, total=False):
    """The fields of an entry that say for what calls it was."""

    provider: str
    upstream: str
    legs: tuple[LegLine, ...]


class Billed(NamedTuple):
    bill: Bill
    cache: str


def billed(hold: Hold, usage: Usage, *, finish: str, trail: Trail | None) -> Billed:
    """What a request costs: its legs; for a cache's hit no tokens, and the part of what its answer
    once cost that the route asks for; by its own model's price where a backend that is not metered
    answered."""
    legs: Sequence[Leg] = () if trail is None else trail.legs
    cache = "" if trail is None else trail.cache
    if not legs and cache != "hit" and usage != Usage():
        own = hold.tariff.own
        legs = (
            Leg(provider=own.provider, model=own.model, usage=usage, outcome=finish, seconds=0.0),
        )
    hit = trail if cache == "hit" and not legs else None
    made = bill(
        hold.tariff,
        legs if hit is None else hit.kept,
        input_tokens=hold.entry.prompt_tokens,
        output_tokens=hold.output_tokens,
    )
    if hit is not None:
        cost = -(-made.cost_nanousd * hit.hit_ppm // MILLION)
        made = Bill(usage=Usage(), cost_nanousd=cost, lines=(), estimated=False)
    return Billed(made, cache)


def calls_of(made: Bill) -> Calls:
    """Of one call its provider and model; of several all of them."""
    if len(made.lines) == 1:
        [line] = made.lines
        return {"provider": line.leg.provider, "upstream": line.leg.model}
    return {
        "legs": tuple(
            LegLine(
                provider=leg.provider,
                upstream=leg.model,
                outcome=leg.outcome,
                estimated=int(leg.estimated),
                prompt_tokens=leg.usage.prompt_tokens,
                cached_tokens=leg.usage.cached_tokens,
                cache_write_tokens=leg.usage.cache_write_tokens,
                completion_tokens=leg.usage.completion_tokens,
                reasoning_tokens=leg.usage.reasoning_tokens,
                compute_us=leg.usage.compute_us,
                kv_byte_s=leg.usage.kv_byte_s,
                cost_nanousd=cost,
            )
            for leg, cost in made.lines
        )
    }


def usage_of(entry: Entry) -> Usage:
    """The tokens that an entry books."""
    return Usage(
        prompt_tokens=entry.prompt_tokens,
        cached_tokens=entry.cached_tokens,
        cache_write_tokens=entry.cache_write_tokens,
        completion_tokens=entry.completion_tokens,
        reasoning_tokens=entry.reasoning_tokens,
        compute_us=entry.compute_us,
        kv_byte_s=entry.kv_byte_s,
    )
