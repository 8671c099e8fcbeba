"""Vectors of chunks in order of arrival; the nearest of those that are allowed, exactly."""

import sqlite3

import numpy as np
import numpy.typing as npt

from headrace.retrieval.stores.schema import vectors_table

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


class Vectors:
    """Of one generation, of the chunks that a view has read."""

    def __init__(self, generation: int, dimensions: int) -> None:
        self.generation = generation
        self.dimensions = dimensions
        self.filled = 0
        """State of `fill` that was read."""
        self._matrix = np.zeros((0, dimensions), np.float32)
        self._has = np.zeros(0, np.bool_)
        self._count = 0

    def read(self, connection: sqlite3.Connection, rows: npt.NDArray[np.int64]) -> None:
        """Take in the chunks that came since."""
        count, before = len(rows), self._count
        if count == before:
            return
        if count > len(self._matrix):
            capacity = max(1024, count, 2 * before)
            matrix = np.zeros((capacity, self.dimensions), np.float32)
            matrix[:before] = self._matrix[:before]
            has = np.zeros(capacity, np.bool_)
            has[:before] = self._has[:before]
            self._matrix, self._has = matrix, has
        after = int(rows[before - 1]) if before else 0
        cursor = connection.execute(
            f"SELECT chunk, data FROM {vectors_table(self.generation)} WHERE chunk > ? "
            "ORDER BY chunk",
            (after,),
        )
        while found := cursor.fetchmany(4096):
            places = np.searchsorted(rows, np.fromiter((r for r, _ in found), np.int64, len(found)))
            data = np.frombuffer(b"".join(d for _, d in found), "<f4")
            self._matrix[places] = data.reshape(len(found), self.dimensions)
            self._has[places] = True
        self._count = count

    def snapshot(self) -> "Matrix":
        """What is there now; later chunks do not change it."""
        return Matrix(self._matrix[: self._count], self._has[: self._count])


class Matrix:
    """The vectors of one state of the index."""

    def __init__(self, rows: Floats, has: Mask) -> None:
        self._rows = rows
        self.has = has
        self.dimensions = rows.shape[1]

    def nearest(self, query: Floats, allowed: Mask, k: int) -> tuple[Places, Floats, bool]:
        """Places and cosines of the k nearest, best first, and whether that is certain."""
        places = np.flatnonzero(allowed & self.has)
        whole = len(places) == len(self._rows)
        cosines = (self._rows if whole else self._rows[places]) @ query
        if len(places) > k:
            least = np.partition(cosines, len(cosines) - k)[len(cosines) - k]
            kept = np.flatnonzero(cosines >= least)
            places, cosines = places[kept], cosines[kept]
        order = np.lexsort((places, -cosines))[:k]
        return places[order], cosines[order], True

    def cosines(self, query: Floats, places: Places) -> Floats:
        """Of given chunks; 0 where there is no vector."""
        return self._rows[places] @ query
