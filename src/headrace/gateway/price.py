"""What tokens cost: integer nano-dollars a million tokens, by tier; never a float.

Invariant: `bound` of a prompt and a number of tokens is at least `cost` of any usage within them,
and `affordable` tokens never cost more than what they were asked for. A request is rounded once, up
to the next nano-dollar.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from headrace.types import Usage

MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Nano-dollars a million tokens."""

    input: int = 0
    cached: int = 0
    written: int = 0
    """Of prompt tokens that go into a provider's cache."""
    output: int = 0
    above: int = 0
    """For requests whose prompt is longer than this many tokens, all of their tokens."""


@dataclass(frozen=True)
class Price:
    """A model's rates; the first is for prompts of any length."""

    rates: tuple[Rate, ...]
    gpu_hour_nanousd: int = 0
    """Of one's own machines: what an hour of the engine's steps costs."""
    kv_gib_hour_nanousd: int = 0
    """And a GiB of KV cache for an hour. Where one of the two is set, a request costs its share of
    both, and never more than its tokens by `rates`: that is what can be known before it runs."""

    @cached_property
    def hash(self) -> str:
        """Names these rates in ledger rows."""
        spelled = ";".join(
            f"{r.above}:{r.input},{r.cached},{r.written},{r.output}" for r in self.rates
        )
        if self.attributed:
            spelled += f";own:{self.gpu_hour_nanousd},{self.kv_gib_hour_nanousd}"
        return hashlib.sha256(spelled.encode()).hexdigest()[:16]

    @property
    def attributed(self) -> bool:
        """Whether a request costs what it used of the machine."""
        return bool(self.gpu_hour_nanousd or self.kv_gib_hour_nanousd)

    def cost(self, usage: Usage) -> int:
        """What a request costs, in nano-dollars."""
        return round_up(self.millionths(usage))

    def millionths(self, usage: Usage) -> int:
        """The same in millionths of a nano-dollar, not rounded yet."""
        by_tokens = self._by_tokens(usage)
        if not self.attributed:
            return by_tokens
        compute = -(-usage.compute_us * self.gpu_hour_nanousd // 3600)
        kv = -(-usage.kv_byte_s * self.kv_gib_hour_nanousd * MILLION // (3600 << 30))
        return min(compute + kv, by_tokens)

    def _by_tokens(self, usage: Usage) -> int:
        rate = self.rates[0]
        for higher in self.rates[1:]:
            if usage.prompt_tokens > higher.above:
                rate = higher
        written = usage.cache_write_tokens
        fresh = usage.prompt_tokens - usage.cached_tokens - written
        total = fresh * rate.input + usage.cached_tokens * rate.cached + written * rate.written
        return total + usage.completion_tokens * rate.output

    def bound(self, input_tokens: int, output_tokens: int) -> int:
        """The most that a prompt and an answer up to that long can cost, in nano-dollars."""
        dearest = self.dearest(input_tokens)
        return round_up(input_tokens * dearest.input + output_tokens * dearest.output)

    def affordable(self, input_tokens: int, nanousd: int) -> int | None:
        """Tokens of answer that this money surely pays after the prompt; None = any number."""
        dearest = self.dearest(input_tokens)
        if not dearest.output:
            return None if input_tokens * dearest.input <= nanousd * MILLION else -1
        return (nanousd * MILLION - input_tokens * dearest.input) // dearest.output

    def dearest(self, input_tokens: int) -> "Dearest":
        """The dearest rates that a prompt up to that long may meet."""
        found = self._bounds[0]
        for bound in self._bounds[1:]:
            if input_tokens <= bound.above:
                break
            found = bound
        return found

    @cached_property
    def _bounds(self) -> "tuple[Dearest, ...]":
        """For prompts longer than each `above`, the dearest of the rates that may then hold."""
        first, *higher = self.rates
        made = [Dearest(0, max(first.input, first.cached, first.written), first.output)]
        for rate in sorted(higher, key=lambda rate: rate.above):
            dearest = max(made[-1].input, rate.input, rate.cached, rate.written)
            made.append(Dearest(rate.above, dearest, max(made[-1].output, rate.output)))
        return tuple(made)


class Dearest(NamedTuple):
    """The dearest that tokens of a prompt that long, and of its answer, may be."""

    above: int
    input: int
    output: int


FREE = Price((Rate(),))
"""Of a model on one's own machines, where nobody set a rate."""


def round_up(millionths: int) -> int:
    """Whole nano-dollars."""
    return -(-millionths // MILLION)
