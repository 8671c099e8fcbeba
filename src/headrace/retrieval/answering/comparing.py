"""A claim beside a source, item by item: what of it the source has, where, and in whose place.

A claim is held to the sentences of the source that cover it best. A name or number of it may stand
anywhere in the source, but where those sentences have another in its place, with the same words
around it, the claim is contradicted: that is what a swapped date looks like.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from headrace.retrieval.answering.naming import mentions, places_of
from headrace.retrieval.answering.quantities import Moment, Quantity, agree, equal
from headrace.retrieval.answering.reading import Item, Name, Reading
from headrace.retrieval.answering.words import Word, is_negation, opposite, same
from headrace.types import CitationVerdict

_WIDEST = 3
"""Sentences of a window."""
_GAIN = 0.08
"""Share of a claim's words that a neighbouring sentence must add to be part of the window."""
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
_ALL_OF_IT = 0.7
"""Share of a short answer that must be there."""
_MOSTLY = 0.8
_VERBATIM = 0.93
"""Share of the rest that must be there for a first word to be a substitute."""
_ECHO = 0.1
"""A claim that repeats its question has words that no source has."""
_REACH = 6
"""Places on either side of an item that say what it is of."""
_DO = frozenset({"do", "does", "did"})
_SCOPE = 4
"""Places behind a denial that it denies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Where support ends. Chosen on one half of the articles, reported on the other."""

    covered: float = 0.55
    """Share of a claim's words that a source must have together."""
    elsewhere: float = 0.2
    """How much better another source must be for a claim to be misplaced."""
    slot: float = 1.2
    """How much better another name or number must fit the claim's place to contradict it,"""
    apart: float = 0.3
    """times its own fit, and by so much more."""
    beside: float = 0.25
    """How much more of a question another sentence may have than the one that a short answer is
    from."""
    unsaid: float = 1.2
    """How well another must fit where the source means the claim's without naming it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a check found."""

    verdict: CitationVerdict
    support: float
    start: int = 0
    end: int = 0
    """The span that supports it best, in characters of the source's text."""
    reason: str = ""
    hard: bool = False
    """Something in the claim is wrong, which no opinion on the rest mends."""

    @property
    def good(self) -> bool:
        return self.verdict is CitationVerdict.SUPPORTED


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


class Comparison:
    """Of one claim with one source."""

    def __init__(
        self,
        bars: Bars,
        mine: Reading,
        source: Reading,
        about: Reading,
        *,
        asked: int = 0,
        echoed: int = 0,
        known: frozenset[str] = frozenset(),
        spoken: frozenset[str] = frozenset(),
    ) -> None:
        """
        Args:
            bars: Where support ends.
            mine: The claim; where it is a short answer, behind its question.
            source: What it is held to.
            about: What is known of the source beside its text.
            asked: Characters of the question in the claim. It says what the answer is of, and is
                not claimed.
            echoed: Characters of a question that the claim itself repeats. Its answer stands behind
                it, and not in its place in the sentence.
            known: Stems of words that are names in this or another source.
            spoken: Stems of all words of the sources.
        """
        self._bars = bars
        self._asked = asked
        self._echoed = echoed
        self._known = known
        self._spoken = spoken
        self._mine = mine
        self._source = source
        self._about = about

    def finding(self) -> Finding:
        """The first that fails, or how well it is supported."""
        for decide in (self._missing, self._displaced, self._denied, self._beside_the_question):
            reason = decide()
            if reason:
                verdict = CitationVerdict.CONTRADICTED
                if self.window.covered < self._bars.covered:
                    verdict = CitationVerdict.UNSUPPORTED
                return self._found(verdict, min(self.window.covered, 0.3), reason, hard=True)
        covered = self.window.covered
        if (self._asked or self._echoed) and not self._answered():
            covered = 0.0
        if covered < self._bars.covered - (_ECHO if self._echoed else 0.0):
            share = f"{covered:.0%} of the claim's words stand together in it"
            return self._found(CitationVerdict.UNSUPPORTED, covered, share)
        return self._found(CitationVerdict.SUPPORTED, covered, "")

    def _beside_the_question(self) -> str:
        """Where a short answer stands, the source must speak of what was asked."""
        split = self._asked or self._echoed
        if not split or len(self._scores) < 2:
            return ""
        asked = [
            at for at, item in enumerate(self._mine.row) if item.start < split and weight(item)
        ]
        answer = [
            at for at, item in enumerate(self._mine.row) if item.start >= split and weight(item)
        ]
        total = sum(weight(self._mine.row[at]) for at in asked)
        if not total or not answer:
            return ""
        spoken = [
            sum(weight(self._mine.row[at]) * row[at] for at in asked) / total
            for row in self._scores
        ]
        found = [sum(row[at] for at in answer) / len(answer) for row in self._scores]
        here = max(s for s, got in zip(spoken, found, strict=True) if got >= max(found) - 1e-9)
        if max(spoken) > here + self._bars.beside:
            return "it stands where the source speaks of something else than what was asked"
        return ""

    def _answered(self) -> bool:
        """Whether a short answer is there whole; its question only helps to find where."""
        reached = [0.0] * len(self._mine.row)
        for at in range(self.window.first, self.window.last + 1):
            reached = _union(reached, self._scores[at])
        total = got = 0.0
        for item, score in zip(self._mine.row, reached, strict=True):
            if item.start >= max(self._asked, self._echoed):
                total += weight(item)
                got += weight(item) * score
        return got >= _ALL_OF_IT * total

    def _found(
        self, verdict: CitationVerdict, support: float, reason: str, *, hard: bool = False
    ) -> Finding:
        sentences = self._source.sentences
        start = sentences[self.window.first][0] if sentences else 0
        end = sentences[self.window.last][1] if sentences else 0
        return Finding(
            verdict=verdict, support=support, start=start, end=end, reason=reason, hard=hard
        )

    # --- where the claim stands ------------------------------------------------------------------

    @cached_property
    def slots(self) -> list[Slot]:
        """Names, numbers and dates of the claim."""
        mine, source = self._mine, self._source
        found: list[Slot] = []
        for name in self._names():
            said_of = bool(places_of(name, self._about))
            places = tuple(places_of(name, source))
            found.append(Slot("name", name.text, name.first, name.last, places, said_of))
        for kind, ours, test in (
            ("number", mine.numbers, _has_number),
            ("date", mine.moments, _has_date),
        ):
            for place in ours:
                item = mine.row[place]
                places = tuple(test(item, source))
                said_of = bool(test(item, self._about))
                found.append(Slot(kind, item.text, place, place, places, said_of))
        return [slot for slot in found if mine.row[slot.first].start >= self._asked]

    def _names(self) -> Iterable[Name]:
        """Those of the claim; words apart where the source has them, but never together."""
        for name in self._mine.names:
            if not self._certain(name):
                continue  # any word at a sentence's beginning
            if len(name.words) == 1 or places_of(name, self._source):
                yield name
                continue
            for at, word in enumerate(name.words):
                place = name.first + at
                yield Name(place, place, (word,), sure=True)

    @cached_property
    def window(self) -> Window:
        """The sentence that covers the claim best, and those beside it that have more of its words.

        A neighbour that has a name or a number of the claim and no word of it is not taken: that it
        stands next to it says nothing.
        """
        scores = self._scores
        if not scores:
            return Window(0, 0, 0.0)
        first = last = max(range(len(scores)), key=lambda at: (self._share(scores[at]), -at))
        reached = scores[first]
        while last - first + 1 < _WIDEST:
            wider = [at for at in (first - 1, last + 1) if 0 <= at < len(scores)]
            tried = {at: _union(reached, scores[at]) for at in wider}
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
        for place, item in enumerate(self._mine.row):
            if place not in slots and isinstance(item, Word):
                total += weight(item)
                got += weight(item) * reached[place]
        return got / total if total else 0.0

    def _share(self, reached: Sequence[float]) -> float:
        total = got = 0.0
        for place, (item, score) in enumerate(zip(self._mine.row, reached, strict=True)):
            total += weight(item)
            got += weight(item) * max(score, self._from_title[place])
        return got / total if total else 0.0

    @cached_property
    def _from_title(self) -> list[float]:
        """What the title says need not be said again, but says little of a passage."""
        return [
            0.7 if isinstance(item, Word) and item.stem in self._about.places else 0.0
            for item in self._mine.row
        ]

    @cached_property
    def _scores(self) -> list[list[float]]:
        """For each sentence of the source, how far it has each item of the claim."""
        source = self._source
        found = [[0.0] * len(self._mine.row) for _ in source.sentences]
        for place, item in enumerate(self._mine.row):
            if not weight(item):
                continue
            for at, score in self._matches(item):
                row = found[self._sentence[at]]
                row[place] = max(row[place], score)
        for slot in self.slots:
            if slot.kind == "name":
                for at in slot.places:
                    row = found[self._sentence[at]]
                    for place in range(slot.first, slot.last + 1):
                        row[place] = 1.0
        return found

    @cached_property
    def _sentence(self) -> list[int]:
        return [self._source.sentence_of(place) for place in range(len(self._source.row))]

    def _matches(self, item: Item) -> Iterable[tuple[int, float]]:
        source = self._source
        match item:
            case Word():
                for stem, places in source.places.items():
                    score = same(item.stem, stem)
                    if score:
                        yield from ((place, score) for place in places)
            case Quantity():
                yield from ((place, 1.0) for place in _has_number(item, source))
            case Moment():
                yield from ((place, 1.0) for place in _has_date(item, source))

    # --- what fails ------------------------------------------------------------------------------

    def _missing(self) -> str:
        for slot in self.slots:
            if not slot.places and not slot.said_of:
                return f"the {slot.kind} {slot.text!r} is not in the source"
        return ""

    def _displaced(self) -> str:
        """A name or number that the source says of something else."""
        for slot in self.slots:
            if self._echoed and self._echoed <= self._start(slot):
                continue  # an answer behind its question has no place like the source's
            within = [place for place in slot.places if place in self._inside]
            resolved = slot.said_of or self._pointed_at(slot)
            if not within and not resolved:
                return f"the source has the {slot.kind} {slot.text!r}, but not of this"
            rivals = self._rivals(slot)
            if not rivals:
                continue
            own = max((self._fit(slot, place, place) for place in within), default=0.0)
            slot_bar = 1.0 if self._asked and slot.kind != "name" else self._bars.slot
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
        mine, source = self._mine, self._source
        name = mine.names[0] if mine.names else None
        if name is None or name.first > 1 or (name.first == 1 and weight(mine.row[0])):
            return ""
        if self._asked or set(places_of(name, source)) & self._inside:
            return ""
        after = mine.row[name.last + 1] if name.last + 1 < len(mine.row) else None
        begin = min(self._inside, default=0)
        if not isinstance(after, Word):
            return ""
        ends = [at for at in source.places.get(after.stem, ()) if begin < at <= begin + 3]
        instead: Sequence[Item] = source.row[begin : ends[0]] if ends else ()
        words = [item for item in instead if isinstance(item, Word)]
        if not words or self._means(name, words):
            return ""
        named = any(begin <= other.last < begin + len(instead) for other in source.names)
        if not self._certain(name) and not named and any(word.content for word in words):
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
        return self._mine.row[slot.first].start

    def _substituted(self) -> str:
        """A first word that these sentences lack and others have, while they have all the rest: it
        was put there for the one that they begin with."""
        mine = self._mine
        first = next((item for item in mine.row if weight(item)), None)
        if not isinstance(first, Word) or not (first.first and first.capital):
            return ""
        slots = any(mine.row[slot.first] is first for slot in self.slots)
        if slots or self._asked or self._echoed or first.text.replace(".", "").isupper():
            return ""
        stems = [item.stem for at in self._inside if isinstance(item := self._source.row[at], Word)]
        if any(same(first.stem, stem) for stem in stems) or first.stem not in self._spoken:
            return ""
        total = sum(weight(item) for item in mine.row)
        if self.window.covered * total < _VERBATIM * (total - weight(first)):
            return ""
        return f"these sentences of the source do not speak of {first.text!r}"

    @cached_property
    def _inside(self) -> frozenset[int]:
        """Places of the window."""
        return frozenset(
            place
            for place, sentence in enumerate(self._sentence)
            if self.window.first <= sentence <= self.window.last
        )

    def _pointed_at(self, slot: Slot) -> bool:
        """Whether the window may mean a name of the sentence before it, by a word that the claim
        has the name for; a sentence that begins with such a word means the first name there."""
        if slot.kind != "name" or not slot.places:
            return False
        row = self._source.row
        said = [item.lower for item in self._mine.row if isinstance(item, Word)]
        pointing = [
            item.lower
            for place in sorted(self._inside)
            if isinstance(item := row[place], Word) and item.lower in _POINTING
        ]
        if not any(pointing.count(word) > said.count(word) for word in pointing):
            return False
        before = self._named_before()
        opening = row[min(self._inside)]
        leads = isinstance(opening, Word) and opening.lower in _LEADING
        meant = before[:1] if leads else before
        return any(name.first <= place <= name.last for name in meant for place in slot.places)

    def _named_before(self) -> list[Name]:
        """Names of the nearest sentence before the window that has any, two back at most."""
        for back in range(1, _BACK + 1):
            sentence = self.window.first - back
            found = [
                name
                for name in self._source.names
                if self._certain(name) and self._sentence[name.last] == sentence
            ]
            if found:
                return found
        return []

    def _rivals(self, slot: Slot) -> list[tuple[str, int, int]]:
        """What of the same kind the window has and the claim does not."""
        source, inside = self._source, self._inside
        row = self._mine.row
        words = [item for item in row if isinstance(item, Word) and item.capital]
        if slot.kind == "name":
            return [
                (name.text, name.first, name.last)
                for name in source.names
                if name.last in inside
                and self._certain(name)
                and not mentions(name, words)
                and not any(name.first <= place <= name.last for place in slot.places)
            ]
        ours = self._mine.row[slot.first]
        row, test = source.row, (_is_number if slot.kind == "number" else _is_date)
        claimed = [self._mine.row[at] for at in (*self._mine.numbers, *self._mine.moments)]
        return [
            (row[at].text, at, at)
            for at in sorted(inside)
            if test(row[at], ours) and not any(_same_amount(item, row[at]) for item in claimed)
        ]

    def _certain(self, name: Name) -> bool:
        return name.sure or name.words[0].stem in self._known

    def _fit(self, slot: Slot, first: int, last: int) -> float:
        """How well what stands around a place of the source is what stands around the slot."""
        mine, source = self._mine, self._source
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
            return [(place, 1.0) for place in self._source.places.get(item.stem, ())]
        return list(self._matches(item))

    def _denied(self) -> str:
        """A denial on one side alone, or a word against its opposite."""
        window = sorted(self._inside)
        own = range(self._claimed_from, len(self._mine.row))
        here = _denials(self._mine, own)
        there = _denials(self._source, window)
        return self._against(here, there, window) or self._denial(here, there)

    @cached_property
    def _claimed_from(self) -> int:
        """Place of the first item that is claimed."""
        row = self._mine.row
        return next((at for at, item in enumerate(row) if item.start >= self._asked), len(row))

    def _against(self, here: dict[int, bool], there: dict[int, bool], window: Sequence[int]) -> str:
        """A word whose opposite the source has, and not the word."""
        others = [item for at in window if isinstance(item := self._source.row[at], Word)]
        stems = {other.stem for other in others}
        claimed = {item.stem for item in self._mine.row if isinstance(item, Word)}
        for place, item in enumerate(self._mine.row):
            if not isinstance(item, Word) or item.stem in stems or here.get(place, True):
                continue
            for at in window:
                other = self._source.row[at]
                if not isinstance(other, Word) or there[at] or other.stem in claimed:
                    continue
                if opposite(item.stem, other.stem):
                    return f"the claim says {item.text!r} and the source {other.text!r}"
        return ""

    def _denial(self, here: dict[int, bool], there: dict[int, bool]) -> str:
        only_here = alike = 0
        for place, item in enumerate(self._mine.row):
            if not weight(item) or not here.get(place):
                continue
            matched = [at for at, score in self._matches(item) if score >= 0.8 and at in there]
            denied = any(there[at] for at in matched)
            alike += denied
            only_here += bool(matched) and not denied
        ours, theirs = _count_denials(self._mine, here), _count_denials(self._source, there)
        if only_here > alike or ours > theirs:
            return "the claim denies what the source says"
        short = self._asked or self._echoed
        if not short and any(not self._denies(stem, here) for stem in self._denials_of_it(there)):
            return "the source denies what the claim says"
        return ""

    def _denies(self, stem: str, here: dict[int, bool]) -> bool:
        """Whether the claim denies a word, too."""
        places = [at for own, found in self._mine.places.items() if same(own, stem) for at in found]
        return any(here.get(at) for at in places)

    def _denials_of_it(self, there: dict[int, bool]) -> set[str]:
        """Words that the window denies, and that the claim has with the words around them."""
        row, found = self._source.row, set[str]()
        for at in there:
            item = row[at]
            if not (isinstance(item, Word) and is_negation(item.lower)):
                continue
            before = (row[place] for place in range(at - 1, max(-1, at - 4), -1))
            behind = [row[place] for place in range(at + 1, at + 1 + _SCOPE) if there.get(place)]
            left = next((w for w in before if isinstance(w, Word) and w.lower not in _DO), None)
            denied = [w for w in behind if isinstance(w, Word) and (w.content or w is behind[0])]
            right = denied[0] if denied else None
            if right is not None:
                around = left is not None and self._goes(left.stem, right.stem)
                if around or (right.content and self._only_denied(right.stem, there)):
                    found.add(right.stem)
        return found

    def _only_denied(self, stem: str, there: dict[int, bool]) -> bool:
        """Whether a word of a claim that is all there is nowhere there undenied."""
        if stem not in self._mine.places or self.window.covered < _MOSTLY:
            return False
        return all(there[at] for at in self._source.places[stem] if at in there)

    def _goes(self, left: str, right: str) -> bool:
        """Whether in the claim one word soon follows another."""
        mine = self._mine
        ends = [
            at for stem, places in mine.places.items() if same(stem, right) >= 0.8 for at in places
        ]
        return any(0 < end - at <= 3 for at in mine.places.get(left, ()) for end in ends)


def _union(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [max(pair) for pair in zip(one, other, strict=True)]


def _denials(reading: Reading, places: Iterable[int]) -> dict[int, bool]:
    """For each place, whether what it says is denied."""
    found: dict[int, bool] = {}
    denying, since = False, 0
    for place in places:
        item = reading.row[place]
        if isinstance(item, Word) and is_negation(item.lower):
            denying, since = True, place
            found[place] = False
            continue
        if denying and (
            place - since > _SCOPE or reading.crossings[place] > reading.crossings[since] + 0
        ):
            denying = False
        found[place] = denying
    return found


def _count_denials(reading: Reading, places: Iterable[int]) -> int:
    return sum(
        is_negation(item.lower) for at in places if isinstance(item := reading.row[at], Word)
    )


def _has_number(item: Item, reading: Reading) -> list[int]:
    assert isinstance(item, Quantity)
    return [at for at in reading.numbers if _same_amount(item, reading.row[at])] + [
        at for at in reading.moments if _same_amount(item, reading.row[at])
    ]


def _has_date(item: Item, reading: Reading) -> list[int]:
    assert isinstance(item, Moment)
    whole = [
        at for at in (*reading.moments, *reading.numbers) if _same_amount(item, reading.row[at])
    ]
    if whole or not (item.year and item.month):
        return whole
    # Said apart: a year without a month, and a month without a year.
    bare = [(at, reading.row[at]) for at in reading.moments]
    years = [at for at, m in bare if _part(m, "year") == item.year and not _part(m, "month")]
    months = [at for at, m in bare if _part(m, "month") == item.month and not _part(m, "year")]
    days = [at for at in months if _part(reading.row[at], "day") in (0, item.day) or not item.day]
    return [at for at in days if any(abs(at - other) <= 12 for other in years)]


def _part(item: Item, name: str) -> int:
    return getattr(item, name) if isinstance(item, Moment) else 0


def _same_amount(claimed: Item, found: Item) -> bool:
    match claimed, found:
        case Quantity(), Quantity():
            return equal(claimed, found)
        case Moment(), Moment():
            return agree(claimed, found)
        case Quantity(unit="ordinal"), Moment():
            return claimed.value == found.century
        case Quantity(), Moment():
            return claimed.value == found.year and not claimed.unit
        case Moment(), Quantity():
            return bool(claimed.year) and claimed.year == found.value and not claimed.month
        case _:
            return False


def _is_number(item: Item, ours: Item) -> bool:
    if not (isinstance(item, Quantity) and isinstance(ours, Quantity)):
        return False
    return item.unit == ours.unit


def _is_date(item: Item, ours: Item) -> bool:
    return isinstance(item, Moment) and isinstance(ours, Moment)
