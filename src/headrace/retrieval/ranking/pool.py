"""Two lists of passages → one pool of candidates, with what each list said of each.

Shape suffixes: N candidates, T terms of the question, D numbers of a vector.

Invariants: candidates are named by document and ordinal; their order is the keyword list's, then
what only the vector list has; nothing here depends on how scores are scaled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.retrieval.ranking.lexical import Lexical, lexical, rarity
from headrace.retrieval.ranking.terms import Floats, Places, Question, places, question
from headrace.types import Passage

Name: TypeAlias = tuple[str, int]
Vectors: TypeAlias = NDArray[np.float32]

ABSENT = 1 << 30
"""Rank of what a list does not have."""


def name(passage: Passage) -> Name:
    return passage.chunk.document, passage.chunk.ordinal


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One list's word on every candidate."""

    score_N: Floats
    """NaN where it is not known."""
    rank_N: NDArray[np.int64]
    """From 0; `ABSENT` where the list does not have it."""

    @property
    def present_N(self) -> NDArray[np.bool_]:
        return self.rank_N < ABSENT

    @property
    def scaled_N(self) -> Floats:
        """The list's best = 1, its last = 0; so is what it does not have and is not better.

        A list whose scores are all the same says 1 of all it has.
        """
        inside = self.score_N[self.present_N]
        if not len(inside):
            return np.zeros(len(self.score_N))
        low, high = float(inside.min()), float(inside.max())
        if high <= low:
            return self.present_N.astype(np.float64)
        known = np.where(np.isnan(self.score_N), low, self.score_N)
        return np.clip((known - low) / (high - low), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The candidates of one question."""

    passages: tuple[Passage, ...]
    keyword: Listed
    vector: Listed
    vectors_ND: Vectors | None = None
    """Of the candidates, each of length 1; None = the store was not asked."""

    def __len__(self) -> int:
        return len(self.passages)


def pooled(keyword: Sequence[Passage], vector: Sequence[Passage]) -> Pool:
    """Join the two lists."""
    every = {name(p): p for p in (*keyword, *vector)}
    at = {key: number for number, key in enumerate(every)}
    return Pool(
        passages=tuple(every.values()),
        keyword=_listed(keyword, at),
        vector=_listed(vector, at),
    )


def _listed(passages: Sequence[Passage], at: Mapping[Name, int]) -> Listed:
    score_N, rank_N = np.full(len(at), np.nan), np.full(len(at), ABSENT, np.int64)
    for rank, passage in enumerate(passages):
        score_N[at[name(passage)]] = passage.score
        rank_N[at[name(passage)]] = rank
    return Listed(score_N=score_N, rank_N=rank_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the words of the candidates say to the question."""

    question: Question
    places: Places
    idf_T: Floats
    words: Lexical


def evidence(query: str, texts: Sequence[str]) -> Evidence:
    """Read the candidates' texts.

    How rare a term is, is counted among the candidates: the whole index' numbers would tell of
    documents that the asker may not know of, and measured no better.
    """
    asked = question(query)
    found = places(asked, texts)
    idf_T = rarity((found.count_NT > 0).sum(axis=0).astype(np.float64), len(texts))
    mean = float(found.length_N.mean()) if len(texts) else 1.0
    return Evidence(
        question=asked, places=found, idf_T=idf_T, words=lexical(asked, found, idf_T, mean)
    )
