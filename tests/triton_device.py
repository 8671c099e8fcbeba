"""Where the tests of Triton kernels run: on a GPU, or as numpy on the CPU.

    from triton_device import DEVICE

    # isort: split
    from headrace.kernels.triton...

Importing this skips the module where neither is possible. `conftest` sets TRITON_INTERPRET where no
NVIDIA device is to be seen, before triton is imported.
"""

import importlib.util
import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no CUDA device, and TRITON_INTERPRET is not 1", allow_module_level=True)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over norm of what is expected; NaN anywhere makes it NaN."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
