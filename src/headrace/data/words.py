"""Text -> words -> hashes of their n-grams: what near-duplicates and contamination are found by.

Words are lower-case runs of letters, digits and underscores after NFKC; in scripts written without
spaces every character is a word of its own. An n-gram's hash is a polynomial over the 64-bit hashes
of its words, taken modulo 2^64 and mixed, so a document's n-grams cost a few array operations
(Karp & Rabin, IBM Journal 31:2, 1987; the mixer is MurmurHash3's fmix64, in the public domain).

Invariant: equal words in equal order give equal hashes, on every machine and in every version.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_ASCII = re.compile(r"\w+")
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
)
_ANY = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
_FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that no word's bits are lost; 2^64 divided by the golden ratio (Knuth, TAOCP 3, 6.4)."""


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    return _ANY.findall(unicodedata.normalize("NFKC", text).lower())


def ngram_hashes(words: Sequence[str], n: int) -> Hashes:
    """The hash of every run of `n` words, in order; of the whole where there are fewer than `n`."""
    count = min(n, len(words))
    if not count:
        return np.empty(0, np.uint64)
    each = np.fromiter((_word_hash(word) for word in words), np.uint64, len(words))
    runs = len(words) - count + 1
    total = np.zeros(runs, np.uint64)
    for place in range(count):
        total *= np.uint64(_FACTOR)
        total += each[place : place + runs]
    return mixed(total)


def mixed(values: Hashes) -> Hashes:
    """fmix64: every bit of a value decides about every bit of the result; a bijection."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
