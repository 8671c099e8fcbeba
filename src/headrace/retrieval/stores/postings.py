"""Words of chunks → which chunks have a word; BM25 over those that a reader may see.

An inverted index in runs that are never changed, like the levels of a log-structured tree: a new
one for what was put last, two merged to one where the older is not twice as large. Chunks are
positions 0, 1, ... in order of arrival. Robertson and Zaragoza, "The Probabilistic Relevance
Framework: BM25 and Beyond", 2009, with Lucene's idf, which is never negative; title and headings
count `TITLE_WEIGHT` times (their BM25F).

Invariant: how many chunks have a word is counted among those that the reader may see, so a score
says nothing of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.kernels.scan import Floats, Mask, bm25_add, count_seen, group
from headrace.retrieval.stores.words import Hashes, Unpacked

K1 = 1.2
B = 0.75
TITLE_WEIGHT = 1.5

Positions = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """An inverted index of the chunks at positions [first, first + chunks)."""

    first: int
    chunks: int
    words: Hashes
    """Sorted."""
    starts: npt.NDArray[np.int64]
    """Where each word's chunks begin in the arrays below; one more than words."""
    positions: Positions
    """Ascending for each word."""
    body: Counts
    titles: Counts


def build(first: int, unpacked: Unpacked) -> Run:
    """The run of chunks that lie one after the other."""
    chunks = len(unpacked.counts)
    positions = np.repeat(np.arange(first, first + chunks, dtype=np.uint32), unpacked.counts)
    return _sorted(first, chunks, unpacked.hashes, positions, unpacked.body, unpacked.titles)


def merge(older: Run, newer: Run) -> Run:
    """One run of two neighbours."""
    a, b = (np.repeat(run.words, np.diff(run.starts)) for run in (older, newer))
    return _sorted(
        older.first,
        older.chunks + newer.chunks,
        np.concatenate((a, b)),
        np.concatenate((older.positions, newer.positions)),
        np.concatenate((older.body, newer.body)),
        np.concatenate((older.titles, newer.titles)),
    )


def _sorted(
    first: int, chunks: int, hashes: Hashes, positions: Positions, body: Counts, titles: Counts
) -> Run:
    grouped = group(hashes, positions, body, titles)  # positions stay ascending
    return Run(
        first=first,
        chunks=chunks,
        words=grouped.words,
        starts=grouped.starts,
        positions=grouped.positions,
        body=grouped.body,
        titles=grouped.titles,
    )


def grow(runs: tuple[Run, ...], newer: Run) -> tuple[Run, ...]:
    """With one more run, merged so that there are few; the first is left alone."""
    kept = list(runs)
    while len(kept) > 1 and kept[-1].chunks < 2 * newer.chunks:
        newer = merge(kept.pop(), newer)
    return (*kept, newer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a reader may see of the chunks, whatever else was asked."""

    mask: Mask
    chunks: int
    mean_length: float
    norms: Floats
    """K1 * (1 - B + B * length / mean length) of each position."""


def see(mask: Mask, lengths: npt.NDArray[np.int32]) -> Seen:
    """The statistics of the chunks in a mask."""
    chunks = int(np.count_nonzero(mask))
    mean = float(lengths[mask].mean()) if chunks else 1.0
    norms = (K1 * (1 - B + B * lengths / max(mean, 1e-9))).astype(np.float32)
    return Seen(mask=mask, chunks=chunks, mean_length=mean, norms=norms)


def score(runs: Sequence[Run], terms: Sequence[int], seen: Seen) -> Floats:
    """BM25 of every position; 0 = it has none of the words, or must not be seen."""
    scores = np.zeros(len(seen.mask), np.float32)
    wanted = np.array(terms, np.uint64)
    places = [np.searchsorted(run.words, wanted) for run in runs]
    for i, term in enumerate(terms):
        slices: list[tuple[Positions, Counts, Counts]] = []
        for run, place in zip(runs, places, strict=True):
            at = int(place[i])
            if at < len(run.words) and int(run.words[at]) == term:
                s = slice(int(run.starts[at]), int(run.starts[at + 1]))
                slices.append((run.positions[s], run.body[s], run.titles[s]))
        holders = sum(count_seen(positions, seen.mask) for positions, _, _ in slices)
        if not holders:
            continue
        idf = float(np.log1p((seen.chunks - holders + 0.5) / (holders + 0.5)))
        for positions, body, titles in slices:
            bm25_add(
                positions,
                body,
                titles,
                seen=seen.mask,
                norms=seen.norms,
                gain=idf * (K1 + 1),
                title_weight=TITLE_WEIGHT,
                scores=scores,
            )
    return scores


def best(scores: Floats, allowed: Mask, k: int) -> npt.NDArray[np.int64]:
    """The k positions of the highest scores above 0, best first, the earlier where they tie."""
    found = np.flatnonzero((scores > 0) & allowed)
    if len(found) > k:
        values = scores[found]
        least = np.partition(values, len(values) - k)[len(values) - k]
        found = found[values >= least]  # all that tie with the last
    order = np.lexsort((found, -scores[found]))
    return found[order[:k]]
