"""Whether a source says of the same thing what a claim says: a name or a number in whose place the
source has another is as wrong as one that it does not have.
"""

from collections.abc import Sequence

from headrace.retrieval.answering.amounts import is_date, is_number, same_amount
from headrace.retrieval.answering.bars import Bars
from headrace.retrieval.answering.locating import Located, Slot, weight
from headrace.retrieval.answering.naming import mentions, places_of
from headrace.retrieval.answering.reading import Item, Name
from headrace.retrieval.answering.words import Word, same

_POINTING = frozenset(
    {
        *("he", "she", "it", "they", "his", "her", "its", "their", "him", "them"),
        *("this", "these", "those", "latter", "former"),
    }
)
"""Words that may mean what an earlier sentence names."""
_ALONE = frozenset({"he", "she", "it", "they", "him", "her", "them", "latter", "former"})
_OWNING = frozenset({"his", "her", "its", "their"})
_LEADING = frozenset({"he", "she", "it", "they", "his", "her", "its", "their"})
_BACK = 2
"""Sentences back that they reach."""
_VERBATIM = 0.93
"""Share of the rest that must be there for a first word to be a substitute."""
_REACH = 6
"""Places on either side of an item that say what it is of."""


class Placing:
    """Of one claim in one source."""

    def __init__(self, on: Located, bars: Bars) -> None:
        self._on = on
        self._bars = bars

    def missing(self) -> str:
        for slot in self._on.slots:
            if not slot.places and not slot.said_of:
                return f"the {slot.kind} {slot.text!r} is not in the source"
        return ""

    def displaced(self) -> str:
        """A name or number that the source says of something else."""
        for slot in self._on.slots:
            if self._on.echoed and self._on.echoed <= self._start(slot):
                continue  # an answer behind its question has no place like the source's
            within = [place for place in slot.places if place in self._on.inside]
            resolved = slot.said_of or self._pointed_at(slot)
            if not within and not resolved:
                return f"the source has the {slot.kind} {slot.text!r}, but not of this"
            rivals = self._rivals(slot)
            if not rivals:
                continue
            own = max((self._fit(slot, place, place) for place in within), default=0.0)
            slot_bar = 1.0 if self._on.asked and slot.kind != "name" else self._bars.slot
            needed = slot_bar * own + self._bars.apart if within else self._bars.unsaid
            rival, fit = max(
                ((text, self._fit(slot, first, last)) for text, first, last in rivals),
                key=lambda pair: pair[1],
            )
            if fit > needed:
                return f"in place of the {slot.kind} {slot.text!r} the source has {rival!r}"
        return self._begun_otherwise() or self._substituted()

    def _begun_otherwise(self) -> str:
        """A name at the beginning, and the source goes on alike behind something else that can mean
        no name: neither a pronoun nor a thing that was spoken of."""
        mine, source = self._on.mine, self._on.source
        name = mine.names[0] if mine.names else None
        if name is None or name.first > 1 or (name.first == 1 and weight(mine.row[0])):
            return ""
        if self._on.asked or set(places_of(name, source)) & self._on.inside:
            return ""
        after = mine.row[name.last + 1] if name.last + 1 < len(mine.row) else None
        begin = min(self._on.inside, default=0)
        if not isinstance(after, Word):
            return ""
        ends = [at for at in source.places.get(after.stem, ()) if begin < at <= begin + 3]
        instead: Sequence[Item] = source.row[begin : ends[0]] if ends else ()
        words = [item for item in instead if isinstance(item, Word)]
        if not words or self._means(name, words):
            return ""
        named = any(begin <= other.last < begin + len(instead) for other in source.names)
        if not self._on.certain(name) and not named and any(word.content for word in words):
            return ""  # one word for another
        others = " ".join(item.text for item in instead)
        return f"in place of {name.text!r} the source has {others!r}"

    def _means(self, name: Name, words: Sequence[Word]) -> bool:
        """Whether these words before the same can mean a name: `they`, `the city`, but of `their`
        and `these` only with what belongs to them."""
        if any(word.lower == "the" for word in words):
            return True
        pointing = [word.lower for word in words if word.lower in _POINTING]
        if pointing and len(words) == 1:
            last = name.words[-1]
            owns = last.end - last.start > len(last.text)  # 's
            return pointing[0] in _ALONE or (pointing[0] in _OWNING and owns)
        return bool(pointing)

    def _start(self, slot: Slot) -> int:
        return self._on.mine.row[slot.first].start

    def _substituted(self) -> str:
        """A first word that these sentences lack and others have, while they have all the rest: it
        was put there for the one that they begin with."""
        mine = self._on.mine
        first = next((item for item in mine.row if weight(item)), None)
        if not isinstance(first, Word) or not (first.first and first.capital):
            return ""
        slots = any(mine.row[slot.first] is first for slot in self._on.slots)
        if slots or self._on.asked or self._on.echoed or first.text.replace(".", "").isupper():
            return ""
        stems = [
            item.stem for at in self._on.inside if isinstance(item := self._on.source.row[at], Word)
        ]
        if any(same(first.stem, stem) for stem in stems) or first.stem not in self._on.spoken:
            return ""
        total = sum(weight(item) for item in mine.row)
        if self._on.window.covered * total < _VERBATIM * (total - weight(first)):
            return ""
        return f"these sentences of the source do not speak of {first.text!r}"

    def _pointed_at(self, slot: Slot) -> bool:
        """Whether the window may mean a name of the sentence before it, by a word that the claim
        has the name for; a sentence that begins with such a word means the first name there."""
        if slot.kind != "name" or not slot.places:
            return False
        row = self._on.source.row
        said = [item.lower for item in self._on.mine.row if isinstance(item, Word)]
        pointing = [
            item.lower
            for place in sorted(self._on.inside)
            if isinstance(item := row[place], Word) and item.lower in _POINTING
        ]
        if not any(pointing.count(word) > said.count(word) for word in pointing):
            return False
        before = self._named_before()
        opening = row[min(self._on.inside)]
        leads = isinstance(opening, Word) and opening.lower in _LEADING
        meant = before[:1] if leads else before
        return any(name.first <= place <= name.last for name in meant for place in slot.places)

    def _named_before(self) -> list[Name]:
        """Names of the nearest sentence before the window that has any, two back at most."""
        for back in range(1, _BACK + 1):
            sentence = self._on.window.first - back
            found = [
                name
                for name in self._on.source.names
                if self._on.certain(name) and self._on.sentence[name.last] == sentence
            ]
            if found:
                return found
        return []

    def _rivals(self, slot: Slot) -> list[tuple[str, int, int]]:
        """What of the same kind the window has and the claim does not."""
        source, inside = self._on.source, self._on.inside
        row = self._on.mine.row
        words = [item for item in row if isinstance(item, Word) and item.capital]
        if slot.kind == "name":
            return [
                (name.text, name.first, name.last)
                for name in source.names
                if name.last in inside
                and self._on.certain(name)
                and not mentions(name, words)
                and not any(name.first <= place <= name.last for place in slot.places)
            ]
        ours = self._on.mine.row[slot.first]
        row, test = source.row, (is_number if slot.kind == "number" else is_date)
        claimed = [self._on.mine.row[at] for at in (*self._on.mine.numbers, *self._on.mine.moments)]
        return [
            (row[at].text, at, at)
            for at in sorted(inside)
            if test(row[at], ours) and not any(same_amount(item, row[at]) for item in claimed)
        ]

    def _fit(self, slot: Slot, first: int, last: int) -> float:
        """How well what stands around a place of the source is what stands around the slot."""
        mine, source = self._on.mine, self._on.source
        total = 0.0
        for place in range(max(0, slot.first - _REACH), min(len(mine.row), slot.last + _REACH + 1)):
            if slot.first <= place <= slot.last:
                continue
            item = mine.row[place]
            offset = place - slot.first if place < slot.first else place - slot.last
            base = (1.0 if weight(item) else 0.25) / (1 + 0.3 * (abs(offset) - 1))
            best = 0.0
            for at, score in self._near(item):
                if first <= at <= last or abs(at - first) > 3 * _REACH:
                    continue
                other = at - first if at < first else at - last
                apart = abs(source.crossings[at] - source.crossings[first])
                apart -= abs(mine.crossings[place] - mine.crossings[slot.first])
                distance = abs(abs(offset) - abs(other)) + 1.0 * max(0, apart)
                if (offset < 0) != (other < 0):
                    distance += 1.5
                best = max(best, score / (1 + 0.5 * distance))
            total += base * best
        return total

    def _near(self, item: Item) -> list[tuple[int, float]]:
        if isinstance(item, Word) and not weight(item):
            return [(place, 1.0) for place in self._on.source.places.get(item.stem, ())]
        return list(self._on.matches(item))
