"""Text → the words it is found by, each a hash of 64 bits.

Words are runs of letters and digits, lower case, without accents, as SQLite's `unicode61` has
them, and stemmed (`porter`); in scripts written without spaces each character is one. A hash
instead of the word keeps the index small, and what it keeps of a text says little to who reads the
file. Invariant: equal words give equal hashes, on every machine and in every version.
"""

import hashlib
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.kernels import wordcount
from headrace.retrieval.stores.porter import stem

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana; Han
)
_ASCII = re.compile(r"[a-z0-9]+")
_ANY = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+")
_FOREIGN = re.compile(r"[A-Za-z0-9]*[^\x00-\x7f](?:[A-Za-z0-9]|[^\x00-\x7f])*")
"""Letters and digits that are not all ASCII, together with what is no letter: neither accents nor
case of what is around them can matter to them."""
_MARKS = re.compile(r"[\u0300-\u036f]")
_MAX_COUNT = 255
_KEPT_WORDS = 1 << 18
_KEPT_RUNS = 1 << 14

STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "a about an and are as at be been but by can could did do does for from had has have "
        "he her his how i if in into is it its me my of on or our she so than that the their "
        "them then there these they this those to was we were what when where which who whom "
        "whose why will with would you your",
    )
)
"""Words that nearly every question has; dropped where others are left."""

Hashes = npt.NDArray[np.uint64]


class _Stems(dict[str, int]):
    """Word → hash of its stem; forgets all when it has grown large."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(stem(word).encode("utf-8", "surrogatepass"), digest_size=8)
        value = int.from_bytes(digest.digest(), "little")
        if len(self) >= _KEPT_WORDS:
            self.clear()
        self[word] = value
        return value


_stems = _Stems()


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    plain = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", text)))
    return _ANY.findall(plain.lower())


def hash_of(word: str) -> int:
    """Of one word's stem."""
    return _stems[word]


class Terms(NamedTuple):
    """What a chunk says: each of its words once."""

    length: int
    """Words, repeats counted, in its text and its titles."""
    packed: bytes
    """uint64 hashes, then a byte each: times in the text, then a byte each: times in titles."""


def count(text: str, titles: Iterable[str]) -> Terms:
    """The words of a chunk and of what stands above it."""
    stems = _stems
    spoken = words(text)
    found = Counter(map(stems.__getitem__, spoken))
    length = len(spoken)
    above: Counter[int] = Counter()
    for title in titles:
        if title:
            named = words(title)
            above.update(map(stems.__getitem__, named))
            length += len(named)
    for key in above:
        found.setdefault(key, 0)
    hashes = array("Q", found).tobytes()
    counts = found.values()
    if length > _MAX_COUNT:
        counts = [min(count, _MAX_COUNT) for count in counts]
    body = bytes(counts)
    if not above:
        return Terms(length, hashes + body + bytes(len(body)))
    return Terms(length, hashes + body + bytes(min(above.get(k, 0), _MAX_COUNT) for k in found))


def count_many(chunks: Sequence[tuple[str, Iterable[str]]]) -> list[Terms]:
    """`count` of each, in C++ where there is a library."""
    counter = _counter()
    if counter is None:
        return [count(text, titles) for text, titles in chunks]
    texts = [(_spelled(text), _spelled("\n".join(titles))) for text, titles in chunks]
    return [Terms(*counted) for counted in counter.count(texts)]


@cache
def _counter() -> wordcount.Counter | None:
    """One for all indexes of a process: words are the same everywhere."""
    lib = wordcount.native()
    return None if lib is None else wordcount.Counter(lib, hash_of)


def _spelled(text: str) -> bytes:
    """The words of a text as `wordcount.Counter` tells them apart."""
    if text.isascii():
        return text.encode()
    whole = "\u03a3" in text  # its lower case depends on what stands around it
    spelled = " ".join(words(text)) if whole else _FOREIGN.sub(_spelled_run, text)
    return spelled.encode("utf-8", "surrogatepass")


def _spelled_run(run: re.Match[str]) -> str:
    return _spelled_word(run[0])


@lru_cache(_KEPT_RUNS)
def _spelled_word(run: str) -> str:
    return f" {' '.join(words(run))} "


class Unpacked(NamedTuple):
    """`Terms.packed` of many chunks, end to end."""

    hashes: Hashes
    body: npt.NDArray[np.uint8]
    titles: npt.NDArray[np.uint8]
    counts: npt.NDArray[np.int64]
    """Different words of each chunk."""


def unpack(packed: list[bytes]) -> Unpacked:
    """The reverse of `Terms.packed`, of many at once."""
    counts = np.fromiter((len(p) // 10 for p in packed), np.int64, len(packed))
    hashes = b"".join([p[: 8 * (len(p) // 10)] for p in packed])
    body = b"".join([p[8 * (len(p) // 10) : 9 * (len(p) // 10)] for p in packed])
    titles = b"".join([p[9 * (len(p) // 10) :] for p in packed])
    return Unpacked(
        np.frombuffer(hashes, np.uint64),
        np.frombuffer(body, np.uint8),
        np.frombuffer(titles, np.uint8),
        counts,
    )


def query_terms(query: str) -> list[int]:
    """The hashes of a question's words, each once, without stopwords where others are left."""
    found = words(query)
    kept = [word for word in found if word not in STOPWORDS] or found
    return list(dict.fromkeys(_stems[word] for word in kept))
