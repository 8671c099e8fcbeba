"""How an index is searched; what `tune` chooses and an installation may set."""

from dataclasses import dataclass
from enum import StrEnum

from headrace.errors import InvalidParameter


class Fusing(StrEnum):
    """How two lists become one."""

    WEIGHED = "weighed"  # scaled scores, by weights that each question gets of its own
    CONVEX = "convex"  # scaled scores, by one weight
    RRF = "rrf"  # by ranks alone


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingSettings:
    """Of one index."""

    fusing: Fusing = Fusing.WEIGHED
    depth: int = 100
    """Passages that each list brings."""
    keyword_weight: float = 0.5
    """Of the keyword list, where `fusing` is convex; the vector list has the rest."""
    rrf_k: int = 60
    """Cormack, Clarke & Büttcher 2009 have 60; less favours what one list has at its top."""
    rerank_timeout_s: float = 2.0
    """For a reranker that asks a model; when it is over, the order before stands."""
    diversity: float = 0.0
    """0 = by score alone; nearer 1, what says the same as a better passage is put back."""
    half_life_s: float = 0.0
    """After which a passage counts half of what `decay` leaves to time; 0 = time does not count."""
    decay: float = 0.2
    """Share of a score that fades, where `half_life_s` is set."""
    phrasings: int = 0
    """Other ways of asking that a model is to make; needs a backend."""
    phrasings_timeout_s: float = 2.0

    def __post_init__(self) -> None:
        for field, low, high in (
            ("depth", 1, 10_000),
            ("keyword_weight", 0, 1),
            ("rrf_k", 1, 10_000),
            ("rerank_timeout_s", 0, 600),
            ("diversity", 0, 1),
            ("half_life_s", 0, 1e10),
            ("decay", 0, 1),
            ("phrasings", 0, 8),
            ("phrasings_timeout_s", 0, 600),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise InvalidParameter(
                    f"`{field}` is {value}; it lies between {low} and {high:g}", param=field
                )
