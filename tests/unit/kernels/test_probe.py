"""The walls as measured: more work takes longer, and nothing is measured that is not done."""

import time

import pytest

from headrace.kernels.native import BF16, INT8
from headrace.kernels.probe import Probe
from native_isas import isas, pool

SIZE = 64 << 20


@pytest.mark.parametrize("isa", isas())
def test_reading_takes_the_time_it_says(isa: str) -> None:
    probe = Probe(pool(isa, 2), SIZE)
    began = time.perf_counter()
    rate = probe.read_gb_s()
    took = time.perf_counter() - began
    assert 1e-9 * SIZE / rate <= took
    assert 0.01 < rate < 10_000


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("format", [INT8, BF16])
def test_multiplying_is_not_optimized_away(isa: str, format: int) -> None:
    """A core does at most 4 registers of 64 bytes a cycle, at 6 GHz."""
    rate = Probe(pool(isa), 1 << 20).dot_gop_s(format)
    assert 0.1 < rate < 4 * 64 * 2 * 6


@pytest.mark.parametrize("isa", isas())
def test_walls_are_the_best_of_passes(isa: str) -> None:
    walls = Probe(pool(isa, 2), SIZE).walls()
    assert walls.threads == 2
    assert min(walls.read_gb_s, walls.int8_gop_s, walls.bf16_gflop_s) > 0
