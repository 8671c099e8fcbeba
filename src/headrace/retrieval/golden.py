"""Questions with what answers them → how well a generation of an index finds it, and which of two
finds it better.

A golden file has a JSON object a line: `question`; `relevant`, a list of documents' ids or of
spans `{"document": D, "start": S, "end": E}`; `cluster`, what the question belongs to (an article,
a file), where several belong together. A passage answers a span that it has a character of.
"""

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from headrace.errors import UserError
from headrace.retrieval import measures
from headrace.retrieval.contracts import Generation
from headrace.retrieval.measures import Comparison
from headrace.retrieval.opened import OpenIndex
from headrace.types import Errand, Passage, SearchRequest

K = 10
_WANTED = 30
"""Passages asked for: several may be of one document."""
_AT_ONCE = 4
_Z95 = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    document: str
    start: int = 0
    end: int = 0
    """0 = the whole document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    text: str
    relevant: tuple[Span, ...]
    cluster: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """Of one measure, with its clustered 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """One number a question, in their order."""

    ndcg: tuple[float, ...]
    recall: tuple[float, ...]
    hit: tuple[float, ...]
    reciprocal_rank: tuple[float, ...]


def read_golden(path: Path) -> list[Question]:
    """Raises: UserError: A line that is none, by its number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    found = [
        _question(line, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise UserError(f"{path} has no question; a line is an object with `question`, `relevant`")
    return found


async def evaluate(
    index: OpenIndex, generation: Generation, questions: Sequence[Question], errand: Errand
) -> Scores:
    """Ask every question of one generation, as who sees everything."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def ask(question: Question) -> Sequence[str]:
        request = SearchRequest(
            index=index.place.spec.name, query=question.text, k=_WANTED, principals=None
        )
        async with turns:
            found = await index.search_in(generation, request, errand)
        return _ranking(question, found.passages)

    rankings = await asyncio.gather(*(ask(question) for question in questions))
    wanted = [frozenset(str(at) for at in range(len(question.relevant))) for question in questions]
    pairs = list(zip(rankings, wanted, strict=True))
    return Scores(
        ndcg=tuple(measures.ndcg(r, dict.fromkeys(w, 1.0), K) for r, w in pairs),
        recall=tuple(measures.recall(r, w, K) for r, w in pairs),
        hit=tuple(measures.hit(r, w, K) for r, w in pairs),
        reciprocal_rank=tuple(measures.reciprocal_rank(r, w, K) for r, w in pairs),
    )


def mean(values: Sequence[float], questions: Sequence[Question]) -> Mean:
    """With its interval; questions of one cluster are no independent draws."""
    value = float(np.mean(values))
    error = measures.standard_error(values, [question.cluster for question in questions])
    around = _Z95 * error if math.isfinite(error) else 1.0
    return Mean(value=value, low=max(0.0, value - around), high=min(1.0, value + around))


def difference(new: Scores, old: Scores, questions: Sequence[Question]) -> Comparison:
    """Of nDCG@10."""
    return measures.compare(new.ndcg, old.ndcg, [question.cluster for question in questions])


def _ranking(question: Question, passages: Sequence[Passage]) -> list[str]:
    """What each found: a relevant span's number once, or a document that is none."""
    found: list[str] = []
    for passage in passages:
        name = _answered(question, passage) or f"other {passage.chunk.document}"
        if name not in found:
            found.append(name)
    return found


def _answered(question: Question, passage: Passage) -> str:
    chunk = passage.chunk
    for at, span in enumerate(question.relevant):
        within = not span.end or (chunk.start < span.end and span.start < chunk.end)
        if span.document == chunk.document and within:
            return str(at)
    return ""


def _question(line: str, where: str) -> Question:
    try:
        value: object = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} is no object")
    fields = cast("dict[str, Any]", value)
    unknown = set(fields) - {"question", "relevant", "cluster"}
    if unknown:
        raise UserError(
            f"{where} has {sorted(unknown)[0]!r}; it may have question, relevant, cluster"
        )
    text, relevant = fields.get("question"), fields.get("relevant")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where} has no `question`")
    if not isinstance(relevant, list) or not relevant:
        raise UserError(f"{where} has no `relevant`: a list of ids, or of spans of documents")
    spans = tuple(_span(item, where) for item in cast("list[Any]", relevant))
    return Question(text=text, relevant=spans, cluster=str(fields.get("cluster", where)))


def _span(item: object, where: str) -> Span:
    if isinstance(item, str):
        return Span(document=item)
    try:
        return msgspec.convert(item, _Written).span()
    except msgspec.ValidationError:
        raise UserError(
            f"{where}: `relevant` has {json.dumps(item)[:80]}; it takes an id, or "
            '{"document": ID, "start": S, "end": E}'
        ) from None


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    """A span as a golden file has it."""

    document: str
    start: int
    end: int

    def span(self) -> Span:
        if not 0 <= self.start < self.end:
            raise msgspec.ValidationError(f"{self.start} to {self.end} is no span")
        return Span(document=self.document, start=self.start, end=self.end)
