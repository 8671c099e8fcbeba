"""The ways to sample, for tests that hold of each."""

from collections.abc import Sequence

import pytest
import torch

from headrace.engine.sampler import Arithmetic, Outcome, SampleRow, sample_by
from headrace.engine.sampler_native import NativeSampling
from headrace.engine.sampler_torch import TorchSampling
from headrace.kernels.library import candidates, load
from headrace.kernels.native import Pool, library, why_not

NAMES = ("torch", "native", "native on two threads")
ISAS = tuple(found.isa.name for found in candidates() if found.obstacle is None)
"""Builds of the library that run here; each is "native" to some machine."""

needs_native = pytest.mark.skipif(library() is None, reason=str(why_not()))


def params() -> list[object]:
    """For `pytest.mark.parametrize("name", params())`."""
    return [
        pytest.param(name, marks=needs_native if name.startswith("native") else ())
        for name in NAMES
    ]


_pools: list[Pool] = []


def arithmetic(name: str) -> Arithmetic:
    if name == "torch":
        return TorchSampling()
    if name in ISAS:
        return NativeSampling(load(name), None)
    found = library()
    assert found is not None
    if name == "native":
        return NativeSampling(found, None)
    if not _pools:
        _pools.append(Pool(2))  # one for all: a thread for each test would pile up
    return NativeSampling(found, _pools[0])


def draw(name: str, logits_RV: torch.Tensor, rows: Sequence[SampleRow]) -> list[Outcome]:
    return sample_by(arithmetic(name), logits_RV, rows)
