"""What a process holds in memory of an index: read from the record, kept up with it.

A view follows the record by its sequence number: new chunks have higher rows, those that are gone
are in `removed`. `State` is one moment of it and never changes, so a query that has begun is not
disturbed by what comes.
"""

import sqlite3
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.retrieval.contracts import Scope
from headrace.retrieval.stores import postings, words
from headrace.retrieval.stores.atoms import Atoms, Mask, Rows
from headrace.retrieval.stores.lists import Lists
from headrace.retrieval.stores.schema import meta
from headrace.retrieval.stores.vectors import Matrix, Vectors
from headrace.retrieval.stores.writing import dimensions_of

_SCOPES = 64
_BLOCK = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A moment of an index."""

    seq: int
    active: int
    rows: Rows
    """Of chunks, in order of arrival; a chunk's place is its index here."""
    documents: npt.NDArray[np.int32]
    """Of each chunk, the index of its document in `document_rows`."""
    document_rows: Rows
    lengths: npt.NDArray[np.int32]
    alive: Mask
    runs: tuple[postings.Run, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What one scope lets through of one state."""

    allowed: Mask
    """Chunks."""
    matching: int
    seen: postings.Seen
    """What its principals may read, whatever the filter."""


class _Fresh(NamedTuple):
    """Chunks that came since."""

    rows: Rows
    documents: Rows
    lengths: npt.NDArray[np.int32]
    words: words.Unpacked


def _read_chunks(connection: sqlite3.Connection, after: int) -> _Fresh | None:
    cursor = connection.execute(
        "SELECT row, document, length, terms FROM chunks WHERE row > ? ORDER BY row", (after,)
    )
    blocks: list[tuple[npt.NDArray[np.int64], words.Unpacked]] = []
    while found := cursor.fetchmany(_BLOCK):
        numbers = np.array([row[:3] for row in found], np.int64)
        blocks.append((numbers, words.unpack([row[3] for row in found])))
    if not blocks:
        return None
    numbers = np.concatenate([block for block, _ in blocks])
    unpacked = words.Unpacked(
        *(np.concatenate(arrays) for arrays in zip(*(block for _, block in blocks), strict=True))
    )
    return _Fresh(numbers[:, 0].copy(), numbers[:, 1], numbers[:, 2].astype(np.int32), unpacked)


class View:
    """Not safe for threads: its owner lets in one at a time."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        none = np.zeros(0, np.int64)
        self.state = State(
            seq=-1,
            active=0,
            rows=none,
            documents=none.astype(np.int32),
            document_rows=none,
            lengths=none.astype(np.int32),
            alive=none.astype(np.bool_),
            runs=(),
        )
        self._atoms = Atoms()
        self._sights: OrderedDict[str, tuple[int, Sight]] = OrderedDict()
        self._seen: OrderedDict[str, tuple[int, postings.Seen]] = OrderedDict()
        self._vectors: dict[int, Vectors] = {}
        self._matrices: dict[int, tuple[int, Matrix]] = {}

    def follow(self, connection: sqlite3.Connection) -> State:
        """The state of the record as this connection's transaction sees it."""
        seq, active, forgotten = meta(connection, "seq", "active", "forgotten")
        if seq == self.state.seq:
            return self.state
        if self.state.seq < forgotten:
            self._forget()
        before = self.state
        last = int(before.rows[-1]) if len(before.rows) else 0
        rows, documents, document_rows = before.rows, before.documents, before.document_rows
        lengths, alive, runs = before.lengths, before.alive, before.runs
        fresh = _read_chunks(connection, last)
        if fresh is not None:
            new = np.unique(fresh.documents)
            places = len(document_rows) + np.searchsorted(new, fresh.documents)
            documents = np.concatenate((documents, places.astype(np.int32)))
            document_rows = np.concatenate((document_rows, new))
            rows = np.concatenate((rows, fresh.rows))
            lengths = np.concatenate((lengths, fresh.lengths))
            runs = postings.grow(runs, postings.build(len(before.rows), fresh.words))
        alive = np.concatenate((alive, np.ones(len(rows) - len(alive), np.bool_)))
        gone = connection.execute(
            "SELECT chunk FROM removed WHERE seq > ?", (before.seq,)
        ).fetchall()
        if gone and len(rows):
            wanted = np.fromiter((chunk for (chunk,) in gone), np.int64, len(gone))
            places = np.searchsorted(rows, wanted)
            places[places == len(rows)] = 0
            alive[places[rows[places] == wanted]] = False
        self.state = State(
            seq=seq,
            active=active,
            rows=rows,
            documents=documents,
            document_rows=document_rows,
            lengths=lengths,
            alive=alive,
            runs=runs,
        )
        return self.state

    def matrix(self, connection: sqlite3.Connection, generation: int) -> Matrix:
        """The vectors of the state that was followed to.

        Raises: NotFound.
        """
        seq, known = self._matrices.get(generation, (-1, None))
        if known is not None and seq == self.state.seq:
            return known
        dimensions = dimensions_of(connection, generation)
        (filled,) = connection.execute(
            "SELECT filled FROM generations WHERE number = ?", (generation,)
        ).fetchone()
        kept = self._vectors.get(generation)
        if kept is None or kept.filled != filled:
            kept = self._vectors[generation] = Vectors(generation, dimensions, filled)
        kept.read(connection, self.state.rows)
        made = kept.snapshot()
        self._matrices[generation] = (self.state.seq, made)
        return made

    def adopt(self, matrix: Matrix, lists: Lists) -> None:
        """Take lists that were made of a matrix of this view, unless it has read all anew since."""
        kept = self._vectors.get(matrix.generation)
        if kept is not None and kept.made(matrix):
            kept.adopt(lists)
            self._matrices.pop(matrix.generation, None)

    def sight(self, connection: sqlite3.Connection, scope: Scope) -> Sight:
        """What a scope lets through of the state that was followed to."""
        state = self.state
        who = repr(None if scope.principals is None else sorted(scope.principals))
        key = f"{who} {scope.filter!r}"
        kept = self._sights.get(key)
        if kept is not None and kept[0] == state.seq:
            self._sights.move_to_end(key)
            return kept[1]
        seen = self._see(connection, who, scope.principals)
        allowed = seen.mask
        if scope.filter is not None:
            passing = self._atoms.passing(connection, state.document_rows, scope.filter)
            allowed = allowed & passing[state.documents]
        sight = Sight(allowed=allowed, matching=int(np.count_nonzero(allowed)), seen=seen)
        self._sights[key] = (state.seq, sight)
        while len(self._sights) > _SCOPES:
            self._sights.popitem(last=False)
        return sight

    def _see(
        self, connection: sqlite3.Connection, who: str, principals: frozenset[str] | None
    ) -> postings.Seen:
        state = self.state
        kept = self._seen.get(who)
        if kept is not None and kept[0] == state.seq:
            self._seen.move_to_end(who)
            return kept[1]
        mask = state.alive
        if principals is not None:
            readable = self._atoms.readable(connection, state.document_rows, principals)
            mask = mask & readable[state.documents]
        seen = postings.see(mask, state.lengths)
        self._seen[who] = (state.seq, seen)
        while len(self._seen) > _SCOPES:
            self._seen.popitem(last=False)
        return seen
