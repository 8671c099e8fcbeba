"""Native products against this machine's two walls, which are probed before and after every round.

python bench/kernels.py [--shapes gate_up ...] [--formats int8-g32 ...] [--rows 1 16 ...]
                        [--threads 2] [--rounds 7] [--out bench/results/NAME.json]

For each matrix of the Llama-3.2-1B shape, format and number of rows: the weights' bytes over the
time as a share of what the probe reads, and the operations over the time as a share of the dot
products (int8 or bf16) that the processor does. The larger of the two shares is how near the
product is to the wall that bounds it. Copies of the matrix take turns, so none lies in a cache.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from headrace.bench.results import write_result
from headrace.kernels.native import BF16, INT8, Matrix, Pool, QuantizedFormat, Scratch
from headrace.kernels.probe import Probe

SHAPES = {
    "qkv": (3072, 2048),
    "out": (2048, 2048),
    "gate_up": (16384, 2048),
    "down": (2048, 8192),
    "head": (128256, 2048),
}
FORMATS = {
    "bf16": 0,
    "int8-g32": 32,
    "int8-g64": 64,
    "int8-g128": 128,
    "int4-g32": 32,
    "int4-g128": 128,
}
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
HEAD_ROWS = 64
"""Serving projects only the last row of each sequence to the vocabulary."""
BEYOND_CACHES = 160 << 20
PROBED = 96 << 20
UNDISTURBED = 0.96
"""Of the threads' time in a round: below it, something else had one of their cores."""
ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Medians over the rounds."""

    shape: str
    format: str
    rows: int
    milliseconds: float
    read_gb_s: float
    """Of packed weights."""
    read_share: float
    gop_s: float
    dot_share: float
    disturbed: int
    """Rounds taken again because something else had a core meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    seconds: float
    read_gb_s: float
    dot_gop_s: float


class Case:
    """Copies of one matrix."""

    def __init__(self, pool: Pool, shape: str, format: str) -> None:
        rows, cols = SHAPES[shape]
        self.pool, self.scratch = pool, Scratch()
        weight = torch.randn(rows, cols).bfloat16() / cols**0.5
        self.matrices = [_packed(pool, weight, format)]
        first = self.matrices[0]
        for _ in range(BEYOND_CACHES // first.data.numel()):
            copy = Matrix.allocate(
                format=format.partition("-")[0], rows=rows, cols=cols, group=first.group
            )
            copy.data.copy_(first.data)
            self.matrices.append(copy)
        self._turn = 0

    def multiply(self, x: torch.Tensor, out: torch.Tensor) -> float:
        """Seconds of one product by the next copy."""
        self._turn = (self._turn + 1) % len(self.matrices)
        began = time.perf_counter()
        self.matrices[self._turn].linear(self.pool, self.scratch, x, add_to=out)
        return time.perf_counter() - began


def _packed(pool: Pool, weight: torch.Tensor, format: str) -> Matrix:
    if format == "bf16":
        return Matrix.pack(pool, weight)
    chosen: QuantizedFormat = "int8" if format.startswith("int8") else "int4"
    return Matrix.quantize(pool, weight, format=chosen, group=FORMATS[format])


def measure(case: Case, probe: Probe, rows: int, rounds: int) -> tuple[list[Round], int]:
    """Alternate walls, product, walls; the rounds, and how many were disturbed."""
    matrix = case.matrices[0]
    x, out = torch.randn(rows, matrix.cols), torch.zeros(rows, matrix.rows)
    dots = BF16 if matrix.format == BF16 else INT8
    case.multiply(x, out)
    found: list[Round] = []
    disturbed = 0
    while len(found) < rounds:
        cpu_s, began = time.process_time(), time.perf_counter()
        read, dot = probe.read_gb_s(), probe.dot_gop_s(dots)
        case.multiply(x, out)  # wakes the threads
        taken = case.multiply(x, out)
        read, dot = max(read, probe.read_gb_s()), max(dot, probe.dot_gop_s(dots))
        busy = (time.process_time() - cpu_s) / (time.perf_counter() - began) / case.pool.threads
        if busy < UNDISTURBED and disturbed < ATTEMPTS * rounds:
            disturbed += 1
            continue
        found.append(Round(seconds=taken, read_gb_s=read, dot_gop_s=dot))
    return found, disturbed


def share_of(
    case: Case, shape: str, format: str, rows: int, found: list[Round], disturbed: int
) -> Share:
    """Medians of the rounds' shares."""
    matrix = case.matrices[0]
    gigabytes = 1e-9 * matrix.data.numel()
    gigaops = 2e-9 * rows * matrix.rows * matrix.cols
    return Share(
        shape=shape,
        format=format,
        rows=rows,
        milliseconds=1e3 * statistics.median(one.seconds for one in found),
        read_gb_s=statistics.median(gigabytes / one.seconds for one in found),
        read_share=statistics.median(gigabytes / one.seconds / one.read_gb_s for one in found),
        gop_s=statistics.median(gigaops / one.seconds for one in found),
        dot_share=statistics.median(gigaops / one.seconds / one.dot_gop_s for one in found),
        disturbed=disturbed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pool = Pool(options.threads)
    probe = Probe(pool, PROBED)
    shares: list[Share] = []
    for shape in options.shapes:
        for format in options.formats:
            case = Case(pool, shape, format)
            for rows in options.rows:
                if shape == "head" and rows > HEAD_ROWS:
                    continue
                found, disturbed = measure(case, probe, rows, options.rounds)
                share = share_of(case, shape, format, rows, found, disturbed)
                shares.append(share)
                print(
                    f"{shape:8}{format:10}{rows:5} rows: {share.milliseconds:9.3f} ms, "
                    f"{share.read_gb_s:5.1f} GB/s = {share.read_share:.2f} of the reading wall, "
                    f"{share.gop_s:6.1f} Gop/s = {share.dot_share:.2f} of the multiplying wall"
                    + (f" ({disturbed} rounds disturbed)" if disturbed else ""),
                    flush=True,
                )
    if options.out:
        arguments = {name: value for name, value in vars(options).items() if name != "out"}
        write_result(
            options.out,
            what="native products against the walls",
            arguments=arguments,
            result=shares,
        )


if __name__ == "__main__":
    main()
