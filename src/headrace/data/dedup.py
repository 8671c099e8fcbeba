"""All units' hashes and signatures -> which documents are duplicates, and of what kind.

Exact duplicates first: of documents with one content hash the first stays. Of what is left,
near-duplicates: of each cluster the longest stays, of equals the first. First is by order of
sources, files and records.

Invariant: the outcome depends on the documents in their order alone, not on how they were split
into units or on who cleaned them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.data import atomic, clean
from headrace.data.near import clusters, survivors
from headrace.data.plan import Near, Plan

KEPT, EXACT, NEAR = 0, 1, 2
REASONS = {EXACT: "exact_duplicate", NEAR: "near_duplicate"}
_CACHED = 20_000
"""Shingle sets held while pairs are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was found, for the report."""

    documents: int
    exact: int
    near: int
    clusters: int
    """Groups of two or more near-duplicates."""
    largest_cluster: int


def fates_path(work: Path) -> Path:
    """Where the fate of each document of each unit is."""
    return work / "dedup.npz"


def deduplicate(plan: Plan, work: Path, count: int) -> Outcome:
    """Decide about all documents of `count` units; the fates go into the working directory."""
    arrays = [_load(work, number) for number in range(count)]
    sizes = [len(part["lengths"]) for part in arrays]
    unit_D = np.repeat(np.arange(count), sizes)
    place_D = np.concatenate([np.arange(size) for size in sizes])
    order_D2 = np.concatenate([part["order"] for part in arrays])
    lengths_D = np.concatenate([part["lengths"] for part in arrays])
    ranked = np.lexsort((order_D2[:, 1], order_D2[:, 0]))
    fates_D = np.zeros(len(ranked), np.uint8)
    if plan.exact:
        hashes_D2 = np.concatenate([part["hashes"] for part in arrays])[ranked]
        _, first = np.unique(hashes_D2, axis=0, return_index=True)
        fates_D[ranked] = EXACT
        fates_D[ranked[first]] = KEPT
    groups: list[int] = []
    if plan.near is not None:
        left = ranked[fates_D[ranked] == KEPT]
        signatures_DP = np.concatenate([part["signatures"] for part in arrays])[left]
        offsets = [part["offsets"] for part in arrays]
        shingles = _reader(work, plan.near, unit_D[left], place_D[left], offsets)
        labels = clusters(
            signatures_DP, shingles, bands=plan.near.bands(), threshold=plan.near.threshold
        )
        stays = survivors(labels, lengths_D[left].tolist())
        fates_D[left[stays != np.arange(len(left))]] = NEAR
        _, members = np.unique(labels, return_counts=True)
        groups = members[members > 1].tolist()
    edges = np.cumsum(sizes)[:-1]
    fates = {f"unit-{number}": part for number, part in enumerate(np.split(fates_D, edges))}
    atomic.write_arrays(fates_path(work), fates)
    return Outcome(
        documents=len(fates_D),
        exact=int(np.count_nonzero(fates_D == EXACT)),
        near=int(np.count_nonzero(fates_D == NEAR)),
        clusters=len(groups),
        largest_cluster=max(groups, default=0),
    )


def fates(work: Path, number: int) -> npt.NDArray[np.uint8]:
    """The fates of a unit's documents, in their order."""
    with np.load(fates_path(work)) as held:
        return held[f"unit-{number}"]


def _load(work: Path, number: int) -> dict[str, npt.NDArray[Any]]:
    with np.load(clean.arrays_path(work, number)) as held:
        return {name: held[name] for name in held}


def _reader(
    work: Path,
    near: Near,
    unit_D: npt.NDArray[np.int64],
    place_D: npt.NDArray[np.int64],
    offsets: Sequence[npt.NDArray[np.int64]],
) -> Callable[[int], npt.NDArray[np.uint32]]:
    """Shingles of the documents that are compared at all, made again from their texts."""

    @lru_cache(maxsize=_CACHED)
    def shingles(document: int) -> npt.NDArray[np.uint32]:
        unit, place = int(unit_D[document]), int(place_D[document])
        begin, end = offsets[unit][place : place + 2].tolist()
        with clean.texts_path(work, unit).open("rb") as file:
            file.seek(begin)
            text: str = json.loads(file.read(end - begin))["text"]
        return clean.shingles(text, near)

    return shingles
