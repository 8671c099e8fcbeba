"""Where support ends, and what a comparison found."""

from dataclasses import dataclass

from headrace.types import CitationVerdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Where support ends. Chosen on one half of the articles, reported on the other."""

    covered: float = 0.55
    """Share of a claim's words that a source must have together."""
    elsewhere: float = 0.2
    """How much better another source must be for a claim to be misplaced."""
    slot: float = 1.2
    """How much better another name or number must fit the claim's place to contradict it,"""
    apart: float = 0.3
    """times its own fit, and by so much more."""
    beside: float = 0.25
    """How much more of a question another sentence may have than the one that a short answer is
    from."""
    unsaid: float = 1.2
    """How well another must fit where the source means the claim's without naming it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a check found."""

    verdict: CitationVerdict
    support: float
    start: int = 0
    end: int = 0
    """The span that supports it best, in characters of the source's text."""
    reason: str = ""
    hard: bool = False
    """Something in the claim is wrong, which no opinion on the rest mends."""

    @property
    def good(self) -> bool:
        return self.verdict is CitationVerdict.SUPPORTED
