"""A step's block tables and lengths → one row of int32 for the device, with its work lists.

What the attention kernels are given is laid out on the host: a sequence with one row (decode) is
cut into splits of `SPLIT_TOKENS` cached tokens at fixed positions, so that where a row's sum is cut
depends on the row's position alone; a sequence with more rows is cut into tiles of queries. All of
it lies in one buffer: a step costs one copy to the device, and a captured graph reads the same
addresses whatever the step. `Capacity` says how much room each part has.

Shapes: T rows, S sequences, B blocks of the longest table, W pieces of work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Int32s = NDArray[np.int32]

SPLIT_TOKENS = 128
"""Cached tokens of one piece of a decode row: a single tile, so that even one short sequence keeps
more than one multiprocessor busy per key head; the partial results it leaves are under 4 % of the
keys and values it reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """Room for a step; of a captured graph the largest step it takes."""

    rows: int
    sequences: int
    blocks: int
    """Entries of all block tables, S * B."""
    splits: int
    """Pieces of decode rows, for one window width."""
    tiles: int
    """Tiles of queries of longer sequences."""

    def holds(self, other: "Capacity") -> bool:
        """A step of the other size fits."""
        return (
            self.rows >= other.rows
            and self.sequences >= other.sequences
            and self.blocks >= other.blocks
            and self.splits >= other.splits
            and self.tiles >= other.tiles
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HostStep:
    """A step laid out in numpy."""

    capacity: Capacity
    """What it takes, exactly."""
    ids_T: Int32s
    pos_T: Int32s
    slots_T: Int32s
    row_start_S1: Int32s
    context_S: Int32s
    blocks_SB: Int32s
    splits: Mapping[int, "HostSplits"]
    """By window; 0 = none."""
    tiles_W2: Int32s
    """Sequence, and first row within it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSplits:
    """Decode rows cut at fixed positions."""

    pieces_W2: Int32s
    """Sequence, and which split of it."""
    first_S1: Int32s
    """First piece of each sequence, and W; empty for sequences of several rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """`HostSplits` on the device."""

    pieces_W2: Tensor
    first_S1: Tensor
    count: int
    """Pieces there is room for; how many there are is `first_S1[-1]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """Views of one int32 buffer on the device."""

    ids_T: Tensor
    pos_T: Tensor
    slots_T: Tensor
    row_start_S1: Tensor
    context_S: Tensor
    width_1: Tensor
    """B: entries of a row of `blocks`."""
    blocks: Tensor
    splits: Mapping[int, Splits]
    tiles_W2: Tensor
    tiles: int
    """Tiles of this step; 0 in a captured graph."""
    decodes: bool
    """Some sequence may have a single row."""


def lay_out(
    ids_T: Int32s,
    pos_T: Int32s,
    row_start_S1: Int32s,
    context_S: Int32s,
    blocks_SB: Int32s,
    *,
    block_tokens: int,
    windows: Sequence[int],
    tile_rows: int,
) -> HostStep:
    """Find every row's slot and cut the step into work.

    Args:
        ids_T: Token ids.
        pos_T: Position of each row in its sequence.
        row_start_S1: First row of each sequence, and T.
        context_S: Tokens of each sequence, this step's included.
        blocks_SB: Block tables; columns past the longest context are left out.
        block_tokens: Tokens of a block.
        windows: Widths of sliding windows that occur in the model; 0 = none.
        tile_rows: Rows of a tile of queries.
    """
    longest = int(context_S.max(initial=1))
    blocks_SB = np.ascontiguousarray(blocks_SB[:, : -(-longest // block_tokens)])
    rows_S = np.diff(row_start_S1)
    sequence_T = np.repeat(np.arange(len(rows_S)), rows_S)
    slots_T = blocks_SB[sequence_T, pos_T // block_tokens] * block_tokens + pos_T % block_tokens
    splits = {window: _split(rows_S, context_S, window) for window in windows}
    tiles_W2 = _tile(rows_S, context_S, tile_rows)
    return HostStep(
        capacity=Capacity(
            rows=len(ids_T),
            sequences=len(rows_S),
            blocks=blocks_SB.size,
            splits=max((len(split.pieces_W2) for split in splits.values()), default=0),
            tiles=len(tiles_W2),
        ),
        ids_T=ids_T,
        pos_T=pos_T,
        slots_T=slots_T.astype(np.int32),
        row_start_S1=row_start_S1,
        context_S=context_S,
        blocks_SB=blocks_SB,
        splits=splits,
        tiles_W2=tiles_W2,
    )


def _split(rows_S: Int32s, context_S: Int32s, window: int) -> HostSplits:
    earliest_S = np.maximum(context_S - window, 0) if window else np.zeros_like(context_S)
    skipped_S = earliest_S // SPLIT_TOKENS
    pieces_S = np.where(rows_S == 1, -(-context_S // SPLIT_TOKENS) - skipped_S, 0)
    first_S1 = np.concatenate(([0], np.cumsum(pieces_S))).astype(np.int32)
    sequence_W = np.repeat(np.arange(len(rows_S)), pieces_S)
    split_W = np.arange(len(sequence_W)) - first_S1[sequence_W] + skipped_S[sequence_W]
    pieces_W2 = np.stack((sequence_W, split_W), axis=1).astype(np.int32)
    return HostSplits(pieces_W2=pieces_W2, first_S1=first_S1)


def _tile(rows_S: Int32s, context_S: Int32s, tile_rows: int) -> Int32s:
    tiles_S = np.where(rows_S > 1, -(-rows_S // tile_rows), 0)
    sequence_W = np.repeat(np.arange(len(rows_S)), tiles_S)
    before_S = np.cumsum(tiles_S) - tiles_S
    first_W = (np.arange(len(sequence_W)) - before_S[sequence_W]) * tile_rows
    # Those that see most begin first, so that none is left over when the others are done.
    seen_W = context_S[sequence_W] - rows_S[sequence_W] + first_W
    tiles_W2 = np.stack((sequence_W, first_W), axis=1).astype(np.int32)
    return np.ascontiguousarray(tiles_W2[np.argsort(-seen_W, kind="stable")])


class Layout:
    """Where each part of a step lies in a buffer of `size` int32."""

    def __init__(self, capacity: Capacity, windows: Sequence[int]) -> None:
        self.capacity = capacity
        self.windows = tuple(windows)
        self._at: dict[str, tuple[int, int]] = {}
        self.size = 0
        for name in ("ids", "pos", "slots"):
            self._place(name, capacity.rows)
        self._place("row_start", capacity.sequences + 1)
        self._place("context", capacity.sequences)
        self._place("width", 1)
        self._place("tiles", 2 * capacity.tiles)
        for window in self.windows:
            self._place(f"first {window}", capacity.sequences + 1)
            self._place(f"pieces {window}", 2 * capacity.splits)
        self._place("blocks", capacity.blocks)  # last, so that a copy may end where its step does

    def _place(self, name: str, entries: int) -> None:
        self._at[name] = (self.size, entries)
        self.size += -(-entries // 4) * 4  # vectors of 16 bytes stay aligned

    def fill(self, buffer: Int32s, host: HostStep, *, idle_slot: int) -> int:
        """Write a step that fits; the number of entries that matter is returned.

        Rows beyond the step's own write to `idle_slot`, which nobody reads, and are sequences of
        no tokens, which attend nothing.
        """
        self._put(buffer, "ids", host.ids_T, rest=0)
        self._put(buffer, "pos", host.pos_T, rest=0)
        self._put(buffer, "slots", host.slots_T, rest=idle_slot)
        rows, sequences = len(host.ids_T), len(host.context_S)
        padding = rows + 1 + np.arange(self.capacity.sequences - sequences, dtype=np.int32)
        starts = np.concatenate((host.row_start_S1, np.minimum(padding, self.capacity.rows)))
        self._put(buffer, "row_start", starts, rest=None)
        self._put(buffer, "context", host.context_S, rest=0)
        self._put(buffer, "width", np.array([host.blocks_SB.shape[1]], np.int32), rest=0)
        self._put(buffer, "tiles", host.tiles_W2.ravel(), rest=None)
        for window in self.windows:
            split = host.splits[window]
            self._put(buffer, f"first {window}", split.first_S1, rest=len(split.pieces_W2))
            self._put(buffer, f"pieces {window}", split.pieces_W2.ravel(), rest=None)
        self._put(buffer, "blocks", host.blocks_SB.ravel(), rest=None)
        return self._at["blocks"][0] + host.blocks_SB.size

    def _put(self, buffer: Int32s, name: str, values: Int32s, *, rest: int | None) -> None:
        start, entries = self._at[name]
        buffer[start : start + len(values)] = values
        if rest is not None:
            buffer[start + len(values) : start + entries] = rest

    def views(self, buffer: Tensor, *, tiles: int) -> Tables:
        """The parts of a device buffer that `fill` wrote.

        Args:
            buffer: int32, `size` entries.
            tiles: Tiles of queries in the step.
        """
        capacity = self.capacity
        return Tables(
            ids_T=self._view(buffer, "ids"),
            pos_T=self._view(buffer, "pos"),
            slots_T=self._view(buffer, "slots"),
            row_start_S1=self._view(buffer, "row_start"),
            context_S=self._view(buffer, "context"),
            width_1=self._view(buffer, "width"),
            blocks=self._view(buffer, "blocks"),
            splits={
                window: Splits(
                    pieces_W2=self._view(buffer, f"pieces {window}"),
                    first_S1=self._view(buffer, f"first {window}"),
                    count=capacity.splits,
                )
                for window in self.windows
            },
            tiles_W2=self._view(buffer, "tiles"),
            tiles=tiles,
            decodes=capacity.splits > 0,
        )

    def _view(self, buffer: Tensor, name: str) -> Tensor:
        start, entries = self._at[name]
        return buffer[start : start + entries]


def upload(host: HostStep, windows: Sequence[int], device: torch.device) -> Tables:
    """A step on the device, in a buffer of its own."""
    layout = Layout(host.capacity, windows)
    buffer = np.zeros(layout.size, np.int32)
    layout.fill(buffer, host, idle_slot=0)
    return layout.views(torch.from_numpy(buffer).to(device), tiles=host.capacity.tiles)
