"""One claim against the span it cites → how well that supports it, and where.

In order, and the first that fails decides: the source must be there; what is quoted must stand in
it word for word; numbers, dates and names must be said by it, and of the same thing: a number that
stands elsewhere in the source, where another has its place, is as wrong as one that does not; what
it denies must be denied and what it affirms affirmed; and enough of the claim's words, or words
that mean the same, must stand together.

What is compared is what was written: no model is asked, and the same claim is always judged alike.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from headrace.retrieval.answering.bars import Bars, Finding
from headrace.retrieval.answering.comparing import Comparison
from headrace.retrieval.answering.locating import weight
from headrace.retrieval.answering.naming import names_in
from headrace.retrieval.answering.reading import Reading, read
from headrace.retrieval.answering.words import Word
from headrace.types import CitationVerdict

QUOTED = re.compile(r"\"([^\"\n]{2,})\"|“([^”\n]{2,})”|«([^»\n]{2,})»|„([^“”\n]{2,})[“”]")
_FRAMES = re.compile(
    r"^(?:according to (?:the |this )?(?:source|text|passage|article|document)s?,?|"
    r"(?:the |this )?(?:source|text|passage|article|document)s? (?:says?|states?|notes?|mentions?|"
    r"explains?|reports?)(?: that)?:?|it is (?:stated|said|noted|reported) that|note that|"
    r"the answer is:?|answer:)\s+",
    re.IGNORECASE,
)


_SHORT_CLAIM = 2
"""Words beside names and numbers."""
_SHORT_ANSWER = 4
"""Words of a quotation that may stand in a source and answer something else."""
_TELLING = frozenset({"describ", "word", "term", "phrase", "quot", "quotat", "express"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What an answer says."""

    text: str
    title: str = ""
    """Of the source's document and its headings: a source need not repeat what it is about."""
    question: str = ""
    """A short answer says the rest of it."""
    names: frozenset[str] = frozenset()
    """Of `names_of` the sources: a capital at a sentence's beginning says nothing by itself."""
    words: frozenset[str] = frozenset()
    """Of `stems_of` the sources."""


class Checker:
    """Compares claims with texts."""

    def __init__(self, bars: Bars | None = None) -> None:
        self.bars = bars or Bars()

    def check(self, claim: Claim, text: str) -> Finding:
        """One claim against one text.

        Args:
            claim: Without its marks.
            text: Of the source, or the part of it that the mark names.
        """
        said = _FRAMES.sub("", claim.text.strip())
        quoted = _check_quotes(said, text)
        answers = claim.question and len(said.split()) <= _SHORT_ANSWER
        if quoted is not None and not (quoted.good and answers):
            return quoted
        said = said.strip('"“”') if quoted is not None else said
        mine, source = _read(said), _read(text)
        echoed = 0 if said.endswith("?") else said.rfind("?") + 1
        words = sum(1 for item in mine.row if weight(item) == 1.0)
        asked = 0
        if not echoed and claim.question and words < _SHORT_CLAIM:
            asked = len(claim.question) + 1
            mine = _read(f"{claim.question} {said}")  # an answer, which says nothing by itself
        about = _read(f"{claim.title}. {claim.question}")
        if not any(weight(item) for item in mine.row):
            return Finding(
                verdict=CitationVerdict.UNSUPPORTED, support=0.0, reason="it claims nothing"
            )
        compared = Comparison(
            self.bars,
            mine,
            source,
            about,
            asked=asked,
            echoed=echoed,
            known=claim.names,
            spoken=claim.words,
        )
        found = compared.finding()
        lone = quoted is not None and found.verdict is not CitationVerdict.CONTRADICTED
        return quoted if quoted is not None and lone else found


def _check_quotes(said: str, text: str) -> Finding | None:
    """What the quotations of a claim decide; None = there is more to it than they say."""
    quotes = [next(filter(None, found)) for found in QUOTED.findall(said)]
    if not quotes:
        return None
    places: list[tuple[int, int]] = []
    for quote in quotes:
        place = find_quote(quote, text)
        if place is None:
            return Finding(
                verdict=CitationVerdict.MISQUOTED,
                support=0.0,
                reason=f"the source does not have the words {_short(quote)!r}",
            )
        places.append(place)
    rest = _read(QUOTED.sub(" ", said))
    words = [w for w in rest.row if isinstance(w, Word) and w.content and w.stem not in _TELLING]
    if rest.numbers or rest.moments or len(words) > 1:
        return None
    start, end = min(place[0] for place in places), max(place[1] for place in places)
    return Finding(verdict=CitationVerdict.SUPPORTED, support=1.0, start=start, end=end)


def find_quote(quote: str, text: str) -> tuple[int, int] | None:
    """Where words stand in a text, whatever white space, dashes and quotation marks it has."""
    words = quote.strip(" .,;:…").split()
    if not words:
        return 0, 0
    pattern = r"\s+".join(_loosely(word) for word in words)
    found = re.search(rf"(?<!\w){pattern}(?:s|es|ese|n|an|ian|ish)?(?!\w)", text, re.IGNORECASE)
    return found.span() if found else None


def _loosely(word: str) -> str:
    made = re.escape(word)
    made = re.sub(r"['’‘`]", "['’‘`]", made)
    made = re.sub(r"[\"“”„«»]", '["“”„«»]', made)
    return re.sub(r"\\?[-–—]", "[-–—]", made)


def names_of(texts: Iterable[str]) -> frozenset[str]:
    """What is a name in any of these texts."""
    return names_in(_read(text) for text in texts)


def stems_of(texts: Iterable[str]) -> frozenset[str]:
    """Of all words of these texts."""
    return frozenset(stem for text in texts for stem in _read(text).places)


@lru_cache(maxsize=512)
def _read(text: str) -> Reading:
    return read(text)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
