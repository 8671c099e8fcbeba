"""Compiles Triton kernels for a GPU that is not here; a script, because triton decides once.

    python tests/triton_compile.py 90      # compute capability 9.0: Hopper

Prints a line of JSON a kernel: its name, the shared memory it takes and the bytes that it spills.
Launches go to the compiler instead of the device, with the arguments and options of the real ones.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from headrace.kernels.triton import attention
from headrace.kernels.triton.gate import silu_mul
from headrace.kernels.triton.linear import gated_linear, linear, normed_linear, unpack
from headrace.kernels.triton.matrix import FP8, INT4, INT8, Matrix
from headrace.kernels.triton.norm import rms_norm
from headrace.kernels.triton.rope import rotate_and_write
from headrace.kernels.triton.tables import lay_out, upload

BF16 = torch.bfloat16
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class AbsentDevice:
    """What the compiler asks of a driver."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        del device
        return 0


def compile_instead() -> None:
    """From here on a launch compiles, reports and does not run."""
    launch: Any = jit.JITFunction.run
    seen: set[str] = set()

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        del warmup
        compiled = launch(kernel, *args, grid=grid, warmup=True, **options)
        if compiled.hash not in seen:
            seen.add(compiled.hash)
            print(
                json.dumps(
                    {
                        "kernel": kernel.__name__,
                        "shared": compiled.metadata.shared,
                        "spilled": spilled(compiled.asm["cubin"]),
                    }
                )
            )
        return compiled

    setattr(jit.JITFunction, "run", run)  # noqa: B010 - its declared type is narrower than its use


def spilled(cubin: bytes) -> int:
    """Bytes of a thread's stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", said)
    assert found, said
    return int(found[1])


def attend(heads: int, key_heads: int, head_dim: int, window: int) -> None:
    q = torch.zeros(64, heads, head_dim, dtype=BF16)
    kv = torch.zeros(2, 8, 32, key_heads, head_dim, dtype=BF16)
    host = lay_out(
        np.zeros(64, np.int32),
        np.concatenate(([100], np.arange(63))).astype(np.int32),
        np.array([0, 1, 64], np.int32),
        np.array([101, 63], np.int32),
        np.zeros((2, 4), np.int32),
        block_tokens=32,
        windows=[window],
        tile_rows=attention.query_rows(heads, key_heads, head_dim, BF16),
    )
    tables = upload(host, [window], q.device)
    attention.paged_attention(q, kv[0], kv[1], tables, window=window, scale=head_dim**-0.5)
    qkv = torch.zeros(64, (heads + 2 * key_heads) * head_dim, dtype=BF16)
    table = (torch.zeros(128, head_dim // 2), torch.zeros(128, head_dim // 2))
    norm = torch.ones(head_dim, dtype=BF16)
    norms = (norm, norm) if window else None
    rotate_and_write(
        qkv, table, tables.pos_T, tables.slots_T, kv[0], kv[1], heads=heads, norms=norms, eps=1e-5
    )


def multiply(matrix: Matrix) -> None:
    norm, row = torch.ones(matrix.cols, dtype=BF16), torch.zeros(1, matrix.cols, dtype=BF16)
    linear(row, matrix, stream=torch.zeros(1, matrix.rows, dtype=BF16))
    normed_linear(row, norm, 1e-5, matrix)
    gated_linear(row, norm, 1e-5, matrix)
    if matrix.scale is not None:
        for rows in (16, 128):
            linear(torch.zeros(rows, matrix.cols, dtype=BF16), matrix)
        unpack(matrix, BF16)
    if matrix.format == FP8:
        for rows in (16, 128):
            linear(torch.zeros(rows, matrix.cols, dtype=BF16), matrix, fp8_rows=True)


def main() -> None:
    capability = int(sys.argv[1])
    absent: Any = AbsentDevice(capability)
    driver.set_active(absent)
    compile_instead()
    attend(32, 8, 128, window=0)
    attend(14, 2, 64, window=100)
    attend(8, 1, 256, window=0)
    multiply(Matrix.dense(torch.zeros(2048, 2048, dtype=BF16)))
    q = torch.zeros(2048, 2048, dtype=torch.int8)
    for format in (INT8, INT4):
        for group in (32, 128):
            scale = torch.ones(2048, 2048 // group)
            multiply(Matrix.quantized(q, scale, format=format, group=group))
    if capability >= 89:  # no arithmetic and no conversion of fp8 before
        multiply(Matrix.fp8(q.to(torch.float8_e4m3fn), torch.ones(2048)))
    rms_norm(torch.zeros(4, 8192, dtype=BF16), torch.ones(8192, dtype=BF16), 1e-5)
    silu_mul(torch.zeros(4, 16384, dtype=BF16))


if __name__ == "__main__":
    main()
