"""Which passages say the same as a better one, and which only look like it.

Two revisions of a sentence that differ in a number are the nearest of duplicates and the worst
thing to drop one of. A passage is therefore a duplicate only if each of its numbers, and each word
that denies, stands in the better one too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.retrieval.packing.spans import Piece
from headrace.types import Passage

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_DENIALS = frozenset({"not", "no", "never", "none", "nor", "neither", "without", "cannot"})


class Duplicates:
    """`find` in which of the passages before it a passage is contained, then keeps it."""

    def __init__(self, near: float) -> None:
        self._near = near
        self._kept: list[_Kept] = []

    def find(self, passage: Passage) -> Passage | None:
        """The better passage that says all of it; None = it is kept."""
        found = _read(passage)
        for kept in self._kept:
            if not _disagree(kept.passage, passage) and self._says_all(kept, found):
                return kept.passage
        self._kept.append(found)
        return None

    def swallowed(self, passage: Passage) -> list[Passage]:
        """Those before it that it says word for word and goes on; they are not kept any more."""
        found = _read(passage)
        inner = [
            kept
            for kept in self._kept
            if kept.passage is not passage
            and not _disagree(kept.passage, passage)
            and kept.plain in found.plain
        ]
        self._kept = [kept for kept in self._kept if kept not in inner]
        return [kept.passage for kept in inner]

    def _says_all(self, kept: "_Kept", found: "_Kept") -> bool:
        if found.plain in kept.plain:
            return True
        triples = found.triples
        shared = len(triples & kept.triples) / len(triples) if triples else 0.0
        return shared >= self._near and found.facts <= kept.facts


def distinct(pieces: Sequence[Piece]) -> list[Piece]:
    """Best first, without those whose words all stand in a better one: what was merged may say the
    same although its passages do not."""
    found: list[tuple[str, Piece]] = []
    for piece in pieces:
        plain = _plain(piece.text)
        if not any(plain in other for other, _ in found):
            found.append((plain, piece))
    return [piece for _, piece in found]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Kept:
    passage: Passage
    plain: str
    """Its words between spaces."""
    triples: frozenset[tuple[str, ...]]
    facts: frozenset[str]
    """Numbers and denials."""


def _read(passage: Passage) -> _Kept:
    words = _words(passage.chunk.text)
    return _Kept(
        passage=passage,
        plain=_plain(passage.chunk.text),
        triples=frozenset(zip(words, words[1:], words[2:], strict=False)),
        facts=_facts(words),
    )


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _plain(text: str) -> str:
    return f" {' '.join(_words(text))} "


def _facts(words: Sequence[str]) -> frozenset[str]:
    return frozenset(
        word
        for word in words
        if word in _DENIALS or word.endswith(("n't", "n’t")) or any(c.isdigit() for c in word)
    )


def _disagree(first: Passage, second: Passage) -> bool:
    """One of them is known to say otherwise; or they overlap, and become one span."""
    one, other = first.chunk, second.chunk
    return (
        one.document in second.conflicts
        or other.document in first.conflicts
        or (one.document == other.document and one.start < other.end and other.start < one.end)
    )
