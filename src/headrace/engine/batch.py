"""A plan's rows as the arrays that a model reads, kept from step to step.

While the same sequences decode, a step costs two short lists: ids and positions. Of the block
table, by far the largest array, only what a sequence has been given since is written.

Invariant: what `lay_out` returns is valid until it is called again, and says nothing that the plan
and its sequences do not say at that moment. Shapes: T rows, S sequences, B blocks of a table.
"""

from collections.abc import Mapping

import numpy as np

from headrace.engine.request import Sequence
from headrace.model.stack import Int32s, Step


class Batch:
    """The arrays of a step, grown as needed and never shrunk."""

    def __init__(self) -> None:
        self._ids_T = np.zeros(0, dtype=np.int32)
        self._pos_T = np.zeros(0, dtype=np.int32)
        self._starts = np.zeros(1, dtype=np.int32)
        self._context_S = np.zeros(0, dtype=np.int32)
        self._blocks_SB = np.zeros((0, 0), dtype=np.int32)
        self._counting = np.zeros(1, dtype=np.int32)
        # What stands in each row of `_blocks_SB`: the list it was copied from, and how much of it.
        # A sequence that loses its blocks gets another list, so identity tells.
        self._tables: list[list[int]] = []
        self._written: list[int] = []

    def lay_out(self, rows: Mapping[Sequence, int]) -> Step:
        """The rows of at least one sequence, one after the other in the mapping's order."""
        count, total = len(rows), sum(rows.values())
        self._make_room(rows, count, total)
        ids_T, pos_T = self._ids_T[:total], self._pos_T[:total]
        context_S = self._context_S[:count]
        if total == count:
            ids_T[:] = [
                sequence.last_token
                if sequence.computed + 1 == len(sequence)
                else sequence.tokens(sequence.computed, sequence.computed + 1)[0]
                for sequence in rows
            ]
            pos_T[:] = [sequence.computed for sequence in rows]
            np.add(pos_T, 1, out=context_S)
            starts_S1 = self._counting[: count + 1]
        else:
            starts_S1 = self._starts[: count + 1]
            self._lay_out_chunks(rows, ids_T, pos_T, context_S, starts_S1)
        self._write_tables(rows)
        return Step(
            ids_T=ids_T,
            pos_T=pos_T,
            row_start_S1=starts_S1,
            context_S=context_S,
            blocks_SB=self._blocks_SB[:count],
        )

    def _lay_out_chunks(
        self,
        rows: Mapping[Sequence, int],
        ids_T: Int32s,
        pos_T: Int32s,
        context_S: Int32s,
        starts_S1: Int32s,
    ) -> None:
        start = 0
        for s, (sequence, size) in enumerate(rows.items()):
            first, stop = sequence.computed, sequence.computed + size
            ids_T[start : start + size] = sequence.tokens(first, stop)
            pos_T[start : start + size] = np.arange(first, stop, dtype=np.int32)
            context_S[s] = stop
            starts_S1[s] = start
            start += size
        starts_S1[-1] = start

    def _write_tables(self, rows: Mapping[Sequence, int]) -> None:
        for s, sequence in enumerate(rows):
            blocks = sequence.blocks
            written = self._written[s] if self._tables[s] is blocks else 0
            if written != len(blocks):
                self._blocks_SB[s, written : len(blocks)] = blocks[written:]
                self._tables[s] = blocks
                self._written[s] = len(blocks)

    def _make_room(self, rows: Mapping[Sequence, int], count: int, total: int) -> None:
        if total > len(self._ids_T):
            self._ids_T = np.zeros(2 * total, dtype=np.int32)
            self._pos_T = np.zeros(2 * total, dtype=np.int32)
        longest = max(len(sequence.blocks) for sequence in rows)
        if count > len(self._context_S) or longest > self._blocks_SB.shape[1]:
            sequences = max(2 * count, len(self._context_S))
            width = max(longest + longest // 2 + 4, self._blocks_SB.shape[1])
            self._context_S = np.zeros(sequences, dtype=np.int32)
            self._starts = np.zeros(sequences + 1, dtype=np.int32)
            self._counting = np.arange(sequences + 1, dtype=np.int32)
            self._blocks_SB = np.zeros((sequences, width), dtype=np.int32)
            self._tables = [[] for _ in range(sequences)]
            self._written = [0] * sequences
