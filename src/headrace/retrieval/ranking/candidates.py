"""A question to a store → a pool of candidates, read and fused: all that rankers look at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headrace.retrieval.contracts import Found, Generation, IndexStore
from headrace.retrieval.ranking.pool import (
    ABSENT,
    Evidence,
    Listed,
    Name,
    Pool,
    Vectors,
    evidence,
    name,
)
from headrace.retrieval.ranking.signals import SIGNALS, signals
from headrace.retrieval.ranking.terms import Floats
from headrace.types import Passage


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """One question's candidates, scored so far."""

    query: str
    pool: Pool
    found: Evidence
    score_N: Floats
    """Higher is better."""
    now_s: float

    @property
    def signals(self) -> Floats:
        """All 0 where one of the lists is empty: then there is nothing to weigh."""
        if self.pool.keyword.present_N.any() and self.pool.vector.present_N.any():
            return signals(self.pool, self.found)
        return np.zeros(len(SIGNALS))


def pool_of(found: Found) -> Pool:
    """What `IndexStore.candidates` found, with both scores of each."""
    return Pool(
        passages=found.passages,
        keyword=_listed(found.passages, "bm25"),
        vector=_listed(found.passages, "cosine"),
    )


def _listed(passages: Sequence[Passage], score: str) -> Listed:
    ranks = [p.features.get(f"{score}_rank") for p in passages]
    return Listed(
        score_N=np.array([p.features.get(score, np.nan) for p in passages], np.float64),
        rank_N=np.array([ABSENT if rank is None else int(rank) - 1 for rank in ranks], np.int64),
    )


def merged(pools: Sequence[Pool]) -> tuple[Pool, tuple[dict[Name, int], ...]]:
    """The first pool, and after it what only the others have; where each pool's are in it.

    What the lists say is what they said to the first question; of what its lists do not have they
    say nothing.
    """
    every: dict[Name, Passage] = {}
    for pool in pools:
        for passage in pool.passages:
            every.setdefault(name(passage), passage)
    at = {key: number for number, key in enumerate(every)}
    first, more = pools[0], len(every) - len(pools[0])
    pool = Pool(
        passages=tuple(every.values()),
        keyword=_longer(first.keyword, more),
        vector=_longer(first.vector, more),
    )
    return pool, tuple({name(p): at[name(p)] for p in each.passages} for each in pools)


def _longer(listed: Listed, more: int) -> Listed:
    return Listed(
        score_N=np.concatenate([listed.score_N, np.full(more, np.nan)]),
        rank_N=np.concatenate([listed.rank_N, np.full(more, ABSENT, np.int64)]),
    )


def read(query: str, pool: Pool) -> Evidence:
    """Where the question's words stand in the candidates, headings included."""
    return evidence(query, [passage.chunk.embedded for passage in pool.passages])


async def with_vectors(store: IndexStore, generation: Generation, pool: Pool) -> Pool:
    """The pool with the candidates' vectors, where the store has them all."""
    hashes = [passage.chunk.sha256 for passage in pool.passages]
    have = await store.vectors_of(generation.number, list(dict.fromkeys(hashes)))
    if not hashes or any(each not in have for each in hashes):
        return pool
    vectors_ND: Vectors = np.frombuffer(b"".join(have[each] for each in hashes), "<f4").reshape(
        len(hashes), generation.dimensions
    )
    return replace(pool, vectors_ND=vectors_ND)
