"""The scan in C++ and in numpy find the same; what is rounded to bytes is found all the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.kernels import scan
from headrace.kernels.scan import Bytes, Floats, scan_ranges, scan_rows, to_bytes


def vectors(count: int, dims: int, seed: int) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(count, dims)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def as_bytes(rows: Floats, places: "np.ndarray | None" = None) -> Bytes:
    rounded = to_bytes(rows)
    return Bytes(rows=rounded.rows, scales=rounded.scales, sums=rounded.sums, places=places)


@given(
    count=st.integers(0, 80),
    dims=st.sampled_from([1, 7, 32, 64, 100, 384]),
    k=st.integers(1, 20),
    seed=st.integers(0, 9),
    budget=st.sampled_from([-1, 0, 5, 40]),
    masked=st.booleans(),
    named=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_native_and_numpy_agree(
    count: int, dims: int, k: int, seed: int, budget: int, masked: bool, named: bool
) -> None:
    if scan.native() is None:
        pytest.skip("no native kernels here")
    draws = np.random.default_rng(seed)
    places = draws.permutation(count).astype(np.int32) if named else None
    held = as_bytes(vectors(count, dims, seed), places)
    query = vectors(1, dims, seed + 100)[0]
    allowed = draws.random(count) < 0.5 if masked else None
    cuts = np.sort(draws.integers(0, count + 1, 4))
    ranges = np.stack((cuts[:-1], cuts[1:]), axis=1).astype(np.int64)
    wanted = draws.permutation(count)[: count // 2].astype(np.int64)
    found = (
        scan_ranges(held, ranges, query, k, allowed=allowed, budget=budget),
        scan_rows(held, wanted, query, k),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "native", lambda: None)
        same = (
            scan_ranges(held, ranges, query, k, allowed=allowed, budget=budget),
            scan_rows(held, wanted, query, k),
        )
    for a, b in zip(found, same, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5, atol=1e-6)
        assert len(set(a.places.tolist())) == len(a.places) == len(b.places)
        far = np.abs(np.diff(b.scores, append=-9)) > 1e-5  # those that do not tie
        far &= np.abs(np.diff(b.scores, prepend=9)) > 1e-5
        assert (a.places[far] == b.places[far]).all()


def test_bm25_in_cpp_is_numpys() -> None:
    draws = np.random.default_rng(3)
    positions = np.sort(draws.permutation(500)[:200]).astype(np.uint32)
    body, titles = (draws.integers(0, 4, 200).astype(np.uint8) for _ in range(2))
    seen = draws.random(500) < 0.7
    norms = draws.random(500).astype(np.float32) + 0.1
    results: list[Floats] = []
    counts: list[int] = []
    for native in (scan.native(), None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "native", lambda native=native: native)
            scores = np.zeros(500, np.float32)
            scan.bm25_add(
                positions,
                body,
                titles,
                seen=seen,
                norms=norms,
                gain=2.5,
                title_weight=1.5,
                scores=scores,
            )
            results.append(scores)
            counts.append(scan.count_seen(positions, seen))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
    assert counts[0] == counts[1] == int(seen[positions].sum())
    assert not results[0][~seen].any()


@given(count=st.integers(0, 300), words=st.integers(1, 200), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_words_are_grouped_alike(count: int, words: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    known = draws.integers(0, 2**64, words, np.uint64)
    hashes = known[draws.integers(0, words, count)]
    positions = np.arange(count, dtype=np.uint32)
    body, titles = (draws.integers(0, 255, count).astype(np.uint8) for _ in range(2))
    results: list[scan.Grouped] = []
    for native in (scan.native(), None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "native", lambda native=native: native)
            results.append(scan.group(hashes, positions, body, titles))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        assert (a == b).all()
    grouped = results[0]
    assert grouped.words.tolist() == sorted(set(hashes.tolist()))
    for i, word in enumerate(grouped.words):
        own = slice(grouped.starts[i], grouped.starts[i + 1])
        assert grouped.positions[own].tolist() == np.flatnonzero(hashes == word).tolist()
        assert (body[grouped.positions[own]] == grouped.body[own]).all()
        assert (titles[grouped.positions[own]] == grouped.titles[own]).all()


def test_many_words_are_grouped() -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, 50_000, np.uint64)
    hashes = np.concatenate((hashes, hashes[::-1]))
    positions, none = np.arange(100_000, dtype=np.uint32), np.zeros(100_000, np.uint8)
    grouped = scan.group(hashes, positions, none, none)
    assert (np.diff(grouped.starts) == 2).all()
    assert (hashes[grouped.positions] == np.repeat(grouped.words, 2)).all()


def test_bytes_find_the_nearest() -> None:
    rows = vectors(5000, 384, 1)
    held = as_bytes(rows)
    hits = 0
    for query in vectors(50, 384, 2):
        found = scan_ranges(held, np.array([[0, 5000]]), query, 50)
        best = found.places[np.argsort(-(rows[found.places] @ query))[:10]]
        hits += len(set(best.tolist()) & set(np.argsort(-(rows @ query))[:10].tolist()))
    assert hits >= 499
