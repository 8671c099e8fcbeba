"""Sequences of token ids -> flat `PackedBatch`es with documents kept apart, and no padding.

Legend: T = tokens of the batch. Every sequence of n ids gives n - 1 positions (input, target).

Invariants: packing changes neither a sequence's ids nor its positions, only which batch holds it;
`doc_T` never decreases and changes exactly where a sequence ends; the result is a pure function of
the arguments.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from headrace.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRow:
    """One sequence to train on: ids, and how much each counts as a target."""

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    """As long as `ids`; the first is never a target."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """What one forward pass sees."""

    ids_T: npt.NDArray[np.int64]
    targets_T: npt.NDArray[np.int64]
    pos_T: npt.NDArray[np.int64]
    """Position within its document, from 0."""
    doc_T: npt.NDArray[np.int64]
    """Which document a token belongs to; attention never crosses it."""
    weight_T: npt.NDArray[np.float32]
    """How much the target counts in the loss; 0 = not supervised."""

    @property
    def tokens(self) -> int:
        return len(self.ids_T)


def whole(ids: Sequence[int]) -> TokenRow:
    """A row in which every token is a target."""
    return TokenRow(ids=np.asarray(ids, np.int32), weights=np.ones(len(ids), np.float32))


def cut(ids: Sequence[int], *, max_tokens: int) -> list[TokenRow]:
    """A document as rows of at most `max_tokens` positions, about equally long.

    Neighbours share one id, so that every token but the document's first is a target exactly once.
    """
    if max_tokens < 1:
        raise DataError(f"max_tokens {max_tokens} cannot hold a token; give at least 1")
    positions = len(ids) - 1
    if positions < 1:
        return []
    pieces = -(-positions // max_tokens)
    edges = [positions * piece // pieces for piece in range(pieces + 1)]
    return [whole(ids[start : end + 1]) for start, end in pairwise(edges)]


def pack(rows: Iterable[TokenRow], *, max_tokens: int) -> list[PackedBatch]:
    """Rows into batches of at most `max_tokens`: first fit, in the order given.

    Raises:
        DataError: A row longer than a batch, or shorter than two ids.
    """
    bins: list[list[TokenRow]] = []
    room: list[int] = []
    for number, row in enumerate(rows):
        size = len(row.ids) - 1
        if size < 1:
            raise DataError(f"row {number} has {len(row.ids)} ids; a target needs at least two")
        if size > max_tokens:
            raise DataError(
                f"row {number} has {size} positions, a batch holds {max_tokens}; cut it first"
            )
        place = next((i for i, free in enumerate(room) if free >= size), None)
        if place is None:
            bins.append([row])
            room.append(max_tokens - size)
        else:
            bins[place].append(row)
            room[place] -= size
    return [_joined(rows) for rows in bins]


def _joined(rows: Sequence[TokenRow]) -> PackedBatch:
    sizes = [len(row.ids) - 1 for row in rows]
    return PackedBatch(
        ids_T=np.concatenate([row.ids[:-1] for row in rows]).astype(np.int64),
        targets_T=np.concatenate([row.ids[1:] for row in rows]).astype(np.int64),
        pos_T=np.concatenate([np.arange(size) for size in sizes]).astype(np.int64),
        doc_T=np.repeat(np.arange(len(rows)), sizes).astype(np.int64),
        weight_T=np.concatenate([row.weights[1:] for row in rows]).astype(np.float32),
    )
