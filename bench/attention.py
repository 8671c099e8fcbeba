"""Native attention against this machine's two walls, which are probed before and after every round.

python bench/attention.py [--threads 2] [--rounds 9] [--out bench/results/NAME.json]

Decode reads its keys and values once: its share is their bytes over the time, of what the probe
reads in that time. Prefill multiplies: its share is 4 * head_dim operations for each query, head
and token that it may see (a masked one counts as nothing), of the processor's bf16 dot products.
Layers take turns until they are larger than any cache, as in a model.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.bench.results import write_result
from headrace.kernels.library import SpansStruct
from headrace.kernels.native import BF16, INT8, PagedKv, Pool, Scratch, buffer, check, require

BEYOND_CACHES = 320 << 20
PROBED = 96 << 20
UNDISTURBED = 0.96
"""Of the threads' time in a round: below it, something else had one of their cores."""
FORMATS = {"bf16": BF16, "int8": INT8}


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    name: str
    heads: int
    kv_heads: int
    head_dim: int


LLAMA = Heads(name="llama-3.2-1b", heads=32, kv_heads=8, head_dim=64)
QWEN = Heads(name="qwen3-0.6b", heads=16, kv_heads=8, head_dim=128)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    heads: Heads
    kv: str
    block_tokens: int
    rows: int
    """New rows of each sequence; 1 = decode."""
    contexts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Medians over the rounds; `best` is the largest share of a round."""

    case: Case
    milliseconds: float
    rate: float
    """GB/s of keys and values, or G operations/s."""
    wall: float
    share: float
    best: float
    disturbed: int
    """Rounds taken again because something else had a core meanwhile."""


class Spans:
    """`hr_spans` and the arrays it points to."""

    def __init__(
        self, rows: Sequence[int], contexts: Sequence[int], table: NDArray[np.int32]
    ) -> None:
        self._starts = np.cumsum([0, *rows], dtype=np.int32)
        self._contexts = np.array(contexts, dtype=np.int32)
        self._table = table
        self.struct = SpansStruct(
            rows=sum(rows),
            spans=len(rows),
            max_blocks=table.shape[1],
            row_start=self._starts.ctypes.data,
            context=self._contexts.ctypes.data,
            blocks=table.ctypes.data,
        )


class Layers:
    """Pools of the same contexts, enough of them that each is cold when its turn comes."""

    def __init__(self, case: Case, pool: Pool) -> None:
        heads, tokens = case.heads, case.block_tokens
        self.case, self._pool, self._scratch = case, pool, Scratch()
        counts = [-(-context // tokens) for context in case.contexts]
        order = np.random.default_rng(0).permutation(sum(counts)).astype(np.int32)
        self._table = np.zeros((len(counts), max(counts)), dtype=np.int32)
        for row, blocks in zip(self._table, np.split(order, np.cumsum(counts)[:-1]), strict=True):
            row[: len(blocks)] = blocks

        def allocate() -> PagedKv:
            return PagedKv.allocate(
                FORMATS[case.kv],
                blocks=sum(counts),
                block_tokens=tokens,
                kv_heads=heads.kv_heads,
                head_dim=heads.head_dim,
            )

        first = allocate()
        more = BEYOND_CACHES // (2 * first.k.numel()) if case.rows == 1 else 0
        self.layers = [first, *(allocate() for _ in range(more))]
        self._fill()
        self._queries = torch.randn(case.rows * len(counts), heads.heads * heads.head_dim)
        self._out = torch.empty_like(self._queries)

    def _fill(self) -> None:
        first, width = self.layers[0], self.case.heads.kv_heads * self.case.heads.head_dim
        spans = Spans(self.case.contexts, self.case.contexts, self._table)
        k, v = torch.randn(2, sum(self.case.contexts), width)
        status = require().hr_kv_write(
            self._pool.handle,
            first.struct,
            byref(spans.struct),
            k.data_ptr(),
            width,
            v.data_ptr(),
            width,
        )
        check(status)
        for other in self.layers[1:]:
            other.k.copy_(first.k)
            other.v.copy_(first.v)

    def attend(self) -> float:
        """Seconds a layer, over all layers in turn."""
        case = self.case
        spans = Spans([case.rows] * len(case.contexts), case.contexts, self._table)
        heads, width = case.heads, self._queries.shape[1]
        scale = heads.head_dim**-0.5
        began = time.perf_counter()
        for layer in self.layers:
            status = require().hr_attend(
                self._pool.handle,
                self._scratch.handle,
                layer.struct,
                byref(spans.struct),
                heads.heads,
                scale,
                0,
                self._queries.data_ptr(),
                width,
                self._out.data_ptr(),
                width,
            )
            check(status)
        taken = time.perf_counter() - began
        return taken / len(self.layers)


def work_of(case: Case) -> float:
    """Bytes that decode must read, or operations that prefill must do, for one layer."""
    heads = case.heads
    if case.rows == 1:
        token = (
            2 * heads.kv_heads * (heads.head_dim * 2 if case.kv == "bf16" else heads.head_dim + 2)
        )
        return token * float(sum(case.contexts))
    seen = sum(case.rows * (context - (case.rows - 1) / 2) for context in case.contexts)
    return 4.0 * heads.head_dim * heads.heads * seen


def measure(case: Case, pool: Pool, probed: torch.Tensor, rounds: int) -> Share:
    """Alternate wall, attention, wall."""
    layers, work = Layers(case, pool), work_of(case)

    def wall() -> float:
        if case.rows == 1:
            return require().hr_probe_read(pool.handle, probed.data_ptr(), probed.numel())
        return require().hr_probe_dot(pool.handle, BF16)

    layers.attend()
    times: list[float] = []
    walls: list[float] = []
    disturbed = 0
    while len(times) < rounds:
        cpu_s, began = time.process_time(), time.perf_counter()
        before, taken, after = wall(), layers.attend(), wall()
        busy = (time.process_time() - cpu_s) / (time.perf_counter() - began) / pool.threads
        if busy < UNDISTURBED and disturbed < 40 * rounds:
            disturbed += 1
            continue
        times.append(taken)
        walls.append(max(before, after))
    shares = [work / taken / wall for taken, wall in zip(times, walls, strict=True)]
    taken = statistics.median(times)
    return Share(
        case=case,
        milliseconds=1e3 * taken,
        rate=1e-9 * work / taken,
        wall=1e-9 * statistics.median(walls),
        share=statistics.median(shares),
        best=max(shares),
        disturbed=disturbed,
    )


def cases() -> list[Case]:
    """16 sequences of about 1,000 tokens, decoding; one prompt of 2,048 or 8,192, prefilling."""
    contexts = tuple(1000 + 16 * (i % 5) - 32 + i for i in range(16))
    decode = [
        Case(heads=heads, kv=kv, block_tokens=tokens, rows=1, contexts=contexts)
        for heads in (LLAMA, QWEN)
        for kv in FORMATS
        for tokens in (16, 32, 64, 128)
    ]
    prefill = [
        Case(heads=heads, kv=kv, block_tokens=64, rows=rows, contexts=(rows,))
        for heads in (LLAMA, QWEN)
        for kv in FORMATS
        for rows in (2048, 8192)
    ]
    return [*decode, *prefill]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pool = Pool(arguments.threads)
    probed = buffer(PROBED)
    probed.fill_(1)
    shares: list[Share] = []
    for case in cases():
        share = measure(case, pool, probed, arguments.rounds if case.rows < 8192 else 3)
        what = "decode" if case.rows == 1 else f"prefill {case.rows}"
        print(
            f"{case.heads.name:13} {case.kv} {what:12} pages of {case.block_tokens:3}: "
            f"{share.milliseconds:8.2f} ms, {share.rate:6.1f} of {share.wall:6.1f} G/s: "
            f"{share.share:.2f} (best {share.best:.2f})",
            flush=True,
        )
        shares.append(share)
    if arguments.out:
        write_result(
            arguments.out,
            what="native attention against the walls",
            arguments={"threads": arguments.threads, "rounds": arguments.rounds},
            result=shares,
        )


if __name__ == "__main__":
    main()
