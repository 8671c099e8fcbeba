"""Gopher's rules: does a text look like prose at all, and how much does it repeat itself?

Source: Rae et al., "Scaling Language Models", arXiv 2112.11446, appendix A.1.1 and table A1. A word
is what white space separates. Two points that the paper leaves open: a fraction of characters is
one of the words' characters; of a repeated n-gram every occurrence but the first counts, each
character once however many n-grams overlap on it.
"""

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.data.document import Document
from headrace.data.filters.verdict import KEEP, Verdict, drop
from headrace.data.words import ngram_hashes

_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("•", "‣", "▪", "◦", "●", "■", "□", "–", "- ", "* ")
_ELLIPSES = ("...", "…")


@dataclass(frozen=True, kw_only=True, slots=True)
class GopherQuality:
    """Length, words, symbols, bullets and stop words."""

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_chars: float = 3.0
    max_mean_word_chars: float = 10.0
    max_symbols_per_word: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic_words: float = 0.8
    min_stop_words: int = 2
    """Different ones of eight English words; 0 for other languages."""

    def __call__(self, document: Document) -> Verdict:
        text = document.text
        words = text.split()
        if len(words) < max(1, self.min_words):
            return drop("gopher:few_words")
        if len(words) > self.max_words:
            return drop("gopher:many_words")
        mean = sum(map(len, words)) / len(words)
        if not self.min_mean_word_chars <= mean <= self.max_mean_word_chars:
            return drop("gopher:mean_word_length")
        if text.count("#") > self.max_symbols_per_word * len(words):
            return drop("gopher:hashes")
        if sum(map(text.count, _ELLIPSES)) > self.max_symbols_per_word * len(words):
            return drop("gopher:ellipses")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if sum(line.startswith(_BULLETS) for line in lines) > self.max_bullet_lines * len(lines):
            return drop("gopher:bullets")
        if sum(line.endswith(_ELLIPSES) for line in lines) > self.max_ellipsis_lines * len(lines):
            return drop("gopher:ellipsis_lines")
        alphabetic = sum(any(map(str.isalpha, word)) for word in words)
        if alphabetic < self.min_alphabetic_words * len(words):
            return drop("gopher:few_alphabetic_words")
        found = {word.strip(string.punctuation).lower() for word in words} & _STOP_WORDS
        return KEEP if len(found) >= self.min_stop_words else drop("gopher:few_stop_words")


@dataclass(frozen=True, kw_only=True, slots=True)
class GopherRepetition:
    """Repeated lines, paragraphs and n-grams."""

    max_duplicate_lines: float = 0.30
    max_duplicate_line_chars: float = 0.20
    max_duplicate_paragraphs: float = 0.30
    max_duplicate_paragraph_chars: float = 0.20
    max_top_ngram_chars: tuple[float, ...] = (0.20, 0.18, 0.16)
    """For n = 2, 3, 4: the characters of the most frequent n-gram, where it occurs twice."""
    max_duplicate_ngram_chars: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """For n = 5 to 10."""

    def __call__(self, document: Document) -> Verdict:
        text = document.text
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        for name, parts, share, char_share in (
            ("lines", lines, self.max_duplicate_lines, self.max_duplicate_line_chars),
            (
                "paragraphs",
                paragraphs,
                self.max_duplicate_paragraphs,
                self.max_duplicate_paragraph_chars,
            ),
        ):
            duplicates, chars = duplicated(parts)
            if duplicates > share * len(parts):
                return drop(f"gopher:duplicate_{name}")
            if chars > char_share * sum(map(len, parts)):
                return drop(f"gopher:duplicate_{name}_chars")
        words = text.split()
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        total = int(lengths.sum())
        for n, limit in enumerate(self.max_top_ngram_chars, start=2):
            if top_ngram_chars(words, lengths, n) > limit * total:
                return drop(f"gopher:top_{n}gram")
        for n, limit in enumerate(self.max_duplicate_ngram_chars, start=5):
            if duplicate_ngram_chars(words, lengths, n) > limit * total:
                return drop(f"gopher:duplicate_{n}grams")
        return KEEP


def duplicated(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts repeat an earlier one, and their characters."""
    repeats = [(count - 1, len(part)) for part, count in Counter(parts).items()]
    return sum(count for count, _ in repeats), sum(count * size for count, size in repeats)


def top_ngram_chars(words: Sequence[str], lengths: npt.NDArray[np.int64], n: int) -> int:
    """Characters in the occurrences of the most frequent n-gram, the longest of equals."""
    if len(words) < n:
        return 0
    hashes = ngram_hashes(words, n)
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    top = counts.max()
    if top < 2:
        return 0
    sums = np.concatenate(([0], np.cumsum(lengths)))
    starts = first[counts == top]
    return int(top * (sums[starts + n] - sums[starts]).max())


def duplicate_ngram_chars(words: Sequence[str], lengths: npt.NDArray[np.int64], n: int) -> int:
    """Characters of the words in n-grams that occurred before."""
    if len(words) < n:
        return 0
    hashes = ngram_hashes(words, n)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
    steps = np.zeros(len(words) + 1, np.int64)
    np.add.at(steps, again, 1)
    np.add.at(steps, again + n, -1)
    return int(lengths[np.cumsum(steps[:-1]) > 0].sum())
