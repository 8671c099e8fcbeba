"""Signatures -> clusters of near-duplicates, and the one of each that stays.

Locality-sensitive hashing proposes pairs: signatures are cut into bands of r rows, and documents
that agree in any of the b bands are candidates, which a pair of similarity J is with probability
1 - (1 - J^r)^b (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4). A candidate counts
only if the exact Jaccard similarity of its shingles reaches the threshold, so false candidates cost
time, never documents. Pairs join by union-find (Tarjan 1975): near-duplicates of near-duplicates
are one cluster.

Invariant: the result is a pure function of signatures, shingles and lengths in their order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from headrace.data.minhash import Signature
from headrace.data.words import mixed
from headrace.errors import DataError

Shingles = Callable[[int], npt.NDArray[np.uint32]]
"""Document -> its shingles' hashes, sorted and without repetition."""

_ALL_PAIRS = 64
"""Up to so many documents of a bucket, every pair is compared; beyond, each with leaders."""
_DEVIATIONS = 4.0
"""A pair whose estimate lies so many standard deviations below the threshold is not looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bands:
    """How signatures are cut."""

    count: int
    rows: int

    def recall(self, similarity: float) -> float:
        """The probability that a pair of this similarity becomes a candidate."""
        return 1.0 - (1.0 - similarity**self.rows) ** self.count


def bands_for(permutations: int, threshold: float, *, recall: float = 0.995) -> Bands:
    """The longest bands, hence the fewest false candidates, that find `recall` at the threshold.

    Raises:
        DataError: A threshold outside (0, 1], or too few permutations for this recall.
    """
    if not 0.0 < threshold <= 1.0:
        raise DataError(f"similarity threshold {threshold} is not above 0 and at most 1")
    for rows in range(permutations, 0, -1):
        bands = Bands(count=permutations // rows, rows=rows)
        if bands.recall(threshold) >= recall:
            return bands
    raise DataError(
        f"{permutations} permutations cannot find {recall:.1%} of the pairs at similarity "
        f"{threshold}; take more permutations or a higher threshold"
    )


def buckets(signatures_DP: Signature, bands: Bands) -> Iterator[npt.NDArray[np.int64]]:
    """The groups of two or more documents that agree in a band, each in ascending order."""
    factors = mixed(np.arange(1, bands.rows + 1, dtype=np.uint64)) | np.uint64(1)
    for band in range(bands.count):
        rows = signatures_DP[:, band * bands.rows : (band + 1) * bands.rows].astype(np.uint64)
        keys_D = mixed((mixed(rows) * factors).sum(axis=1, dtype=np.uint64))
        order = np.argsort(keys_D, kind="stable")
        edges = np.flatnonzero(np.diff(keys_D[order])) + 1
        for group in np.split(order, edges):
            if len(group) > 1:
                yield group


def clusters(
    signatures_DP: Signature, shingles: Shingles, *, bands: Bands, threshold: float
) -> npt.NDArray[np.int64]:
    """For each document the lowest index of its cluster; its own where it has no near-duplicate."""
    found = _Clusters(signatures_DP, shingles, threshold)
    for group in buckets(signatures_DP, bands):
        found.join(group)
    return found.union.labels()


def survivors(labels_D: npt.NDArray[np.int64], lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """For each document the one of its cluster that stays: the longest, of equals the first."""
    best: dict[int, int] = {}
    for document, label in enumerate(labels_D.tolist()):
        held = best.setdefault(label, document)
        if lengths[document] > lengths[held]:
            best[label] = document
    return np.array([best[label] for label in labels_D.tolist()], np.int64)


def jaccard(left: npt.NDArray[np.uint32], right: npt.NDArray[np.uint32]) -> float:
    """The similarity of two sorted sets; of two empty ones 1."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    total = len(left) + len(right) - shared
    return shared / total if total else 1.0


class Union:
    """Disjoint sets of integers whose name is their lowest member."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, item: int) -> int:
        """The lowest member of the item's set."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:  # path compression
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, left: int, right: int) -> None:
        """Make the two items' sets one."""
        left, right = self.find(left), self.find(right)
        self._parent[max(left, right)] = min(left, right)

    def labels(self) -> npt.NDArray[np.int64]:
        """Each item's set."""
        return np.array([self.find(item) for item in range(len(self._parent))], np.int64)


class _Clusters:
    def __init__(self, signatures_DP: Signature, shingles: Shingles, threshold: float) -> None:
        self.union = Union(len(signatures_DP))
        self._signatures = signatures_DP
        self._shingles = shingles
        self._threshold = threshold
        deviation = (threshold * (1.0 - threshold) / signatures_DP.shape[1]) ** 0.5
        self._floor = threshold - _DEVIATIONS * deviation
        self._refused: set[tuple[int, int]] = set()
        """Pairs seen in an earlier bucket and found too different."""

    def join(self, group: npt.NDArray[np.int64]) -> None:
        if len(group) <= _ALL_PAIRS:
            for left, right in combinations(group.tolist(), 2):
                self._compare(left, right)
            return
        # A huge bucket is boilerplate: nearly all of it is near its first document, and is done
        # once it has joined that leader; what has not is compared with the next leader.
        rest = group
        while len(rest) > 1:
            leader = int(rest[0])
            close = (self._signatures[rest[1:]] == self._signatures[leader]).mean(axis=1)
            for place in np.flatnonzero(close >= self._floor):
                self._compare(leader, int(rest[1 + place]))
            root = self.union.find(leader)
            rest = np.array([item for item in rest[1:].tolist() if self.union.find(item) != root])

    def _compare(self, left: int, right: int) -> None:
        if self.union.find(left) == self.union.find(right) or (left, right) in self._refused:
            return
        estimate = np.mean(self._signatures[left] == self._signatures[right])
        if (
            estimate >= self._floor
            and jaccard(self._shingles(left), self._shingles(right)) >= self._threshold
        ):
            self.union.join(left, right)
        else:
            self._refused.add((left, right))
