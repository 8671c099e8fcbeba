"""What was found → only the sentences of it that speak of the question, each where it stands.

A sentence's score is the share of the question's words that it has, rarer words counting more, and
a quarter of its neighbours'. What is kept is cut out of its passage, never rewritten, so that every
span stays exact and a citation of it is one of the document.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.errors import InvalidParameter
from headrace.retrieval.answering.words import words_of
from headrace.retrieval.sentences import sentence_spans
from headrace.types import Passage, SearchResult

_FROM_BESIDE = 0.25


@dataclass(frozen=True, slots=True)
class _Sentence:
    passage: int
    start: int
    end: int
    stems: frozenset[str]


class Compressor:
    """What `Answering.compress` takes."""

    def __init__(self, share: float = 0.5) -> None:
        """
        Args:
            share: Of the characters found that are kept, about; above 0, at most 1.

        Raises: InvalidParameter.
        """
        if not 0 < share <= 1:
            raise InvalidParameter(f"`share` is {share}; it must be above 0 and at most 1")
        self._share = share

    async def __call__(self, found: SearchResult, question: str) -> SearchResult:
        """The same result with shorter passages, in its order."""
        passages = compress(found.passages, question, self._share)
        before = sum(len(passage.chunk.text) for passage in found.passages)
        after = sum(len(passage.chunk.text) for passage in passages)
        note = f"{after} of {before} characters are kept: the sentences that speak of the question"
        return replace(found, passages=passages, notes=(*found.notes, note))


def compress(passages: Sequence[Passage], question: str, share: float) -> tuple[Passage, ...]:
    """Keep the best sentences of all passages, up to a share of their characters, at least one.

    Sentences in a row become one passage; what is kept of a passage keeps its rank and score.
    """
    sentences = [
        _Sentence(at, start, end, _stems(passage.chunk.text[start:end]))
        for at, passage in enumerate(passages)
        for start, end in sentence_spans(passage.chunk.text)
    ]
    if not sentences:
        return tuple(passages)
    scores = _scores(sentences, _stems(question))
    room = share * sum(item.end - item.start for item in sentences)
    kept: set[int] = set()
    for at in sorted(range(len(sentences)), key=lambda at: (-scores[at], at)):
        size = sentences[at].end - sentences[at].start
        if kept and size > room:
            continue
        kept.add(at)
        room -= size
    return tuple(
        piece
        for number, passage in enumerate(passages)
        for piece in _pieces(passage, number, sentences, kept)
    )


def _scores(sentences: Sequence[_Sentence], wanted: frozenset[str]) -> list[float]:
    spread = Counter(stem for sentence in sentences for stem in sentence.stems)
    weights = {stem: math.log(1 + len(sentences) / (1 + spread[stem])) for stem in wanted}
    total = sum(weights.values()) or 1.0
    own = [sum(weights[stem] for stem in wanted & s.stems) / total for s in sentences]
    found: list[float] = []
    for at, sentence in enumerate(sentences):
        beside = [
            own[other]
            for other in (at - 1, at + 1)
            if 0 <= other < len(sentences) and sentences[other].passage == sentence.passage
        ]
        found.append(own[at] + _FROM_BESIDE * max(beside, default=0.0))
    return found


def _pieces(
    passage: Passage, number: int, sentences: Sequence[_Sentence], kept: set[int]
) -> list[Passage]:
    """What is kept of one passage, sentences in a row together."""
    spans: list[tuple[int, int]] = []
    last = -2
    for at, sentence in enumerate(sentences):
        if sentence.passage != number or at not in kept:
            continue
        if last == at - 1:
            spans[-1] = (spans[-1][0], sentence.end)
        else:
            spans.append((sentence.start, sentence.end))
        last = at
    chunk = passage.chunk
    return [
        replace(
            passage,
            chunk=replace(
                chunk,
                start=chunk.start + start,
                end=chunk.start + end,
                text=chunk.text[start:end],
                parent_start=0,
                parent_end=0,
                tokens=0,
            ),
        )
        for start, end in spans
    ]


def _stems(text: str) -> frozenset[str]:
    return frozenset(word.stem for word in words_of(text) if word.content)
