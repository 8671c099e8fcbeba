"""Text → words with their stems, and which words mean the same, the opposite, or nothing alone."""

import re
from dataclasses import dataclass
from functools import lru_cache

from headrace.retrieval.answering import lexicon, thesaurus
from headrace.retrieval.sentences import sentence_spans
from headrace.retrieval.stores.porter import stem as porter

_WORD = re.compile(
    r"[A-Z](?:\.[A-Z])+\.?"  # U.S.
    r"|[^\W\d_][^\W_]*(?:['’][^\W\d_]+)*"
)
_POSSESSIVE = re.compile(r"['’]s?$")
STOP_WORDS = frozenset(lexicon.STOP.split())
_MAY_BE_NAMES = frozenset({"article", "text", "source", "passage", "author", "states"})
_PREFIXES = ("un", "in", "im", "non", "dis", "il", "ir")
NEGATIONS = frozenset(
    {
        *("not", "no", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor"),
        *("without", "cannot", "hardly", "barely", "scarcely", "rarely", "seldom"),
    }
)


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text."""

    text: str
    stem: str
    start: int
    end: int
    capital: bool
    first: bool
    """It begins a sentence, so that its capital says nothing."""

    @property
    def lower(self) -> str:
        return self.text.lower()

    @property
    def content(self) -> bool:
        if self.text.isupper() and len(self.text) > 1:
            return True  # US, IT
        if self.capital and not self.first and len(self.text) > 3 and self.lower in _MAY_BE_NAMES:
            return True
        return self.lower not in STOP_WORDS and not is_negation(self.lower)


def words_of(text: str) -> list[Word]:
    """All words, numbers apart."""
    begins = [start for start, _ in sentence_spans(text)]
    found: list[Word] = []
    for match in _WORD.finditer(text):
        plain = _POSSESSIVE.sub("", match[0]).rstrip(".")
        if not plain:
            continue
        first = False
        while begins and begins[0] <= match.start():
            begins.pop(0)
            first = True
        found.append(
            Word(
                text=plain,
                stem=stem(plain),
                start=match.start(),
                end=match.end(),
                capital=plain[0].isupper(),
                first=first or text[match.start() - 1 : match.start()] in ("“", '"'),
            )
        )
    return found


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Its Porter stem, without dots and case; a few irregular forms are put right first."""
    plain = word.lower().replace(".", "").replace("’", "'")
    return porter(_IRREGULAR.get(plain, plain))


def is_negation(word: str) -> bool:
    """Whether a word, in lower case, denies what follows."""
    return word in NEGATIONS or word.endswith(("n't", "n’t"))


def same(one: str, other: str) -> float:
    """How much alike two stems are: 1 equal, 0.9 synonyms, 0.8 one word's forms, 0 otherwise."""
    if one == other:
        return 1.0
    if other in _synonyms().get(one, ()):
        return 0.9
    shorter, longer = sorted((one, other), key=len)
    common = 0
    for a, b in zip(shorter, longer, strict=False):
        if a != b:
            break
        common += 1
    if common >= 5 and common >= 0.75 * len(shorter) and len(longer) - common <= 4:
        return 0.8
    return 0.0


def opposite(one: str, other: str) -> bool:
    """Whether two stems say the contrary."""
    return (
        other in _opposites().get(one, ())
        or _denied(one, other)
        or _denied(other, one)
        or thesaurus.against(one, other)
    )


def _denied(one: str, other: str) -> bool:
    """`unhappi` and `happi`."""
    return len(other) >= 4 and one in (
        f"un{other}",
        f"in{other}",
        f"im{other}",
        f"non{other}",
        f"dis{other}",
        f"il{other}",
        f"ir{other}",
    )


@lru_cache(maxsize=1)
def _synonyms() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for line in lexicon.SAME.split("|"):
        stems = {stem(word) for word in line.split()}
        for item in stems:
            found.setdefault(item, set()).update(stems - {item})
    return {item: frozenset(others) for item, others in found.items()}


@lru_cache(maxsize=1)
def _opposites() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for line in lexicon.OPPOSITE.split("|"):
        pair = [stem(word) for word in line.split()]
        if len(pair) == 2:
            found.setdefault(pair[0], set()).add(pair[1])
            found.setdefault(pair[1], set()).add(pair[0])
    return {item: frozenset(others) for item, others in found.items()}


_PAIRS = (pair.split() for pair in lexicon.IRREGULAR.split("|"))
_IRREGULAR: dict[str, str] = {pair[0]: pair[1] for pair in _PAIRS}
