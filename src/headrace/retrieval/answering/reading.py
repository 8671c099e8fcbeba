"""A text as what can be compared: words, numbers and dates in one row, its sentences, its names.

The row keeps the order of the text, so that it can be said what stands beside a name or a number:
two dates of one sentence differ by nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from headrace.retrieval.answering.quantities import Moment, Quantity, stated
from headrace.retrieval.answering.words import Word, words_of
from headrace.retrieval.sentences import sentence_spans

Item: TypeAlias = Word | Quantity | Moment


_TITLES = frozenset({"Dr", "Mr", "Mrs", "Ms", "St", "Prof", "Gen", "Col", "Capt", "Lt", "Sgt"})


@dataclass(frozen=True, slots=True)
class Name:
    """Capitalised words in a row: a person, a place, a thing."""

    first: int
    last: int
    """Places in the row, both ends included."""
    words: tuple[Word, ...]
    sure: bool
    """False = one word at a sentence's beginning, which may be any word."""

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """A text, read."""

    text: str
    row: tuple[Item, ...]
    sentences: tuple[tuple[int, int], ...]
    """Characters."""
    names: tuple[Name, ...]
    numbers: tuple[int, ...]
    """Places in the row."""
    moments: tuple[int, ...]
    places: dict[str, tuple[int, ...]]
    """Stem → where it stands in the row."""
    crossings: tuple[int, ...]
    """For each place, how many clauses began before it."""

    def sentence_of(self, place: int) -> int:
        """Number of the sentence that a place of the row is in."""
        start = self.row[place].start
        for number, (_, end) in enumerate(self.sentences):
            if start < end:
                return number
        return max(0, len(self.sentences) - 1)


def read(text: str) -> Reading:
    """Read a text."""
    said = stated(text)
    spans = [(item.start, item.end) for item in (*said.numbers, *said.moments)]
    words = [
        word
        for word in words_of(text)
        if not any(start < word.end and word.start < end for start, end in spans)
    ]
    row: list[Item] = sorted([*words, *said.numbers, *said.moments], key=lambda item: item.start)
    places: dict[str, list[int]] = {}
    for place, item in enumerate(row):
        if isinstance(item, Word):
            places.setdefault(item.stem, []).append(place)
    return Reading(
        text=text,
        row=tuple(row),
        sentences=tuple(sentence_spans(text)),
        names=tuple(_names(text, row)),
        numbers=tuple(at for at, item in enumerate(row) if isinstance(item, Quantity)),
        moments=tuple(at for at, item in enumerate(row) if isinstance(item, Moment)),
        places={stem: tuple(found) for stem, found in places.items()},
        crossings=tuple(_crossings(text, row)),
    )


def _names(text: str, row: Sequence[Item]) -> list[Name]:
    found: list[Name] = []
    run: list[int] = []
    for place in range(len(row) + 1):
        item = row[place] if place < len(row) else None
        if isinstance(item, Word) and item.capital and _goes_on(text, row, run, place):
            if not run and item.first and not item.content and len(item.text) > 1:
                continue  # The, In, At
            run.append(place)
            continue
        if any(isinstance(word := row[at], Word) and _names_alone(word) for at in run):
            found.append(_named(row, run))
        run = []
        if isinstance(item, Word) and item.capital and not (item.first and not item.content):
            run = [place]
    return found


def _names_alone(word: Word) -> bool:
    return word.content or len(word.text) == 1


def _goes_on(text: str, row: Sequence[Item], run: Sequence[int], place: int) -> bool:
    if not run:
        return True
    last, item = row[run[-1]], row[place]
    between = text[last.end : item.start]
    if place != run[-1] + 1 or "\n\n" in between or last.end - last.start > len(last.text):
        return False  # 's ends a name
    if isinstance(item, Word) and item.first:
        return False
    short = len(last.text) == 1 or last.text in _TITLES
    return between.strip() in ("", "-", "&") or (between.strip() == "." and short)


def _named(row: Sequence[Item], run: Sequence[int]) -> Name:
    words = tuple(item for at in run if isinstance(item := row[at], Word))
    alone = len(words) == 1 and words[0].first
    return Name(run[0], run[-1], words, sure=not alone)


def _crossings(text: str, row: Sequence[Item]) -> list[int]:
    count, found = 0, [0] * len(row)
    for place in range(1, len(row)):
        between = text[row[place - 1].end : row[place].start]
        item = row[place]
        joins = isinstance(item, Word) and item.lower in ("and", "but", "while", "whereas", "or")
        if any(mark in between for mark in ",;:.()—–\n") or joins:
            count += 1
        found[place] = count
    return found
