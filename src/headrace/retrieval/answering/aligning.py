"""A claim laid beside the sentences that cover it, word by word: what of it replaces what they say.

Where a claim repeats its source and one word is another, that word is either a synonym or an error.
The two rows are aligned globally (Needleman & Wunsch, J. Mol. Biol. 48, 1970); between words that
stand for each other lie gaps, and what stands in the claim's gap is held to what stands in the
source's: another name, number, quantity of things, or a word that means something else.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from headrace.retrieval.answering import lexicon, thesaurus
from headrace.retrieval.answering.amounts import is_date, is_number, same_amount
from headrace.retrieval.answering.locating import Located, weight
from headrace.retrieval.answering.naming import mentions
from headrace.retrieval.answering.quantities import Quantity
from headrace.retrieval.answering.reading import Item, Name, Reading
from headrace.retrieval.answering.words import Word, is_negation, opposite, same

_GAP = -0.2
"""Of an item that stands for none."""
_WIDE = 4
"""Items of a gap at most: what is longer says it in other words."""
_NEAR = 3
"""Items on either side of a gap that are looked at,"""
_HELD = 2.7
"""and how much of them must stand for each other."""
_BESIDE = 0.25
"""How much better than its own place another must fit."""
_TITLES = frozenset(lexicon.TITLES.split())
_DEGREES = frozenset(lexicon.DEGREES.split())
_BOUND = frozenset(frozenset(pair.split()) for pair in lexicon.BOUNDS.split("|"))
_QUANTIFIERS = {
    word: group.split()[0] for group in lexicon.QUANTIFIERS.split("|") for word in group.split()
}
_APART = frozenset(frozenset(pair.split()) for pair in lexicon.APART.split("|"))


class Pair(NamedTuple):
    """Places of the claim's row and of the source's that stand for each other."""

    mine: int
    other: int


class Gap(NamedTuple):
    """What lies between two such pairs, in places of either row; and how much around it holds."""

    mine: tuple[int, ...]
    others: tuple[int, ...]
    held: float


class Aligning:
    """Of one claim with the window of one source."""

    def __init__(self, on: Located) -> None:
        self._on = on

    def replaced(self) -> str:
        """What the claim has in place of something else."""
        if self._on.asked or self._on.echoed:
            return ""
        if rank := self._other_rank():
            return rank
        for gap in self._gaps():
            if gap.held < _HELD or not gap.mine:
                continue
            reason = self._against(gap)
            if reason:
                return reason
        return ""

    def _other_rank(self) -> str:
        """The largest, where the source has the second largest."""
        source, mine = self._on.source.row, self._on.mine.row
        for pair in self.pairs:
            before = source[pair.other - 1] if pair.other else None
            word = mine[pair.mine]
            if not (isinstance(before, Quantity) and before.unit == "ordinal"):
                continue
            ours = mine[pair.mine - 1] if pair.mine else None
            best = isinstance(word, Word) and (word.lower.endswith("est") or word.lower == "most")
            if best and before.value > 1 and not isinstance(ours, Quantity):
                return f"the source has {before.text!r} before {word.text!r}"
        return ""

    @cached_property
    def _window(self) -> list[int]:
        return sorted(self._on.inside)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The alignment."""
        mine = list(range(self._on.claimed_from, len(self._on.mine.row)))
        others = self._window
        width = len(others) + 1
        best = [[_GAP * at for at in range(width)]]
        scores = [[self._score(a, b) for b in others] for a in mine]
        for at in range(len(mine)):
            above, row, score = best[-1], [_GAP * (at + 1)], scores[at]
            for b in range(1, width):
                value = above[b - 1] + score[b - 1] if score[b - 1] else -9.0
                row.append(max(value, above[b] + _GAP, row[b - 1] + _GAP))
            best.append(row)
        found: list[Pair] = []
        a, b = len(mine), len(others)
        while a and b:
            score = scores[a - 1][b - 1]
            if score and best[a][b] == best[a - 1][b - 1] + score:
                a, b = a - 1, b - 1
                found.append(Pair(mine[a], others[b]))
            elif best[a][b] == best[a - 1][b] + _GAP:
                a -= 1
            else:
                b -= 1
        return found[::-1]

    def _score(self, mine: int, other: int) -> float:
        """How much one item stands for another; 0 = not."""
        ours, theirs = self._on.mine.row[mine], self._on.source.row[other]
        if isinstance(ours, Word) and isinstance(theirs, Word):
            if ours.stem == theirs.stem:
                return 2.0 if weight(ours) else 0.6
            return 1.5 * same(ours.stem, theirs.stem) if weight(ours) and weight(theirs) else 0.0
        return 2.0 if same_amount(ours, theirs) else 0.0

    def _gaps(self) -> Iterator[Gap]:
        pairs = self.pairs
        start, end = self._on.claimed_from, len(self._on.mine.row)
        edges = [Pair(start - 1, -1), *pairs, Pair(end, -1)]
        order = {place: at for at, place in enumerate(self._window)}
        for at, (before, after) in enumerate(itertools.pairwise(edges)):
            mine = tuple(range(before.mine + 1, after.mine))
            if not mine or len(mine) > _WIDE:
                continue
            first = order[before.other] + 1 if before.other >= 0 else -1
            last = order[after.other] if after.other >= 0 else -1
            if first >= 0 and last >= 0:
                others = self._window[first:last]
            elif first >= 0:
                others = self._window[first : first + _WIDE]
            elif last >= 0:
                others = self._window[max(0, last - _WIDE) : last]
            else:
                continue
            if len(others) > _WIDE + 2:
                continue
            yield Gap(mine, tuple(others), self._held(pairs, at, order))

    def _held(self, pairs: Sequence[Pair], at: int, order: dict[int, int]) -> float:
        """How much in a row stands for each other on both sides of gap `at`, which lies before pair
        `at`."""
        total = 0.0
        for step, side in ((-1, pairs[max(0, at - _NEAR) : at][::-1]), (1, pairs[at : at + _NEAR])):
            last: Pair | None = None
            for pair in side:
                if last is not None and (
                    abs(pair.mine - last.mine) > 2 or abs(order[pair.other] - order[last.other]) > 2
                ):
                    break
                total += self._score(pair.mine, pair.other) / 2
                last = pair
            row = self._on.mine.row
            edge = self._on.claimed_from if step < 0 else len(row) - 1
            if side and side[-1].mine == edge:
                total += 0.5
        return total

    def _against(self, gap: Gap) -> str:
        mine, source = self._on.mine, self._on.source
        for place in gap.mine:
            ours = mine.row[place]
            for at in gap.others:
                theirs = source.row[at]
                other = self._other_amount(ours, theirs) or self._other_word(ours, theirs)
                if (other and self._fits_better(place, at)) or self._other_bound(place, at):
                    return f"the claim has {ours.text!r} where the source has {theirs.text!r}"
        return self._other_name(gap) or self._other_thing(gap)

    def _fits_better(self, place: int, at: int) -> bool:
        """Whether another's place is more like the claim's than any that the source has for it."""
        own = [a for a, score in self._on.matches(self._on.mine.row[place]) if score >= 0.9]
        own = [a for a in own if a in self._on.inside]
        there = self._beside(place, at)
        return all(there > self._beside(place, a) + _BESIDE for a in own)

    def _beside(self, place: int, at: int) -> float:
        """How much of what stands beside one place stands in the same order beside the other."""
        mine, source = self._on.mine.row, self._on.source.row
        total = 0.0
        for side in (-1, 1):
            seen = 0
            for step in (1, 2, 3):
                here = place + side * step
                if not 0 <= here < len(mine):
                    total += 0.15
                    break
                near = [at + side * n for n in (1, 2, 3) if 0 <= at + side * n < len(source)]
                best = max((self._score(here, there) for there in near[seen:]), default=0.0)
                total += best / (1 + step)
                seen += best > 0
        return total

    def _other_bound(self, place: int, at: int) -> bool:
        """`by 80 percent` for `to 80 percent`, `since 1990` for `until 1990`."""
        mine, source = self._on.mine.row, self._on.source.row
        if place + 1 >= len(mine) or at + 1 >= len(source):
            return False
        ours, theirs, amount, other = mine[place], source[at], mine[place + 1], source[at + 1]
        if not (isinstance(ours, Word) and isinstance(theirs, Word)):
            return False
        if isinstance(amount, Word) or not same_amount(amount, other):
            return False
        words = frozenset((ours.lower, theirs.lower))
        percent = isinstance(amount, Quantity) and amount.unit in ("percent", "fraction", "money")
        return words in _BOUND or (percent and words == frozenset(("to", "by")))

    def _other_amount(self, ours: Item, theirs: Item) -> bool:
        if not (is_number(theirs, ours) or is_date(theirs, ours)):
            if not (isinstance(ours, Quantity) and isinstance(theirs, Quantity)):
                return False
            if ours.value != theirs.value or not (ours.unit and theirs.unit):
                return False  # 40 percent is no other number than 12 metres
        return not same_amount(ours, theirs)

    def _other_word(self, ours: Item, theirs: Item) -> bool:
        """Opposites, and amounts of things that are no numbers."""
        if not (isinstance(ours, Word) and isinstance(theirs, Word)):
            return False
        kinds = {_QUANTIFIERS.get(ours.lower, ""), _QUANTIFIERS.get(theirs.lower, "")}
        if frozenset(kinds) in _APART:
            return True
        if is_negation(ours.lower) or is_negation(theirs.lower):
            return False
        return opposite(ours.stem, theirs.stem)

    def _other_name(self, gap: Gap) -> str:
        ours, theirs = (
            self._named(self._on.mine, gap.mine),
            self._named(self._on.source, gap.others),
        )
        if not ours or not theirs:
            return ""
        mine = [w for at in ours if isinstance(w := self._on.mine.row[at], Word)]
        others = [w for at in theirs if isinstance(w := self._on.source.row[at], Word)]
        name, other = (
            Name(ours[0], ours[-1], tuple(mine), True),
            Name(theirs[0], theirs[-1], tuple(others), True),
        )
        if mentions(name, others) or all(word.lower in _TITLES for word in mine):
            return ""
        meant = [
            place
            for slot in self._on.slots
            if slot.kind == "name" and slot.first <= ours[-1] and ours[0] <= slot.last
            for place in slot.places
        ]
        if any(gap.others[0] <= place <= gap.others[-1] for place in meant):
            return ""
        if self._listed(meant, other) or not self._fits_better(ours[-1], theirs[-1]):
            return ""
        return f"the claim has {name.text!r} where the source has {other.text!r}"

    def _named(self, reading: Reading, places: Sequence[int]) -> list[int]:
        """Places of names and of parts of them."""
        named = {
            at for n in reading.names if self._on.certain(n) for at in range(n.first, n.last + 1)
        }
        return [at for at in places if at in named]

    def _listed(self, meant: Sequence[int], theirs: Name) -> bool:
        """Whether the source has the claim's name beside its own, in a list: order says nothing."""
        source = self._on.source
        for place in meant:
            low, high = sorted((place, theirs.last))
            between = source.row[low + 1 : high]
            if len(between) < 8 and all(
                isinstance(item, Word)
                and (item.capital or item.lower in ("and", "or", "of", "the"))
                for item in between
            ):
                return True
        return False

    def _other_thing(self, gap: Gap) -> str:
        """A noun or an adjective in place of another that it does not mean."""
        ours = [w for at in gap.mine if isinstance(w := self._on.mine.row[at], Word)]
        theirs = [w for at in gap.others if isinstance(w := self._on.source.row[at], Word)]
        ours = [w for w in ours if weight(w) and not self._known(w)]
        theirs = [w for w in theirs if weight(w) and not self._claimed(w)]
        if len(ours) != 1 or not 1 <= len(theirs) <= 2:
            return ""
        [word] = ours
        if word.capital and not word.first:
            return ""
        kind = thesaurus.part(word.stem)
        if kind not in ("n", "a") or word.stem in _DEGREES:
            return ""
        others = [w for w in theirs if thesaurus.part(w.stem) in ("n", "a", "")]
        if len(others) < len(theirs) or all(thesaurus.part(w.stem) != kind for w in theirs):
            return ""
        for other in theirs:
            if (other.capital and not other.first) or other.stem in _DEGREES:
                return ""
            if thesaurus.near(word.stem, other.stem) or same(word.stem, other.stem):
                return ""
        return f"the claim has {word.text!r} where the source has {theirs[-1].text!r}"

    def _known(self, word: Word) -> bool:
        """Whether the source has a word anywhere."""
        return any(same(word.stem, stem) for stem in self._on.source.places)

    def _claimed(self, word: Word) -> bool:
        return any(same(word.stem, stem) for stem in self._on.mine.places)
