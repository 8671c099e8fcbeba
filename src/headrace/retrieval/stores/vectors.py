"""Vectors of one generation in memory, as bytes; the nearest of those that a scope lets through.

All that came since the lists were made lie in order of arrival and are looked at one by one. Where
a scope leaves few vectors, those are looked at one by one too, and nothing else. What the bytes
find is compared again by the record's own float32 (`searching`).
"""

import sqlite3
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.kernels.scan import (
    Bytes,
    Floats,
    Mask,
    Nearest,
    Places,
    Rounded,
    scan_ranges,
    scan_rows,
    to_bytes,
)
from headrace.retrieval.stores.lists import Lists, arrange, take
from headrace.retrieval.stores.schema import vectors_table

FEW = 20_000
"""So many vectors are looked at one by one: a millisecond."""
PROBED = 0.04
"""Of all vectors, how many a question looks at; recall at 10 is measured in bench/results."""
LEAST = 8_000
"""No fewer are looked at, where lists are."""
TAIL = 0.25
"""Lists are made anew when so many came since."""
_FIRST = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """The vectors of one state of an index; never changes."""

    generation: int
    dimensions: int
    owner: object
    lists: Lists | None
    tail: Bytes
    """After those in lists."""
    has: Mask
    """Which places have a vector."""
    complete: bool

    @property
    def listed(self) -> int:
        return 0 if self.lists is None else self.lists.count

    def nearest(self, query: Floats, allowed: Mask, k: int) -> tuple[Nearest, bool]:
        """The k nearest as bytes tell, and whether all that are allowed were looked at."""
        if not self.complete:
            allowed = allowed & self.has
        count = int(np.count_nonzero(allowed))
        whole = None if count == len(allowed) else allowed
        if self.lists is None or count <= FEW:
            return self._one_by_one(query, whole, k), True
        budget = max(LEAST, int(PROBED * count))
        listed = self.lists.count
        near = scan_ranges(
            self.lists.vectors,
            self.lists.ranges(query),
            query,
            k,
            allowed=None if whole is None else allowed[:listed],
            budget=budget,
        )
        fresh = _places(whole, listed, len(allowed)) - listed
        return _merged(near, self._in_tail(query, fresh, k), k), False

    def _one_by_one(self, query: Floats, allowed: Mask | None, k: int) -> Nearest:
        listed = self.listed
        tail = _places(allowed, listed, len(self.has)) - listed
        found = self._in_tail(query, tail, k)
        if self.lists is None:
            return found
        rows = self.lists.row_of[_places(allowed, 0, listed)]
        rows.sort()  # in order of memory
        return _merged(scan_rows(self.lists.vectors, rows, query, k), found, k)

    def _in_tail(self, query: Floats, rows: Places, k: int) -> Nearest:
        if len(rows) == len(self.tail.rows):
            ranges = np.array([[0, len(rows)]], np.int64)
            found = scan_ranges(self.tail, ranges, query, k)
        else:
            found = scan_rows(self.tail, rows, query, k)
        return Nearest(found.places + self.listed, found.scores)


def _places(allowed: Mask | None, first: int, end: int) -> Places:
    if allowed is None:
        return np.arange(first, end)
    return np.flatnonzero(allowed[first:end]) + first


def _merged(a: Nearest, b: Nearest, k: int) -> Nearest:
    if not len(b.places):
        return a
    places, scores = np.concatenate((a.places, b.places)), np.concatenate((a.scores, b.scores))
    order = np.lexsort((places, -scores))[:k]
    return Nearest(places[order], scores[order])


class Vectors:
    """Of one generation, kept up with the record. Not safe for threads."""

    def __init__(self, generation: int, dimensions: int, filled: int) -> None:
        self.generation = generation
        self.filled = filled
        """State of `fill` that was read."""
        self._dimensions = dimensions
        self._lists: Lists | None = None
        self._count = 0
        self._complete = True
        self._has = np.zeros(0, np.bool_)
        self._tail = Bytes(
            rows=np.zeros((0, dimensions), np.int8),
            scales=np.zeros(0, np.float32),
            sums=np.zeros(0, np.int32),
        )
        """With room to grow; states see as much of it as they know of."""

    def read(self, connection: sqlite3.Connection, rows: npt.NDArray[np.int64]) -> None:
        """Take in the chunks that came since."""
        before, count = self._count, len(rows)
        if count == before:
            return
        listed = 0 if self._lists is None else self._lists.count
        self._grow(count - listed, before - listed)
        has = np.zeros(count, np.bool_)
        has[:before] = self._has
        cursor = connection.execute(
            f"SELECT chunk, data FROM {vectors_table(self.generation)} WHERE chunk > ? "
            "ORDER BY chunk",
            (int(rows[before - 1]) if before else 0,),
        )
        while found := cursor.fetchmany(4096):
            chunks = np.fromiter((chunk for chunk, _ in found), np.int64, len(found))
            data = np.frombuffer(b"".join([d for _, d in found]), "<f4")
            places = np.searchsorted(rows, chunks)
            self._set(places - listed, to_bytes(data.reshape(len(found), self._dimensions)))
            has[places] = True
        self._has, self._count = has, count
        self._complete = bool(has.all())

    def _set(self, rows: Places, rounded: Rounded) -> None:
        self._tail.rows[rows] = rounded.rows
        self._tail.scales[rows] = rounded.scales
        self._tail.sums[rows] = rounded.sums

    def _grow(self, wanted: int, used: int) -> None:
        if wanted <= len(self._tail.rows):
            return
        room = max(_FIRST, wanted, 2 * used)
        grown = Bytes(
            rows=np.zeros((room, self._dimensions), np.int8),
            scales=np.zeros(room, np.float32),
            sums=np.zeros(room, np.int32),
        )
        for new, old in zip(_arrays(grown), _arrays(self._tail), strict=True):
            new[:used] = old[:used]
        self._tail = grown

    def snapshot(self) -> Matrix:
        """What is there now."""
        fresh = self._count - (0 if self._lists is None else self._lists.count)
        return Matrix(
            generation=self.generation,
            dimensions=self._dimensions,
            owner=self,
            lists=self._lists,
            tail=Bytes(
                rows=self._tail.rows[:fresh],
                scales=self._tail.scales[:fresh],
                sums=self._tail.sums[:fresh],
            ),
            has=self._has,
            complete=self._complete,
        )

    def made(self, matrix: Matrix) -> bool:
        """Whether a snapshot is one of these vectors, so that places mean the same."""
        return matrix.owner is self

    def adopt(self, lists: Lists) -> None:
        """Take lists that were made of an earlier snapshot; what came since stays the tail."""
        listed = 0 if self._lists is None else self._lists.count
        if lists.count <= listed or lists.count > self._count:
            return
        kept = slice(lists.count - listed, self._count - listed)
        old = self._tail
        self._tail = Bytes(
            rows=old.rows[kept].copy(), scales=old.scales[kept].copy(), sums=old.sums[kept].copy()
        )
        self._lists = lists


def wants_lists(matrix: Matrix) -> bool:
    """Whether lists, or new ones, would pay."""
    fresh = len(matrix.tail.rows)
    return len(matrix.has) > FEW and fresh > max(FEW // 2, TAIL * matrix.listed)


def make_lists(matrix: Matrix) -> Lists:
    """Lists of all that a snapshot has. Takes seconds of processor time for 100,000s of vectors."""
    if matrix.lists is None:
        whole = matrix.tail
    else:
        old, new = take(matrix.lists, np.arange(matrix.listed)), matrix.tail
        whole = Bytes(
            rows=np.concatenate((old.rows, new.rows)),
            scales=np.concatenate((old.scales, new.scales)),
            sums=np.concatenate((old.sums, new.sums)),
        )
    count = len(whole.rows)
    return arrange(whole, 1 << round(np.log2(2 * count**0.5)))


def _arrays(vectors: Bytes) -> tuple[npt.NDArray[np.int8], Floats, npt.NDArray[np.int32]]:
    return vectors.rows, vectors.scales, vectors.sums
