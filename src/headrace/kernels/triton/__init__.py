"""Triton kernels for NVIDIA GPUs, one file an operation, each beside its torch reference.

Nothing outside `dispatch`, `model` and tests imports this package: it needs `triton`, which CUDA
builds of torch bring along. The same source runs on a CPU, slowly, under `TRITON_INTERPRET=1`; that
is how it is tested where there is no GPU, and `tests/unit/kernels/test_triton_compile.py` has every
kernel compiled for Hopper besides.

Invariant: a row's result does not depend on how many other rows there are. Tile shapes and the
order of sums are functions of the weights' shape and of the row's own position, never of the batch
(`linear` states where one kernel hands over to another).
"""

import importlib.util
from importlib import metadata

_OLDEST = (3, 6)


def why_not() -> str | None:
    """Why these kernels cannot be had, for people; None = they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; CUDA builds of torch bring it"
    found = metadata.version("triton")
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        return f"triton {found} is older than 3.6"
    return None
