"""Whether a source affirms what a claim affirms, and denies what it denies."""

from collections.abc import Iterable, Sequence

from headrace.retrieval.answering.locating import Located, weight
from headrace.retrieval.answering.quantities import Quantity
from headrace.retrieval.answering.reading import Item, Reading
from headrace.retrieval.answering.words import Word, is_negation, opposite, same, stem

_MOSTLY = 0.8
_DO = frozenset({"do", "does", "did"})
_MEASURED = frozenset({"old", "long", "high", "tall", "deep", "wide", "late", "early"})
_CONVERSE = frozenset(
    frozenset(stem(word) for word in pair.split())
    for pair in ("bought sold", "buy sell", "lend borrow", "give receive", "teach learn")
)
_SCOPE = 4
"""Places behind a denial that it denies."""


class Denying:
    """Of one claim in one source."""

    def __init__(self, on: Located) -> None:
        self._on = on

    def denied(self) -> str:
        """A denial on one side alone, or a word against its opposite."""
        window = sorted(self._on.inside)
        own = range(self._on.claimed_from, len(self._on.mine.row))
        here = _denials(self._on.mine, own)
        there = _denials(self._on.source, window)
        return self._against(here, there, window) or self._denial(here, there)

    def _against(self, here: dict[int, bool], there: dict[int, bool], window: Sequence[int]) -> str:
        """A word whose opposite the source has, and not the word."""
        others = [item for at in window if isinstance(item := self._on.source.row[at], Word)]
        stems = {other.stem for other in others}
        claimed = {item.stem for item in self._on.mine.row if isinstance(item, Word)}
        for place, item in enumerate(self._on.mine.row):
            if not isinstance(item, Word) or item.stem in stems or here.get(place, True):
                continue
            if place and item.lower in _MEASURED and _measures(self._on.mine.row[place - 1]):
                continue  # six months old
            for at in window:
                other = self._on.source.row[at]
                if not isinstance(other, Word) or there[at] or other.stem in claimed:
                    continue
                if opposite(item.stem, other.stem) and not self._turned(item, at):
                    return f"the claim says {item.text!r} and the source {other.text!r}"
        return ""

    def _denial(self, here: dict[int, bool], there: dict[int, bool]) -> str:
        only_here = alike = 0
        for place, item in enumerate(self._on.mine.row):
            if not weight(item) or not here.get(place):
                continue
            matched = [at for at, score in self._on.matches(item) if score >= 0.8 and at in there]
            denied = any(there[at] for at in matched) or self._said_otherwise(item, there)
            alike += denied
            only_here += bool(matched) and not denied
        ours, theirs = _count_denials(self._on.mine, here), _count_denials(self._on.source, there)
        if only_here > alike or ours > theirs:
            return "the claim denies what the source says"
        short = self._on.asked or self._on.echoed
        if not short and any(not self._denies(stem, here) for stem in self._denials_of_it(there)):
            return "the source denies what the claim says"
        return ""

    def _said_otherwise(self, item: Item, there: dict[int, bool]) -> bool:
        """Whether the source says the contrary of a word that is denied: not open, closed."""
        row = self._on.source.row
        return isinstance(item, Word) and any(
            isinstance(other := row[at], Word) and not denied and opposite(item.stem, other.stem)
            for at, denied in there.items()
        )

    def _turned(self, item: Word, at: int) -> bool:
        """`bought by B` of what was `sold to B`: the same, from the other side."""
        pair = frozenset((item.stem, getattr(self._on.source.row[at], "stem", "")))
        if pair not in _CONVERSE:
            return False
        row, source = self._on.mine.row, self._on.source.row
        for slot in self._on.slots:
            if slot.kind != "name":
                continue
            for place in slot.places:
                before = [w.lower for w in source[max(0, place - 5) : place] if isinstance(w, Word)]
                mine = row[max(0, slot.first - 3) : slot.first]
                by = any(isinstance(w, Word) and w.lower == "by" for w in mine)
                to = "to" in before or "from" in before
                if to and (by or row[slot.first].start < item.start):
                    return True
        return False

    def _denies(self, stem: str, here: dict[int, bool]) -> bool:
        """Whether the claim denies a word, too."""
        places = [
            at for own, found in self._on.mine.places.items() if same(own, stem) for at in found
        ]
        return any(here.get(at) for at in places)

    def _denials_of_it(self, there: dict[int, bool]) -> set[str]:
        """Words that the window denies, and that the claim has with the words around them."""
        row, found = self._on.source.row, set[str]()
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
        if stem not in self._on.mine.places or self._on.window.covered < _MOSTLY:
            return False
        return all(there[at] for at in self._on.source.places[stem] if at in there)

    def _goes(self, left: str, right: str) -> bool:
        """Whether in the claim one word soon follows another."""
        mine = self._on.mine
        ends = [
            at for stem, places in mine.places.items() if same(stem, right) >= 0.8 for at in places
        ]
        return any(0 < end - at <= 3 for at in mine.places.get(left, ()) for end in ends)


def _measures(item: Item) -> bool:
    if isinstance(item, Quantity):
        return True
    return isinstance(item, Word) and item.lower in ("months", "years", "days", "weeks", "hours")


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
