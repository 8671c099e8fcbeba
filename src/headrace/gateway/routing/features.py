"""Text → a sparse bag of hashed words and letters; training and serving call this one function.

Words, pairs of words and runs of three to five letters, each hashed into 2**16 places (the hashing
trick: Weinberger et al. 2009), counted as 1 + log n and scaled to length one. Letters carry
endings, misspellings and languages without spaces. A pure function of the text: CRC-32 is the same
everywhere, Python's own `hash` is not.
"""

import itertools
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

PLACES = 1 << 16
_WORD = re.compile(r"\w+|[^\w\s]")
_WORDS_AT_MOST = 400
_LETTERS_AT_MOST = 2000


class Bag(NamedTuple):
    """Places in ascending order, and their values; empty for a text without words."""

    places: list[int]
    values: list[float]


def bag(text: str) -> Bag:
    """The features of a text's beginning."""
    plain = unicodedata.normalize("NFKC", text[: 4 * _LETTERS_AT_MOST]).casefold()
    counts = Counter(zlib.crc32(feature.encode()) % PLACES for feature in _features(plain))
    weights = {place: 1 + math.log(count) for place, count in counts.items()}
    length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    places = sorted(weights)
    return Bag(places, [weights[place] / length for place in places])


def _features(text: str) -> Iterator[str]:
    words: list[str] = _WORD.findall(text)[:_WORDS_AT_MOST]
    for word in words:
        yield f"w{word}"
    for one, two in itertools.pairwise(words):
        yield f"p{one} {two}"
    letters = f" {' '.join(words)} "[:_LETTERS_AT_MOST]
    for size in (3, 4, 5):
        for at in range(len(letters) - size + 1):
            yield f"c{letters[at : at + size]}"
