"""Questions with known answers → settings of an index, where they are better for certain.

The default stands until another's gain over it has an interval above 0 that is clustered and
corrected for how many were tried: on a few dozen questions the best of ten is better by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.errors import InvalidParameter
from headrace.retrieval.measures import Comparison, Verdict, compare, ndcg
from headrace.retrieval.ranking.fusion import ordered
from headrace.retrieval.ranking.retriever import Retriever
from headrace.retrieval.ranking.settings import Fusing, RankingSettings
from headrace.types import SearchRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """A question whose answers are known."""

    query: str
    grades: Mapping[str, float]
    """Document → how good it is, above 0."""
    cluster: str = ""
    """What it has in common with others, as a rule its document; empty = nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    settings: RankingSettings
    ndcg: float
    """Mean, to depth 10, before reranking."""
    beside_default: Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    settings: RankingSettings
    """The best that is better for certain, else what it began with."""
    tried: tuple[Tried, ...]
    said: str


async def tune(
    retriever: Retriever, index: str, golden: Sequence[Golden], *, seed: int = 0
) -> Tuned:
    """Choose how to fuse. Searches as an administrator, each question once.

    Raises:
        InvalidParameter: Fewer than two questions, or one without an answer.
    """
    if len(golden) < 2:
        raise InvalidParameter(f"{len(golden)} questions are too few to choose by; give 2 or more")
    for at, question in enumerate(golden):
        if not any(grade > 0 for grade in question.grades.values()):
            raise InvalidParameter(f"question {at}, {question.query!r}, has no answer with a grade")
    options = _options(retriever.settings)
    scores = await _scores(retriever, index, golden, options)
    clusters = [question.cluster or f"\0{at}" for at, question in enumerate(golden)]
    confidence = 1 - 0.05 / (len(options) - 1)
    tried = tuple(
        Tried(
            settings=settings,
            ndcg=sum(row) / len(row),
            beside_default=compare(row, scores[0], clusters, confidence=confidence, seed=seed),
        )
        for settings, row in zip(options, scores, strict=True)
    )
    better = [t for t in tried[1:] if t.beside_default.verdict is Verdict.BETTER]
    best = max(better, key=lambda t: t.ndcg, default=tried[0])
    gain = best.beside_default
    said = (
        f"{_name(best.settings)}: nDCG@10 {best.ndcg:.3f}, {gain.difference:+.3f} "
        f"[{gain.low:+.3f}, {gain.high:+.3f}] beside what was set"
        if better
        else f"what is set stands: none of {len(tried) - 1} others is better for certain"
    )
    return Tuned(settings=best.settings, tried=tried, said=said)


def _options(settings: RankingSettings) -> list[RankingSettings]:
    """What is set, then all others."""
    others = [
        replace(settings, fusing=Fusing.WEIGHED),
        *(
            replace(settings, fusing=Fusing.CONVEX, keyword_weight=tenth / 10)
            for tenth in range(11)
        ),
        *(replace(settings, fusing=Fusing.RRF, rrf_k=k) for k in (10, 60)),
    ]
    return [settings, *(other for other in others if other != settings)]


async def _scores(
    retriever: Retriever,
    index: str,
    golden: Sequence[Golden],
    options: Sequence[RankingSettings],
) -> list[list[float]]:
    """nDCG@10 of each question, one row an option."""
    ways = [retriever.using(settings) for settings in options]
    rows: list[list[float]] = [[] for _ in options]
    for question in golden:
        request = SearchRequest(index=index, query=question.query, principals=None)
        gathered = await retriever.gather(request)
        for way, row in zip(ways, rows, strict=True):
            candidates, _ = way.fused(request, gathered)
            order = ordered(candidates.score_N, candidates.pool)
            documents = [candidates.pool.passages[at].chunk.document for at in order]
            row.append(ndcg(list(dict.fromkeys(documents)), dict(question.grades)))
    return rows


def _name(settings: RankingSettings) -> str:
    if settings.fusing is Fusing.CONVEX:
        return f"convex with keyword {settings.keyword_weight:g}"
    return f"rrf with k {settings.rrf_k}" if settings.fusing is Fusing.RRF else "weighed"
