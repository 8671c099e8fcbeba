"""Searching an index: the nearest of many vectors of bytes, and BM25 of one word, numpy beside C++.

No torch here: whoever searches an index has none. `Bytes` are vectors of length 1 rounded to 8 bits
with a scale a row; what they find is looked at again in full precision by who asks.
"""

import ctypes
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.kernels.library import Library, library

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_BLOCK = 4096


class _BytesStruct(ctypes.Structure):
    """`hr_bytes`."""

    _fields_ = (
        ("dims", c_int32),
        *((name, c_void_p) for name in ("rows", "scales", "sums", "places")),
    )


_P = c_void_p
_DECLARATIONS = {
    "hr_scan_ranges": (
        c_int,
        (POINTER(_BytesStruct), _P, c_int, _P, c_int64, _P, c_float, c_int, _P, _P),
    ),
    "hr_scan_rows": (c_int, (POINTER(_BytesStruct), c_int64, _P, _P, c_float, c_int, _P, _P)),
    "hr_group": (c_int64, (c_int64, *(_P,) * 9)),
    "hr_count_seen": (c_int64, (c_int64, _P, _P)),
    "hr_bm25_add": (c_int, (c_int64, _P, _P, _P, _P, _P, c_float, c_float, _P)),
}


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


class Rounded(NamedTuple):
    """Vectors as bytes."""

    rows: npt.NDArray[np.int8]
    scales: Floats
    sums: npt.NDArray[np.int32]


def to_bytes(rows: Floats) -> Rounded:
    """Round each row to -127..127 of its own largest number."""
    scales = np.maximum(np.abs(rows).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    rounded = np.rint(rows / scales[:, None]).astype(np.int8)
    return Rounded(rounded, scales, rounded.sum(axis=1, dtype=np.int32))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bytes:
    """Vectors to look among."""

    rows: npt.NDArray[np.int8]
    scales: Floats
    sums: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32] | None = None
    """What each row is called; None = its index."""

    def floats(self, rows: slice | Places) -> Floats:
        """Back, but for what rounding took."""
        return self.rows[rows].astype(np.float32) * self.scales[rows, None]

    def named(self, rows: Places) -> Places:
        return rows if self.places is None else self.places[rows].astype(np.int64)


class Nearest(NamedTuple):
    """Best first, of equals the lower place."""

    places: Places
    scores: Floats


def scan_ranges(
    vectors: Bytes,
    ranges: npt.NDArray[np.int64],
    query: Floats,
    k: int,
    *,
    allowed: Mask | None = None,
    budget: int = -1,
) -> Nearest:
    """The k nearest of the rows in these ranges.

    Args:
        vectors: Contiguous arrays.
        ranges: [count, 2], first row and end, in the order in which they are looked at.
        query: Of length 1.
        k: At most so many.
        allowed: By place; None = all.
        budget: No further range is begun once so many allowed rows were seen; below 0 = all.
    """
    lib = native()
    if lib is None:
        return _ranges_numpy(vectors, ranges, query, k, allowed, budget)
    q, places, scores = to_bytes(query[None]), np.empty(k, np.int32), np.empty(k, np.float32)
    ranges = np.ascontiguousarray(ranges, np.int64)
    count = lib.hr_scan_ranges(
        _struct(vectors),
        None if allowed is None else allowed.ctypes.data,
        len(ranges),
        ranges.ctypes.data,
        budget,
        q.rows.ctypes.data,
        float(q.scales[0]),
        k,
        places.ctypes.data,
        scores.ctypes.data,
    )
    return _taken(count, places, scores)


def scan_rows(vectors: Bytes, wanted: Places, query: Floats, k: int) -> Nearest:
    """The k nearest of these rows."""
    lib = native()
    if lib is None:
        return _best(vectors, wanted, query, k)
    q, places, scores = to_bytes(query[None]), np.empty(k, np.int32), np.empty(k, np.float32)
    wanted = np.ascontiguousarray(wanted, np.int64)
    count = lib.hr_scan_rows(
        _struct(vectors),
        len(wanted),
        wanted.ctypes.data,
        q.rows.ctypes.data,
        float(q.scales[0]),
        k,
        places.ctypes.data,
        scores.ctypes.data,
    )
    return _taken(count, places, scores)


class Grouped(NamedTuple):
    """Who has a word, word by word."""

    words: npt.NDArray[np.uint64]
    """Each once, ascending."""
    starts: Places
    """Where each word's begin in the arrays below; one more than words."""
    positions: npt.NDArray[np.uint32]
    body: npt.NDArray[np.uint8]
    titles: npt.NDArray[np.uint8]


def group(
    hashes: npt.NDArray[np.uint64],
    positions: npt.NDArray[np.uint32],
    body: npt.NDArray[np.uint8],
    titles: npt.NDArray[np.uint8],
) -> Grouped:
    """Arrays of one length, ordered by hash; of equal hashes as they came."""
    lib = native()
    if lib is None:
        return _grouped_numpy(hashes, positions, body, titles)
    count = len(hashes)
    given = [np.ascontiguousarray(array) for array in (hashes, positions, body, titles)]
    words, starts = np.empty(count, np.uint64), np.empty(count + 1, np.int64)
    ordered = (np.empty(count, np.uint32), np.empty(count, np.uint8), np.empty(count, np.uint8))
    pointers = [array.ctypes.data for array in (*given, words, starts, *ordered)]
    found = lib.hr_group(count, *pointers)
    return Grouped(words[:found].copy(), starts[: found + 1].copy(), *ordered)


def _grouped_numpy(
    hashes: npt.NDArray[np.uint64],
    positions: npt.NDArray[np.uint32],
    body: npt.NDArray[np.uint8],
    titles: npt.NDArray[np.uint8],
) -> Grouped:
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    first = np.flatnonzero(np.concatenate((np.ones(1, np.bool_), ordered[1:] != ordered[:-1])))
    first = first[: len(ordered)]  # no hashes have no first
    starts = np.append(first, len(ordered)).astype(np.int64)
    return Grouped(ordered[first], starts, positions[order], body[order], titles[order])


def count_seen(positions: npt.NDArray[np.uint32], seen: Mask) -> int:
    """How many of these positions may be seen."""
    lib = native()
    if lib is None or not positions.flags.c_contiguous:
        return int(np.count_nonzero(seen[positions]))
    return lib.hr_count_seen(len(positions), positions.ctypes.data, seen.ctypes.data)


def bm25_add(
    positions: npt.NDArray[np.uint32],
    body: npt.NDArray[np.uint8],
    titles: npt.NDArray[np.uint8],
    *,
    seen: Mask,
    norms: Floats,
    gain: float,
    title_weight: float,
    scores: Floats,
) -> None:
    """scores[p] += gain * times / (times + norms[p]) for each position that may be seen."""
    lib = native()
    if lib is not None:
        lib.hr_bm25_add(
            len(positions),
            positions.ctypes.data,
            body.ctypes.data,
            titles.ctypes.data,
            seen.ctypes.data,
            norms.ctypes.data,
            gain,
            title_weight,
            scores.ctypes.data,
        )
        return
    times = body.astype(np.float32) + np.float32(title_weight) * titles
    scores[positions] += seen[positions] * (np.float32(gain) * times / (times + norms[positions]))


def _struct(vectors: Bytes) -> _BytesStruct:
    return _BytesStruct(
        vectors.rows.shape[1],
        vectors.rows.ctypes.data,
        vectors.scales.ctypes.data,
        vectors.sums.ctypes.data,
        None if vectors.places is None else vectors.places.ctypes.data,
    )


def _taken(count: int, places: npt.NDArray[np.int32], scores: Floats) -> Nearest:
    if count < 0:
        raise ValueError(f"the scan refused its arguments: {count}")
    return Nearest(places[:count].astype(np.int64), scores[:count])


def _ranges_numpy(
    vectors: Bytes,
    ranges: npt.NDArray[np.int64],
    query: Floats,
    k: int,
    allowed: Mask | None,
    budget: int,
) -> Nearest:
    wanted: list[Places] = []
    seen = 0
    for first, end in ranges.tolist():
        if 0 <= budget <= seen:
            break
        rows = np.arange(first, end)
        if allowed is not None:
            rows = rows[allowed[vectors.named(rows)]]
        wanted.append(rows)
        seen += len(rows)
    rows = np.concatenate(wanted) if wanted else np.zeros(0, np.int64)
    return _best(vectors, rows, query, k)


def _best(vectors: Bytes, wanted: Places, query: Floats, k: int) -> Nearest:
    q = to_bytes(query[None])
    asked = q.rows[0].astype(
        np.float32
    )  # products of bytes are exact in float32 up to 1,000 of them
    scores = np.empty(len(wanted), np.float32)
    for i in range(0, len(wanted), _BLOCK):
        some = wanted[i : i + _BLOCK]
        products = vectors.rows[some].astype(np.float32) @ asked
        scores[i : i + len(some)] = products * vectors.scales[some] * q.scales[0]
    places = vectors.named(wanted)
    order = np.lexsort((places, -scores))[:k]
    return Nearest(places[order], scores[order])
