"""A question's words, and where they stand in passages: counts and places as arrays.

Shape suffixes: N passages, T terms of the question, E places where a term stands, in the order of
the passages and, within one, of its words.

Words are runs of letters and digits in lower case, so that `get_type_hints` is three; they are
compared by their stems. Function words are no terms, unless a question has nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from headrace.retrieval.stores import porter

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WORD = re.compile(r"[^\W_]+")
stem = lru_cache(maxsize=1 << 16)(porter.stem)
_FAR = 1 << 40
"""Where a term that does not follow stands: further than any window."""

FUNCTION_WORDS = frozenset(
    [
        *("a", "about", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because"),
        *("been", "before", "being", "but", "by", "can", "could", "did", "do", "does", "doing"),
        *("during", "each", "either", "for", "from", "had", "has", "have", "having", "he", "her"),
        *("here", "hers", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "me"),
        *("more", "most", "my", "no", "nor", "not", "of", "on", "once", "only", "or", "other"),
        *("our", "out", "over", "own", "same", "she", "should", "so", "some", "such", "than"),
        *("that", "the", "their", "them", "then", "there", "these", "they", "this", "those"),
        *("through", "to", "too", "under", "until", "up", "us", "very", "was", "we", "were"),
        *("what", "when", "where", "whether", "which", "while", "who", "whom", "whose", "why"),
        *("will", "with", "would", "you", "your"),
    ]
)


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is looked for, word by word."""

    terms: tuple[str, ...]
    """Different stems, in the order in which they come."""
    pairs: tuple[tuple[int, int, int], ...]
    """Terms that follow each other, and how many words on the second stands."""
    length: int
    """Words, function words too."""
    marked: tuple[bool, ...]
    """Of each term: does it look like a name, a code or a number?"""


def question(text: str) -> Question:
    """Read a question."""
    found = words(text)
    kept = [(at, word) for at, word in enumerate(found) if word not in FUNCTION_WORDS]
    kept = kept or list(enumerate(found))
    stems = [stem(word) for _, word in kept]
    terms = tuple(dict.fromkeys(stems))
    number = {term: at for at, term in enumerate(terms)}
    pairs = {
        (number[a], number[b]): kept[i + 1][0] - kept[i][0]
        for i, (a, b) in enumerate(pairwise(stems))
        if a != b
    }
    names = _names(text)
    marked = dict.fromkeys(terms, False)
    for (_, word), term in zip(kept, stems, strict=True):
        marked[term] = marked[term] or word in names
    return Question(
        terms=terms,
        pairs=tuple((a, b, gap) for (a, b), gap in pairs.items()),
        length=len(found),
        marked=tuple(marked.values()),
    )


_TOKEN = re.compile(r"\S+")


def _names(text: str) -> frozenset[str]:
    """Words with a digit, with a capital that no sentence begins with, or in an identifier."""
    found: set[str] = set()
    first = True
    for token in _TOKEN.findall(text):
        bare = token.strip("\"'`.,;:!?()[]{}<>")
        inner = bare[1:] if first else bare
        joined = "_" in bare or any(sign in bare for sign in ("::", "->", "()", "/"))
        if joined or any(c.isdigit() or c.isupper() for c in inner) or "." in bare:
            found.update(words(bare))
        first = token.endswith((".", "?", "!"))
    return frozenset(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the terms stand."""

    count_NT: Floats
    length_N: Floats
    """Words of each passage, at least 1."""
    passage_E: Ints
    place_E: Ints
    """Number of the word in its passage."""
    term_E: Ints
    next_ET: Ints
    """Where each term stands next, here or further on in the passage."""

    @property
    def passages(self) -> int:
        return len(self.length_N)


def places(question: Question, texts: Sequence[str]) -> Places:
    """Find the terms of a question in passages."""
    joined = "\n".join(text.lower() for text in texts)
    begins = _word_begins(joined)
    number = np.cumsum(begins) - 1
    size_N = np.fromiter((len(text.lower()) + 1 for text in texts), np.int64, len(texts))
    # Words before each passage, and in the end all there are.
    first_N = np.append(0, np.cumsum(begins, dtype=np.int64))[
        np.minimum(np.append(0, np.cumsum(size_N)), len(begins))
    ]
    place_E, term_E = _hits(question, joined, begins)
    at_E = number[place_E]
    passage_E = np.searchsorted(first_N, at_E, side="right") - 1
    width = len(question.terms)
    count_NT = np.bincount(passage_E * width + term_E, minlength=len(texts) * width)
    return Places(
        count_NT=count_NT.reshape(len(texts), width).astype(np.float64),
        length_N=np.maximum(np.diff(first_N), 1).astype(np.float64),
        passage_E=passage_E,
        place_E=at_E - first_N[passage_E],
        term_E=term_E,
        next_ET=_following(at_E, passage_E, term_E, first_N, width),
    )


def _hits(question: Question, joined: str, begins: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Characters at which words with a term's stem begin, in order, and which term it is."""
    starts: list[int] = []
    terms: list[int] = []
    for at, term in enumerate(question.terms):
        # A search for a literal runs at the speed of memory; words are stemmed only where it hits.
        pattern = re.compile(re.escape(_common_start(term)) + r"[^\W_]*")
        known: dict[str, bool] = {}
        for match in pattern.finditer(joined):
            word = match.group()
            if word not in known:
                known[word] = stem(word) == term
            if known[word]:
                starts.append(match.start())
                terms.append(at)
    start_E, term_E = np.array(starts, np.int64), np.array(terms, np.int64)
    kept = begins[start_E] if len(start_E) else np.zeros(0, bool)
    start_E, term_E = start_E[kept], term_E[kept]
    order = np.argsort(start_E, kind="stable")
    return start_E[order], term_E[order]


def _common_start(term: str) -> str:
    """What all words with this stem begin with: only a last e, i or bl (-bility) is not theirs."""
    return term[:-1] if len(term) > 1 and term.endswith(("e", "i", "bl")) else term


@cache
def _alphabet() -> NDArray[np.bool_]:
    """Which characters words are made of; all beyond the table are."""
    return np.fromiter((chr(code).isalnum() for code in range(0x3000)), bool, 0x3000)


def _word_begins(text: str) -> NDArray[np.bool_]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    table = np.append(_alphabet(), True)
    inside = table[np.minimum(codes, len(table) - 1)]
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    return begins


def _following(at_E: Ints, passage_E: Ints, term_E: Ints, start_N: Ints, width: int) -> Ints:
    """Next place of each term, seen from each place; `_FAR` where the passage has none."""
    next_ET = np.full((len(at_E), width), _FAR, np.int64)
    next_ET[np.arange(len(at_E)), term_E] = at_E
    next_ET = np.minimum.accumulate(next_ET[::-1], axis=0)[::-1]
    end_E, begin_E = start_N[passage_E + 1], start_N[passage_E]
    return np.where(next_ET < end_E[:, None], next_ET - begin_E[:, None], _FAR)
