"""Everything that one request may ask → the most it can cost; and the legs it did ask → its bill.

Invariants: what is held is at least the bill of any legs, as many as there may be, within the held
tokens. A bill is rounded once, up; its lines sum to it exactly.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from headrace.gateway.price import MILLION, Price, round_up
from headrace.types import Leg, Target, Usage, total


@dataclass(frozen=True)
class Tariff:
    """The prices of the models that a request may ask, its own first."""

    prices: Mapping[Target, Price]
    calls: int = 1
    """The most calls of them that one request may be billed for: one, or more where a route has
    fallbacks, tiers or hedges, since a call that fails or loses may have been answered too."""

    @staticmethod
    def single(price: Price, target: Target) -> "Tariff":
        """Of one model alone."""
        return Tariff({target: price})

    @cached_property
    def own(self) -> Target:
        """The first: whose the request is where no leg says otherwise."""
        return next(iter(self.prices))

    @cached_property
    def hash(self) -> str:
        """Names these prices in ledger rows."""
        hashes = [price.hash for price in self.prices.values()]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256(";".join(hashes).encode()).hexdigest()[:16]

    def bound(self, input_tokens: int, output_tokens: int) -> int:
        """The most that a prompt and an answer up to that long can cost, in nano-dollars."""
        rates = self._worst(input_tokens)
        return round_up(input_tokens * rates.input + output_tokens * rates.output)

    def affordable(self, input_tokens: int, nanousd: int) -> int | None:
        """Tokens of answer that this money surely pays after the prompt; None = any number."""
        rates = self._worst(input_tokens)
        left = nanousd * MILLION - input_tokens * rates.input
        if not rates.output:
            return None if left >= 0 else -1
        return left // rates.output

    def of(self, target: Target) -> Price:
        """A leg's price; of a model that was not to be asked, the dearest that was held for."""
        found = self.prices.get(target)
        if found is not None:
            return found
        return max(self.prices.values(), key=lambda price: price.dearest(1 << 40)[1:])

    def _worst(self, input_tokens: int) -> "_Worst":
        found = [price.dearest(input_tokens) for price in self.prices.values()]
        if self.calls == 1 == len(found):
            return _Worst(found[0].input, found[0].output)
        return _Worst(
            input=self._dearest_calls([dearest.input for dearest in found]),
            output=self._dearest_calls([dearest.output for dearest in found]),
        )

    def _dearest_calls(self, rates: list[int]) -> int:
        """The sum over the dearest calls; of more calls than models the dearest again."""
        rates.sort(reverse=True)
        return sum(rates[: self.calls]) + max(self.calls - len(rates), 0) * rates[0]


class _Worst(NamedTuple):
    input: int
    output: int


class Line(NamedTuple):
    """One leg, paid."""

    leg: Leg
    cost_nanousd: int


class Bill(NamedTuple):
    """What a request costs; `usage` and `cost_nanousd` are its lines' sums."""

    usage: Usage
    cost_nanousd: int
    lines: Sequence[Line]
    estimated: bool
    """Of a part of it only a bound is known."""


def bill(tariff: Tariff, legs: Iterable[Leg], *, input_tokens: int, output_tokens: int) -> Bill:
    """Price legs.

    Args:
        tariff: What was held for.
        legs: All calls of the request.
        input_tokens: The prompt as it was held for: of a call that was cut short before its
            provider counted the prompt, this is what it may have read.
        output_tokens: As held for; bounds what such a call may have written.
    """
    lines: list[Line] = []
    exact = booked = 0
    for found in legs:
        leg = _bounded(found, input_tokens, output_tokens) if found.estimated else found
        price = tariff.of(Target(provider=leg.provider, model=leg.model))
        exact += price.millionths(leg.usage)
        lines.append(Line(leg, round_up(exact) - booked))
        booked = round_up(exact)
    return Bill(
        usage=total(line.leg.usage for line in lines),
        cost_nanousd=booked,
        lines=lines,
        estimated=any(line.leg.estimated for line in lines),
    )


def _bounded(leg: Leg, input_tokens: int, output_tokens: int) -> Leg:
    usage = leg.usage
    return replace(
        leg,
        usage=replace(
            usage,
            prompt_tokens=usage.prompt_tokens or input_tokens,
            completion_tokens=min(usage.completion_tokens, output_tokens),
        ),
    )
