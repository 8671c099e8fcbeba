"""Every Triton kernel compiles for its GPUs, within their memory, spilling next to nothing.

The compiler needs no GPU. What the interpreter accepts and the compiler does not shows here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("capability", "shared_bytes"),
    [("90", 227 << 10), pytest.param("80", 163 << 10, marks=pytest.mark.slow)],
)
def test_compiles(capability: str, shared_bytes: int, tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(TESTS)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, TESTS / "triton_compile.py", capability],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert {kernel["kernel"] for kernel in kernels} >= {
        "_attend_splits",
        "_attend_tiles",
        "_combine",
        "_multiply",
        "_rms_norm",
        "_rotate_and_write",
        "_silu_mul",
        "_unpack",
        "_vector",
    }
    assert [kernel for kernel in kernels if kernel["shared"] > shared_bytes] == []
    assert [kernel for kernel in kernels if kernel["spilled"] > 128] == []
