"""This machine's two walls, measured: how fast it reads memory, how fast it multiplies.

Decoding a token reads every weight once, so its speed is at most the first; a long prompt is bound
by the second. What kernels reach is given as a fraction of them, taken in the same minute.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from headrace.kernels.native import BF16, INT8, Pool, buffer

BUFFER_BYTES = 1 << 30
"""Far more than caches hold; less where memory is short."""

LEAST_PASSES = 8
LEAST_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Walls:
    """The best of several passes each."""

    threads: int
    read_gb_s: float
    """Memory in huge pages, all threads."""
    int8_gop_s: float
    """Dot products of bytes; a multiply-add is two operations."""
    bf16_gflop_s: float


class Probe:
    """Memory and threads to measure with, kept between measurements."""

    def __init__(self, pool: Pool, size_bytes: int | None = None) -> None:
        self.pool = pool
        self._data: Tensor = buffer(size_bytes or _fitting_bytes())
        self._data.fill_(1)  # untouched pages are all the same page of zeros

    def read_gb_s(self) -> float:
        """One pass over the memory."""
        data = self._data
        return 1e-9 * self.pool.library.hr_probe_read(
            self.pool.handle, data.data_ptr(), data.numel()
        )

    def dot_gop_s(self, format: int) -> float:
        """Some milliseconds of dot products: `native.INT8` or `native.BF16`."""
        return 1e-9 * self.pool.library.hr_probe_dot(self.pool.handle, format)

    def walls(self) -> Walls:
        """The best of passes over half a second and more for each wall."""
        return Walls(
            threads=self.pool.threads,
            read_gb_s=max(self.read_gb_s() for _ in _passes()),
            int8_gop_s=max(self.dot_gop_s(INT8) for _ in _passes()),
            bf16_gflop_s=max(self.dot_gop_s(BF16) for _ in _passes()),
        )


def _passes() -> Iterator[int]:
    began, done = time.perf_counter(), 0
    while done < LEAST_PASSES or time.perf_counter() - began < LEAST_SECONDS:
        yield done
        done += 1


def _fitting_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(BUFFER_BYTES, (int(line.split()[1]) << 10) // 4)
    except OSError:
        pass  # not Linux
    return BUFFER_BYTES
