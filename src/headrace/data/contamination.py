"""Evaluation sets -> an index of their n-grams -> which documents contain one of them.

A document that shares a run of 13 words with an evaluation text is taken out, as in GPT-3 (Brown et
al. 2020, appendix C), but whole instead of in pieces. A text shorter than that is looked for as a
whole, down to 8 words; still shorter ones, which common speech contains, are counted and not used.

Invariant: every run of `n` words of an evaluation text, however spaced, cased or punctuated, is
found in every document that has it (the same words give the same hash); a run that is not there is
found with probability below (documents' words x index entries) / 2^64.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from headrace.data import files, records
from headrace.data.words import Hashes, ngram_hashes, words
from headrace.errors import DataError

MIN_WORDS = 8
JSON = (".json",)
"""Evaluation sets also come as one JSON document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NgramIndex:
    """The sorted hashes of all n-grams, by length, and which set each came from."""

    n: int
    sets: tuple[str, ...]
    hashes: Mapping[int, Hashes]
    """Number of words -> ascending hashes."""
    owners: Mapping[int, npt.NDArray[np.int32]]
    """Beside `hashes`: an index into `sets`, the first set that has it."""
    texts: int
    too_short: int
    """Texts of fewer than `MIN_WORDS` words: not looked for."""

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[str]], *, n: int = 13) -> "NgramIndex":
        """Index the texts of each named set.

        Raises:
            DataError: No text long enough to be found, or an `n` that finds common speech.
        """
        if n < MIN_WORDS:
            raise DataError(f"{n}-grams are common speech; look for at least {MIN_WORDS} words")
        found: dict[int, list[tuple[Hashes, int]]] = {}
        texts = too_short = 0
        for owner, items in enumerate(sets.values()):
            for text in items:
                texts += 1
                spoken = words(text)
                if len(spoken) < MIN_WORDS:
                    too_short += 1
                    continue
                size = min(n, len(spoken))
                found.setdefault(size, []).append((ngram_hashes(spoken, size), owner))
        if sets and not found:
            raise DataError(
                f"{', '.join(sets)}: none of {texts} texts has {MIN_WORDS} words, so nothing could "
                "be looked for"
            )
        hashes: dict[int, Hashes] = {}
        owners: dict[int, npt.NDArray[np.int32]] = {}
        for size, parts in sorted(found.items()):
            joined = np.concatenate([part for part, _ in parts])
            whose = np.concatenate([np.full(len(part), owner) for part, owner in parts])
            hashes[size], first = np.unique(joined, return_index=True)
            owners[size] = whose[first].astype(np.int32)
        return cls(
            n=n,
            sets=tuple(sets),
            hashes=hashes,
            owners=owners,
            texts=texts,
            too_short=too_short,
        )

    def found_in(self, spoken: Sequence[str]) -> str | None:
        """The name of a set that a document of these words contains a text of, or None."""
        for size, index in self.hashes.items():
            if len(spoken) < size:
                continue
            grams = ngram_hashes(spoken, size)
            places = np.searchsorted(index, grams)
            places[places == len(index)] = 0
            hits = np.flatnonzero(index[places] == grams)
            if len(hits):
                return self.sets[self.owners[size][places[hits[0]]]]
        return None


def strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys aside: an evaluation record whatever its fields are."""
    match value:
        case str():
            yield value
        case dict():
            for inner in cast("dict[str, Any]", value).values():
                yield from strings(inner)
        case list():
            for inner in cast("list[Any]", value):
                yield from strings(inner)
        case _:
            pass


def evaluation_texts(path: Path) -> Iterator[str]:
    """The texts of an evaluation set: every string of its records, whatever the fields are called.

    Raises:
        DataError: A file or a record that cannot be read: what is not indexed would not be found.
    """
    for file in files.files_in(path, also=JSON):
        name = file.name.removesuffix(".gz")
        if name.endswith(JSON):
            yield from _parsed(b"".join(line for _, line in records.lines(file)), str(file))
        elif name.endswith((".jsonl", ".ndjson")):
            for number, line in records.lines(file):
                yield from _parsed(line, f"{file}:{number}")
        elif name.endswith(".parquet"):
            for row in files.parquet_rows(file):
                yield from strings(row)
        else:
            for record in files.read(file):
                if isinstance(record, files.Skipped):
                    raise DataError(f"{file}: {record.reason}: {record.detail}")
                yield record.text


def _parsed(data: bytes, place: str) -> Iterator[str]:
    try:
        value = json.loads(data.decode())
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from error
    yield from strings(value)
