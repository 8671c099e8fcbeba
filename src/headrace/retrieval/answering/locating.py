"""Where in a source a claim stands: what of it the source has, and the sentences that have most.

Names, numbers and dates of a claim are slots: a source must fill each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from headrace.retrieval.answering.amounts import dates_like, numbers_like
from headrace.retrieval.answering.naming import places_of
from headrace.retrieval.answering.quantities import Moment, Quantity
from headrace.retrieval.answering.reading import Item, Name, Reading
from headrace.retrieval.answering.words import Word, same

_WIDEST = 3
"""Sentences of a window."""
_GAIN = 0.08
"""Share of a claim's words that a neighbouring sentence must add to be part of the window."""


@dataclass(frozen=True, slots=True)
class Window:
    """Some sentences in a row."""

    first: int
    last: int
    covered: float


@dataclass(frozen=True, slots=True)
class Slot:
    """Something of a claim that a source must say: where it is, and where the source has it."""

    kind: str
    text: str
    first: int
    last: int
    places: tuple[int, ...]
    said_of: bool = False
    """The document's title or the question has it."""


def weight(item: Item) -> float:
    """What an item of a row counts: names and numbers more than words, grammar nothing."""
    if not isinstance(item, Word):
        return 1.5
    return (1.25 if item.capital and not item.first else 1.0) if item.content else 0.0


def union(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [max(pair) for pair in zip(one, other, strict=True)]


class Located:
    """One claim in one source."""

    def __init__(
        self,
        mine: Reading,
        source: Reading,
        about: Reading,
        *,
        asked: int,
        echoed: int,
        known: frozenset[str],
        spoken: frozenset[str],
    ) -> None:
        """As `headrace.retrieval.answering.comparing.Comparison`."""
        self.mine = mine
        self.source = source
        self.about = about
        self.asked = asked
        self.echoed = echoed
        self.known = known
        self.spoken = spoken

    @cached_property
    def slots(self) -> list[Slot]:
        """Names, numbers and dates of the claim."""
        mine, source = self.mine, self.source
        found: list[Slot] = []
        for name in self._names():
            said_of = bool(places_of(name, self.about))
            places = tuple(places_of(name, source))
            found.append(Slot("name", name.text, name.first, name.last, places, said_of))
        for kind, ours, test in (
            ("number", mine.numbers, numbers_like),
            ("date", mine.moments, dates_like),
        ):
            for place in ours:
                item = mine.row[place]
                places = tuple(test(item, source))
                said_of = bool(test(item, self.about))
                found.append(Slot(kind, item.text, place, place, places, said_of))
        return [slot for slot in found if mine.row[slot.first].start >= self.asked]

    def _names(self) -> Iterable[Name]:
        """Those of the claim; words apart where the source has them, but never together."""
        for name in self.mine.names:
            if not self.certain(name):
                continue  # any word at a sentence's beginning
            if len(name.words) == 1 or places_of(name, self.source):
                yield name
                continue
            for at, word in enumerate(name.words):
                place = name.first + at
                yield Name(place, place, (word,), sure=True)

    def certain(self, name: Name) -> bool:
        return name.sure or name.words[0].stem in self.known

    @cached_property
    def window(self) -> Window:
        """The sentence that covers the claim best, and those beside it that have more of its words.

        A neighbour that has a name or a number of the claim and no word of it is not taken: that it
        stands next to it says nothing.
        """
        scores = self.scores
        if not scores:
            return Window(0, 0, 0.0)
        first = last = max(range(len(scores)), key=lambda at: (self._share(scores[at]), -at))
        reached = scores[first]
        while last - first + 1 < _WIDEST:
            wider = [at for at in (first - 1, last + 1) if 0 <= at < len(scores)]
            tried = {at: union(reached, scores[at]) for at in wider}
            gains = {at: self._worded(both) - self._worded(reached) for at, both in tried.items()}
            best = max(wider, key=lambda at: gains[at], default=-1)
            if best < 0 or gains[best] < _GAIN:
                break
            reached = tried[best]
            first, last = min(first, best), max(last, best)
        return Window(first, last, self._share(reached))

    def _worded(self, reached: Sequence[float]) -> float:
        """Share of the claim's words, names and numbers apart, that are reached."""
        slots = {at for slot in self.slots for at in range(slot.first, slot.last + 1)}
        total = got = 0.0
        for place, item in enumerate(self.mine.row):
            if place not in slots and isinstance(item, Word):
                total += weight(item)
                got += weight(item) * reached[place]
        return got / total if total else 0.0

    def _share(self, reached: Sequence[float]) -> float:
        total = got = 0.0
        for place, (item, score) in enumerate(zip(self.mine.row, reached, strict=True)):
            total += weight(item)
            got += weight(item) * max(score, self._from_title[place])
        return got / total if total else 0.0

    @cached_property
    def _from_title(self) -> list[float]:
        """What the title says need not be said again, but says little of a passage."""
        return [
            0.7 if isinstance(item, Word) and item.stem in self.about.places else 0.0
            for item in self.mine.row
        ]

    @cached_property
    def scores(self) -> list[list[float]]:
        """For each sentence of the source, how far it has each item of the claim."""
        source = self.source
        found = [[0.0] * len(self.mine.row) for _ in source.sentences]
        for place, item in enumerate(self.mine.row):
            if not weight(item):
                continue
            for at, score in self.matches(item):
                row = found[self.sentence[at]]
                row[place] = max(row[place], score)
        for slot in self.slots:
            if slot.kind == "name":
                for at in slot.places:
                    row = found[self.sentence[at]]
                    for place in range(slot.first, slot.last + 1):
                        row[place] = 1.0
        return found

    @cached_property
    def sentence(self) -> list[int]:
        return [self.source.sentence_of(place) for place in range(len(self.source.row))]

    @cached_property
    def inside(self) -> frozenset[int]:
        """Places of the window."""
        return frozenset(
            place
            for place, sentence in enumerate(self.sentence)
            if self.window.first <= sentence <= self.window.last
        )

    @cached_property
    def claimed_from(self) -> int:
        """Place of the first item that is claimed."""
        row = self.mine.row
        return next((at for at, item in enumerate(row) if item.start >= self.asked), len(row))

    def matches(self, item: Item) -> Iterable[tuple[int, float]]:
        source = self.source
        match item:
            case Word():
                for stem, places in source.places.items():
                    score = same(item.stem, stem)
                    if score:
                        yield from ((place, score) for place in places)
            case Quantity():
                yield from ((place, 1.0) for place in numbers_like(item, source))
            case Moment():
                yield from ((place, 1.0) for place in dates_like(item, source))
