"""Vectors in lists of neighbours: which are looked at for a question, and which not.

An inverted file (Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", 2011):
k-means on the sphere makes centres, each vector lies with its nearest, and a question looks at the
lists of the centres nearest to it until it has seen enough vectors that it may see. That a filter
lets few of them through only makes it look further, so a filtered search finds as well as one that
is not.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.kernels.scan import Bytes, Floats, Places

_ROUNDS = 6
_SAMPLES_PER_LIST = 40
_BLOCK = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """The vectors of the first places of an index, by neighbourhood."""

    centres: Floats
    starts: npt.NDArray[np.int64]
    """First row of each list; one more than lists."""
    vectors: Bytes
    """List by list."""
    row_of: npt.NDArray[np.int64]
    """Of each place."""

    @property
    def count(self) -> int:
        return len(self.row_of)

    def ranges(self, query: Floats) -> npt.NDArray[np.int64]:
        """The lists, nearest first, as first row and end."""
        order = np.argsort(-(self.centres @ query))
        return np.stack((self.starts[order], self.starts[order + 1]), axis=1)


def arrange(vectors: Bytes, lists: int, *, seed: int = 1) -> Lists:
    """Lists of vectors that lie in order of their places.

    Args:
        vectors: Without names of their own.
        lists: Wanted; fewer where there are too few vectors.
        seed: Equal seeds and vectors give equal lists.
    """
    count = len(vectors.rows)
    lists = max(1, min(lists, count))
    draws = np.random.default_rng(seed)
    sample = np.sort(draws.permutation(count)[: lists * _SAMPLES_PER_LIST])
    centres = _centres(vectors.floats(sample), lists, draws)
    nearest = np.concatenate(
        [
            _nearest(vectors.floats(slice(i, min(i + _BLOCK, count))), centres)
            for i in range(0, count, _BLOCK)
        ]
    )
    order = np.argsort(nearest, kind="stable")
    row_of = np.empty(count, np.int64)
    row_of[order] = np.arange(count)
    return Lists(
        centres=centres,
        starts=np.searchsorted(nearest[order], np.arange(lists + 1)).astype(np.int64),
        vectors=Bytes(
            rows=np.ascontiguousarray(vectors.rows[order]),
            scales=vectors.scales[order],
            sums=vectors.sums[order],
            places=order.astype(np.int32),
        ),
        row_of=row_of,
    )


def _centres(rows: Floats, lists: int, draws: np.random.Generator) -> Floats:
    centres = rows[draws.permutation(len(rows))[:lists]].copy()
    for _ in range(_ROUNDS):
        nearest = np.concatenate(
            [_nearest(rows[i : i + _BLOCK], centres) for i in range(0, len(rows), _BLOCK)]
        )
        order = np.argsort(nearest, kind="stable")
        held, starts = np.unique(nearest[order], return_index=True)
        centres[held] = np.add.reduceat(rows[order], starts, axis=0)
        lengths = np.linalg.norm(centres, axis=1, keepdims=True)
        centres /= np.maximum(lengths, 1e-12)
        empty = np.setdiff1d(np.arange(lists), held)
        centres[empty] = rows[draws.integers(0, len(rows), len(empty))]
    return centres


def _nearest(rows: Floats, centres: Floats) -> npt.NDArray[np.int64]:
    return np.argmax(rows @ centres.T, axis=1)


def take(lists: Lists, places: Places) -> Bytes:
    """The vectors of some places, in order."""
    rows = lists.row_of[places]
    vectors = lists.vectors
    return Bytes(rows=vectors.rows[rows], scales=vectors.scales[rows], sums=vectors.sums[rows])
