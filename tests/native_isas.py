"""The native libraries that this machine can run, for tests that hold of each."""

import functools

import pytest

from headrace.kernels.library import Library, candidates, load
from headrace.kernels.native import Pool, Scratch

RUNNABLE = [found.isa.name for found in candidates() if found.obstacle is None]
REASONS = "; ".join(f"{found.isa.name}: {found.obstacle}" for found in candidates())

needs_native = pytest.mark.skipif(not RUNNABLE, reason=f"no native library ({REASONS})")


def isas() -> list[object]:
    """For `pytest.mark.parametrize("isa", isas())`."""
    return list(RUNNABLE) or [pytest.param("none", marks=needs_native)]


@functools.cache
def pool(isa: str, threads: int = 1) -> Pool:
    """One a kind, for all tests: a thread for each test would pile up."""
    return Pool(threads, load(isa))


@functools.cache
def scratch(isa: str) -> Scratch:
    return Scratch(load(isa))


def library(isa: str) -> Library:
    return load(isa)
