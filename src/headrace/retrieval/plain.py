"""Two lists, one order: each list's scores between its best and its worst, half and half.

Source: Bruch, Gai & Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval": a convex
combination of scaled scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from headrace.retrieval.contracts import Found, IndexStore, Scope
from headrace.retrieval.vectors import rows
from headrace.types import (
    Embedder,
    EmbedRequest,
    Passage,
    SearchMode,
    SearchRequest,
    SearchResult,
    Usage,
)

_DEPTH = 100
_HALF = 0.5


class Halves:
    """Searches one store with one embedder."""

    def __init__(self, store: IndexStore, embedder: Embedder) -> None:
        self._store = store
        self._embedder = embedder

    async def search(self, request: SearchRequest) -> SearchResult:
        """As `headrace.retrieval.opened.Seeker.search`."""
        scope = Scope(principals=request.principals, filter=request.filter)
        if request.mode is SearchMode.KEYWORD:
            found = await self._store.keyword(request.query, request.k, scope)
            return _result(found, found.passages, Usage(), request)
        vector, usage = await self._vector(request)
        active = await self._store.active()
        if request.mode is SearchMode.VECTOR:
            found = await self._store.nearest(active.number, vector, request.k, scope)
            return _result(found, found.passages, usage, request)
        depth = max(_DEPTH, request.k)
        found = await self._store.candidates(active.number, request.query, vector, depth, scope)
        return _result(found, fused(found.passages), usage, request)

    async def _vector(self, request: SearchRequest) -> tuple[bytes, Usage]:
        card = self._embedder.card
        made = await self._embedder.embed(
            EmbedRequest(
                model=card.name,
                inputs=(request.query,),
                prompt="query" if "query" in card.prompts else "",
                truncate=True,
                deadline_s=request.deadline_s,
                caller=request.caller,
                trace=request.trace,
            )
        )
        return rows(made.data, made.dimensions)[0], made.usage


def fused(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Best first, with `fused` among the features."""
    parts = [_scaled([p.features for p in passages], name) for name in ("bm25", "cosine")]
    scored = [
        replace(passage, score=score, features={**passage.features, "fused": score})
        for passage, *found in zip(passages, *parts, strict=True)
        for score in [_HALF * sum(found)]
    ]
    return tuple(sorted(scored, key=lambda p: (-p.score, p.chunk.document, p.chunk.ordinal)))


def _scaled(features: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """1 = the list's best, 0 = its last and what it does not have."""
    ranked = [item[name] for item in features if f"{name}_rank" in item]
    if not ranked:
        return [0.0] * len(features)
    low, high = min(ranked), max(ranked)
    span = (high - low) or 1.0
    return [min(1.0, max(0.0, (item.get(name, low) - low) / span)) for item in features]


def _result(
    found: Found, passages: Sequence[Passage], usage: Usage, request: SearchRequest
) -> SearchResult:
    shown = tuple(passages[: request.k])
    shortfall = "" if len(shown) == request.k else found.shortfall
    if len(shown) < request.k and not shortfall:
        shortfall = f"{found.matching} chunks may be seen; {len(shown)} have anything to do with it"
    return SearchResult(
        passages=shown,
        snapshot=found.snapshot,
        matching=found.matching,
        shortfall=shortfall,
        usage=usage,
    )
