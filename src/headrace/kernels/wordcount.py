"""Counting the words of many texts at once, in C++; who asks has a slower way of its own.

No torch here, nor any idea of what a word stands for: `Counter` is told that, word by word, as it
meets them.
"""

import threading
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int64, c_void_p
from functools import cache

import numpy as np

from headrace.kernels.library import Library, library

_P = c_void_p
_DECLARATIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "hr_words_new": (_P, ()),
    "hr_words_free": (None, (_P,)),
    "hr_words_bytes": (c_int64, (_P,)),
    "hr_words_learn": (None, (_P, c_int64, c_char_p, _P, _P)),
    "hr_words_count": (c_int64, (_P, c_int64, c_char_p, *(_P,) * 5)),
}
_BLOCK_BYTES = 1 << 20
"""So much text is counted in one call: what it is given room for is ten times as much."""
_KEPT_BYTES = 64 << 20
"""All words are forgotten when they take so much memory."""


@cache
def native() -> Library | None:
    """The library with these functions; None = it was built before they were, or not at all."""
    found = library()
    if found is None:
        return None
    try:
        for name, (result, arguments) in _DECLARATIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError:
        return None
    return found


class Counter:
    """Counts words; any number of threads may ask, one at a time is answered."""

    def __init__(self, lib: Library, stem: Callable[[str], int]) -> None:
        """`stem`: what a word in lower case stands for, 64 bits."""
        self._lib = lib
        self._stem = stem
        self._lock = threading.Lock()
        self._words = c_void_p(lib.hr_words_new())

    def __del__(self) -> None:
        self._lib.hr_words_free(self._words)

    def count(self, texts: Sequence[tuple[bytes, bytes]]) -> list[tuple[int, bytes]]:
        """Of each chunk how many words it has, and `packed` as hr_words_count says.

        Args:
            texts: Body and titles of each chunk. Words are runs of ASCII letters and digits, whose
                case does not count, and of bytes above 127, which are taken as they are.
        """
        found: list[tuple[int, bytes]] = []
        with self._lock:
            if self._lib.hr_words_bytes(self._words) > _KEPT_BYTES:
                self._lib.hr_words_free(self._words)
                self._words = c_void_p(self._lib.hr_words_new())
            block: list[tuple[bytes, bytes]] = []
            size = 0
            for body, titles in texts:
                block.append((body, titles))
                size += len(body) + len(titles)
                if size > _BLOCK_BYTES:
                    found += self._counted(block)
                    block, size = [], 0
            if block:
                found += self._counted(block)
        return found

    def _counted(self, block: Sequence[tuple[bytes, bytes]]) -> list[tuple[int, bytes]]:
        parts = [part for chunk in block for part in chunk]
        text, chunks = b"".join(parts), len(block)
        ends = np.fromiter(map(len, parts), np.int64, len(parts)).cumsum()
        most = (len(text) + len(parts)) // 2 + 1
        lengths, sizes = np.empty(chunks, np.int32), np.empty(chunks, np.int64)
        packed, unknown = np.empty(10 * most, np.uint8), np.empty(2 * most, np.int64)
        given = [ends, lengths, sizes, packed, unknown]
        pointers = [array.ctypes.data for array in given]
        while missing := self._lib.hr_words_count(self._words, chunks, text, *pointers):
            spans = unknown[: 2 * missing].reshape(-1, 2).tolist()
            self._learn({text[first:end].lower() for first, end in spans})
        stops = sizes.tolist()
        made = packed[: stops[-1]].tobytes()
        starts = [0, *stops[:-1]]
        return [
            (length, made[start:stop])
            for length, start, stop in zip(lengths.tolist(), starts, stops, strict=True)
        ]

    def _learn(self, words: set[bytes]) -> None:
        stems = np.array([self._stem(w.decode("utf-8", "surrogatepass")) for w in words], np.uint64)
        ends = np.fromiter(map(len, words), np.int64, len(words)).cumsum()
        joined = b"".join(words)
        self._lib.hr_words_learn(
            self._words, len(words), joined, ends.ctypes.data, stems.ctypes.data
        )
