"""Which words mean nearly the same or the contrary, by WordNet 3.0, beside the lists of `lexicon`.

`thesaurus.txt.gz` is made by `bench/thesaurus.py`: a line has a stem, its part of speech,
those near it and those against it. It is read once, when a claim first has a word that its source
does not have.

WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Its licence permits use,
copying, changes and distribution with this notice; it comes as it is, without any warranty.
"""

import gzip
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

_NONE: frozenset[str] = frozenset()


class _Words(NamedTuple):
    part: dict[str, str]
    near: dict[str, frozenset[str]]
    against: dict[str, frozenset[str]]


def near(one: str, other: str) -> bool:
    """Whether two stems are synonyms, of one root, or one a kind of the other."""
    words = _words().near
    return other in words.get(one, _NONE) or one in words.get(other, _NONE)


def against(one: str, other: str) -> bool:
    """Whether two stems are antonyms."""
    words = _words().against
    return other in words.get(one, _NONE) or one in words.get(other, _NONE)


def part(stem: str) -> str:
    """What a word is most: n noun, v verb, a adjective, r adverb; empty = not known."""
    return _words().part.get(stem, "")


@lru_cache(maxsize=1)
def _words() -> _Words:
    raw = files("headrace.retrieval.answering").joinpath("thesaurus.txt.gz").read_bytes()
    found = _Words({}, {}, {})
    for line in gzip.decompress(raw).decode().splitlines():
        word, kind, alike, contrary = line.split("\t")
        found.part[word] = kind
        found.near[word] = frozenset(alike.split())
        found.against[word] = frozenset(contrary.split())
    return found
