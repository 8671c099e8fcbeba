"""Sets of 32-bit hashes -> MinHash signatures, equal to datasketch's for the same permutations.

The share of equal places in two signatures estimates the sets' Jaccard similarity, with standard
deviation sqrt(J (1 - J) / P) (Broder, "On the Resemblance and Containment of Documents", 1997).

Legend: P = permutations, S = hashes of a set, D = sets.

Two schemes, named as in datasketch 2: `affine32` mixes a hash once (MurmurHash3's fmix32) and takes
a·h + b modulo 2^32 with a odd, a bijection; `legacy` is (a·h + b) modulo the prime 2^61 - 1, cut to
32 bits, which datasketch before 2.0 had, its overflow at 2^64 included.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from headrace.errors import DataError

Signature = npt.NDArray[np.uint32]

_PRIME = (1 << 61) - 1
_EMPTY = np.uint32(0xFFFFFFFF)
_BATCH = 1 << 16
"""Hashes permuted at a time: three arrays of so many stay in a core's cache."""


class Scheme(StrEnum):
    """How a permutation is made of its two numbers."""

    AFFINE32 = "affine32"
    LEGACY = "legacy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Permutations:
    """The functions whose minima a signature holds."""

    a_P: npt.NDArray[np.uint64]
    b_P: npt.NDArray[np.uint64]
    scheme: Scheme = Scheme.AFFINE32

    @classmethod
    def of(cls, count: int, *, seed: int = 1, scheme: Scheme = Scheme.AFFINE32) -> "Permutations":
        """Those that datasketch draws for `num_perm=count` and this seed.

        Raises:
            DataError: Fewer than one.
        """
        if count < 1:
            raise DataError(f"{count} permutations give no signature; ask for at least 1")
        random = np.random.RandomState(seed)
        if scheme is Scheme.LEGACY:
            pairs = [
                (
                    random.randint(1, _PRIME, dtype=np.uint64),
                    random.randint(0, _PRIME, dtype=np.uint64),
                )
                for _ in range(count)
            ]
            a_P, b_P = np.array(pairs, np.uint64).T
            return cls(a_P=a_P, b_P=b_P, scheme=scheme)
        a_P = random.randint(0, 1 << 31, count, dtype=np.uint32).astype(np.uint64) * 2 + 1
        b_P = random.randint(0, 1 << 32, count, dtype=np.uint32).astype(np.uint64)
        return cls(a_P=a_P.astype(np.uint64), b_P=b_P, scheme=scheme)

    def __len__(self) -> int:
        return len(self.a_P)


def sha1_hashes(shingles: Iterable[bytes]) -> npt.NDArray[np.uint32]:
    """datasketch's own hash of a shingle, for signatures that have to compare with its."""
    return np.array(
        [int.from_bytes(hashlib.sha1(item).digest()[:4], "little") for item in shingles], np.uint32
    )


def signature(hashes_S: npt.NDArray[np.uint32], permutations: Permutations) -> Signature:
    """The signature of one set; repeated hashes change nothing, an empty set is all ones."""
    return signatures([hashes_S], permutations)[0]


def signatures(sets: Sequence[npt.NDArray[np.uint32]], permutations: Permutations) -> Signature:
    """The signatures of many sets, [D, P]: one pass over all their hashes for each permutation."""
    made = np.full((len(sets), len(permutations)), _EMPTY, np.uint32)
    begin = 0
    while begin < len(sets):
        end, size = begin, 0
        while end < len(sets) and (size == 0 or size + len(sets[end]) <= _BATCH):
            size += len(sets[end])
            end += 1
        _fill(made[begin:end], sets[begin:end], permutations)
        begin = end
    return made


def similarity(left: Signature, right: Signature) -> float:
    """The estimate of the Jaccard similarity."""
    return float(np.count_nonzero(left == right)) / len(left)


def _fill(
    made_DP: Signature, sets: Sequence[npt.NDArray[np.uint32]], permutations: Permutations
) -> None:
    filled = [place for place, hashes in enumerate(sets) if len(hashes)]
    if not filled:
        return
    hashes_S = np.concatenate([sets[place] for place in filled])
    starts = np.cumsum([0, *(len(sets[place]) for place in filled[:-1])])
    mins_PD = np.empty((len(permutations), len(filled)), np.uint32)
    if permutations.scheme is Scheme.LEGACY:
        wide_S = hashes_S.astype(np.uint64)
        for place, (a, b) in enumerate(zip(permutations.a_P, permutations.b_P, strict=True)):
            values_S = ((wide_S * a + b) % np.uint64(_PRIME)) & np.uint64(_EMPTY)
            mins_PD[place] = np.minimum.reduceat(values_S, starts)
    else:
        mixed_S = _fmix32(hashes_S)
        values_S = np.empty_like(mixed_S)
        a_P, b_P = permutations.a_P.astype(np.uint32), permutations.b_P.astype(np.uint32)
        for place, (a, b) in enumerate(zip(a_P, b_P, strict=True)):
            np.multiply(mixed_S, a, out=values_S)
            np.add(values_S, b, out=values_S)
            np.minimum.reduceat(values_S, starts, out=mins_PD[place])
    made_DP[filled] = mins_PD.T


def _fmix32(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))
