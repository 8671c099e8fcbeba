"""A search request → ranked passages: gathered from a store, fused, ranked anew, told of.

Invariants: what the scope hides is in no answer, no count and no note; fewer than `k` passages
come with the reason; a step that fails or takes too long leaves the order before it, and a note;
equal requests on one snapshot have equal answers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from headrace.errors import DeadlineExceeded, InvalidParameter, ServiceError
from headrace.retrieval.contracts import Found, Generation, IndexStore, Scope
from headrace.retrieval.ranking.candidates import (
    Candidates,
    merged,
    pool_of,
    read,
    with_vectors,
)
from headrace.retrieval.ranking.diversity import faded, spread
from headrace.retrieval.ranking.features import features, named
from headrace.retrieval.ranking.fusion import fuse, ordered
from headrace.retrieval.ranking.learned import Learned, shipped
from headrace.retrieval.ranking.phrasing import Phraser
from headrace.retrieval.ranking.pool import Evidence, Pool, pooled
from headrace.retrieval.ranking.rerankers import LearnedReranker, Reranker
from headrace.retrieval.ranking.settings import RankingSettings
from headrace.retrieval.ranking.terms import Floats
from headrace.types import (
    Embedder,
    EmbedRequest,
    Passage,
    SearchMode,
    SearchRequest,
    SearchResult,
    Usage,
)

T = TypeVar("T")
_EMBEDDING = 0.6
"""Share of a deadline that the question's vector may take."""
_OTHERS = 0.5
"""Weight of each other phrasing beside the question's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """What a store found for one question, before anything is ranked."""

    pool: Pool
    others: tuple[tuple[str, Pool], ...]
    """Of other phrasings."""
    found: Found
    notes: tuple[str, ...]
    usage: Usage


class Retriever:
    """Ranks what one store finds with one embedder."""

    def __init__(
        self,
        store: IndexStore,
        embedder: Embedder,
        *,
        settings: RankingSettings | None = None,
        reranker: Reranker | None = None,
        phraser: Phraser | None = None,
        learned: Learned | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            store: Of the index; its active generation was made with `embedder`.
            embedder: Makes the question's vector.
            settings: How to fuse and to order.
            reranker: None = the learned one.
            phraser: Makes other phrasings; needed where `settings.phrasings` is not 0.
            learned: Weights; None = those that come with the package.
            clock: Unix time, for what fades.

        Raises:
            InvalidParameter: Phrasings are wanted and there is nobody to make them.
        """
        self.store = store
        self._embedder = embedder
        self.settings = settings or RankingSettings()
        self._learned = learned or shipped()
        self._reranker = reranker or LearnedReranker(self._learned)
        self._phraser = phraser
        self._clock = clock
        if self.settings.phrasings and phraser is None:
            raise InvalidParameter(
                f"`phrasings` is {self.settings.phrasings}, and there is no model to make them; "
                "give a `phraser`, or 0",
                param="phrasings",
            )

    async def search(
        self, request: SearchRequest, *, phrasings: Sequence[str] = ()
    ) -> SearchResult:
        """Answer one request.

        Args:
            request: What is looked for.
            phrasings: Other ways to ask the same, beside those that a phraser makes.

        Raises:
            InvalidParameter: `k` or `deadline_s` is no number to search with.
            DeadlineExceeded: The store had not answered in time.
            ServiceError: The embedder failed in vector mode; hybrid goes on with keywords alone.
        """
        _check(request)
        ends_s = None if request.deadline_s is None else time.monotonic() + request.deadline_s
        gathered = await self.gather(request, phrasings=phrasings, ends_s=ends_s)
        return await self.rank(request, gathered, ends_s=ends_s)

    def using(self, settings: RankingSettings) -> "Retriever":
        """The same with other settings."""
        return Retriever(
            self.store,
            self._embedder,
            settings=settings,
            reranker=self._reranker,
            phraser=self._phraser,
            learned=self._learned,
            clock=self._clock,
        )

    async def gather(
        self,
        request: SearchRequest,
        *,
        phrasings: Sequence[str] = (),
        ends_s: float | None = None,
    ) -> Gathered:
        """Ask the store, for the question and for its phrasings."""
        scope = Scope(principals=request.principals, filter=request.filter)
        generation = await self.store.active()
        depth = max(request.k, self.settings.depth)
        if request.mode is SearchMode.KEYWORD:
            found = await _within(ends_s, self.store.keyword(request.query, depth, scope))
            return _single(found, request.mode, "keyword mode: the order is BM25's")
        notes: list[str] = []
        queries = [request.query, *await self._phrasings(request, phrasings, ends_s, notes)]
        vectors, usage = await self._vectors(request, generation, queries, ends_s, notes)
        if vectors is None:
            found = await _within(ends_s, self.store.keyword(request.query, depth, scope))
            single = _single(found, SearchMode.KEYWORD, *notes)
            return replace(single, usage=usage)
        if request.mode is SearchMode.VECTOR:
            search = self.store.nearest(generation.number, vectors[0], depth, scope)
            return replace(
                _single(
                    await _within(ends_s, search),
                    request.mode,
                    "vector mode: the order is the cosine's",
                ),
                usage=usage,
            )
        every = [
            await _within(
                ends_s, self.store.candidates(generation.number, query, vector, depth, scope)
            )
            for query, vector in zip(queries, vectors, strict=True)
        ]
        if not all(found.exact for found in every):
            notes.append("vectors were searched approximately")
        pools = [pool_of(found) for found in every]
        pools[0] = await _within(ends_s, with_vectors(self.store, generation, pools[0]))
        others = tuple(zip(queries[1:], pools[1:], strict=True))
        return Gathered(
            pool=pools[0], others=others, found=every[0], notes=tuple(notes), usage=usage
        )

    async def rank(
        self, request: SearchRequest, gathered: Gathered, *, ends_s: float | None = None
    ) -> SearchResult:
        """Order what was gathered, and tell of it."""
        notes = list(gathered.notes)
        candidates, note = self.fused(request, gathered)
        if request.mode is SearchMode.HYBRID:
            notes.append(note)
        ranked = await self._reranked(request, candidates, ends_s, notes)
        order = self._final(request, ranked, notes)
        found = gathered.found
        passages = _told(candidates, ranked.score_N, order[: request.k])
        return SearchResult(
            passages=passages,
            snapshot=found.snapshot,
            matching=found.matching,
            shortfall=_shortfall(found, len(passages), request.k),
            notes=tuple(notes),
            usage=gathered.usage,
        )

    def fused(self, request: SearchRequest, gathered: Gathered) -> tuple[Candidates, str]:
        """The question's candidates with the scores of the fusion, and how those came about."""
        pool, weigher, settings = gathered.pool, self._learned.weigher, self.settings
        found = read(request.query, pool)
        if request.mode is not SearchMode.HYBRID:
            listed = pool.keyword if request.mode is SearchMode.KEYWORD else pool.vector
            return self._candidates(request, pool, found, listed.scaled_N), ""
        fused = fuse(pool, found, settings, weigher)
        score_N, note = fused.score_N, fused.note
        if gathered.others:
            pool, at = merged([gathered.pool, *(other for _, other in gathered.others)])
            total_N = np.zeros(len(pool))
            total_N[list(at[0].values())] += score_N
            for (query, other), places in zip(gathered.others, at[1:], strict=True):
                scores = fuse(other, read(query, other), settings, weigher).score_N
                total_N[list(places.values())] += _OTHERS * scores
            score_N = total_N / (1 + _OTHERS * len(gathered.others))
            found = read(request.query, pool)
            note += f"; with {len(gathered.others)} other phrasings"
        return self._candidates(request, pool, found, score_N), note

    def _candidates(
        self, request: SearchRequest, pool: Pool, found: Evidence, score_N: Floats
    ) -> Candidates:
        return Candidates(
            query=request.query,
            pool=pool,
            found=found,
            score_N=score_N,
            now_s=self._clock(),
        )

    async def _reranked(
        self,
        request: SearchRequest,
        candidates: Candidates,
        ends_s: float | None,
        notes: list[str],
    ) -> Candidates:
        if not request.rerank or request.mode is not SearchMode.HYBRID or not len(candidates.pool):
            return candidates
        name, limit_s = self._reranker.name, self.settings.rerank_timeout_s
        scores = self._reranker.scores(candidates, request.caller, request.trace)
        try:
            score_N = await _within(_sooner(ends_s, limit_s), scores)
        except DeadlineExceeded:
            notes.append(f"reranker {name} did not answer in time: the order before it stands")
            return candidates
        except ServiceError as error:
            notes.append(f"reranker {name} failed ({error.code}): the order before it stands")
            return candidates
        notes.append(f"ranked anew by {name}")
        return replace(candidates, score_N=score_N)

    def _final(self, request: SearchRequest, candidates: Candidates, notes: list[str]) -> list[int]:
        """Time and diversity, then ties by name."""
        settings, pool = self.settings, candidates.pool
        score_N = candidates.score_N
        if settings.half_life_s and len(pool):
            score_N = faded(
                score_N,
                pool.passages,
                now_s=candidates.now_s,
                half_life_s=settings.half_life_s,
                decay=settings.decay,
            )
            notes.append(
                f"{settings.decay:.0%} of a score fades, by half in {settings.half_life_s:g} s"
            )
        order = ordered(score_N, pool)
        if not settings.diversity:
            return order
        if pool.vectors_ND is None or len(pool.vectors_ND) < len(pool):
            notes.append("no diversity: the store has no vectors of some candidates")
            return order
        spread_out = spread(score_N[order], pool.vectors_ND[order], request.k, settings.diversity)
        notes.append(f"spread out by {settings.diversity:g}")
        return [order[i] for i in spread_out]

    async def _phrasings(
        self,
        request: SearchRequest,
        given: Sequence[str],
        ends_s: float | None,
        notes: list[str],
    ) -> list[str]:
        made: Sequence[str] = ()
        count = self.settings.phrasings
        if count and self._phraser is not None:
            asking = self._phraser.phrase(request.query, count, request.caller, request.trace)
            try:
                made = await _within(_sooner(ends_s, self.settings.phrasings_timeout_s), asking)
            except (DeadlineExceeded, ServiceError) as error:
                notes.append(f"no other phrasings were made ({error.code})")
        kept = dict.fromkeys(text for text in (*given, *made) if text.strip())
        kept.pop(request.query, None)
        return list(kept)

    async def _vectors(
        self,
        request: SearchRequest,
        generation: Generation,
        queries: Sequence[str],
        ends_s: float | None,
        notes: list[str],
    ) -> tuple[list[bytes] | None, Usage]:
        """Of each query; None where the embedder fails and keywords must do."""
        if not request.query.strip():
            raise InvalidParameter("`query` is empty; say what to look for", param="query")
        card = self._embedder.card
        asks = EmbedRequest(
            model=card.name,
            inputs=tuple(queries),
            prompt="query" if "query" in card.prompts else "",
            truncate=True,
            deadline_s=request.deadline_s,
            caller=request.caller,
            trace=request.trace,
        )
        # Keywords must have time to answer where the embedder takes too long.
        left_s = None if ends_s is None else _EMBEDDING * (ends_s - time.monotonic())
        until_s = None if left_s is None else time.monotonic() + left_s
        try:
            answer = await _within(until_s, self._embedder.embed(asks))
        except ServiceError as error:
            if request.mode is SearchMode.VECTOR:
                raise
            notes.append(f"the embedder failed ({error.code}): keywords alone")
            return None, Usage()
        if answer.truncated:
            notes.append("the question was longer than the embedder reads: its start counts")
        return _units(answer.data, generation.dimensions), answer.usage


def _check(request: SearchRequest) -> None:
    if request.k < 1:
        raise InvalidParameter(f"`k` is {request.k}; ask for 1 passage or more", param="k")
    if request.deadline_s is not None and request.deadline_s <= 0:
        raise InvalidParameter(
            f"`deadline_s` is {request.deadline_s}; give seconds above 0", param="deadline_s"
        )


def _units(data: bytes, dimensions: int) -> list[bytes]:
    row_ND = np.frombuffer(data, "<f4").reshape(-1, dimensions)
    length_N = np.linalg.norm(row_ND, axis=1, keepdims=True)
    return [row.tobytes() for row in (row_ND / np.maximum(length_N, 1e-12)).astype("<f4")]


def _sooner(ends_s: float | None, limit_s: float) -> float:
    own_s = time.monotonic() + limit_s
    return own_s if ends_s is None else min(own_s, ends_s)


async def _within(ends_s: float | None, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(None if ends_s is None else max(0.0, ends_s - time.monotonic())):
            return await work
    except TimeoutError as error:
        raise DeadlineExceeded("the search did not end in time") from error


def _single(found: Found, mode: SearchMode, *notes: str) -> Gathered:
    """One list alone."""
    keyword = mode is SearchMode.KEYWORD
    pool = pooled(found.passages, ()) if keyword else pooled((), found.passages)
    return Gathered(pool=pool, others=(), found=found, notes=notes, usage=Usage())


def _shortfall(found: Found, count: int, k: int) -> str:
    """The store's reason; it was asked for more than `k` and may have had one for that alone."""
    if count >= k:
        return ""
    return found.shortfall or f"{found.matching} chunks match, and {count} of them were found"


def _told(candidates: Candidates, ranked_N: Floats, order: Sequence[int]) -> tuple[Passage, ...]:
    """The passages with what their scores were made of."""
    rows = features(candidates.pool, candidates.found, candidates.score_N, candidates.now_s)
    return tuple(
        replace(
            candidates.pool.passages[at],
            score=float(ranked_N[at]),
            features={**candidates.pool.passages[at].features, **named(rows[at])},
        )
        for at in order
    )
