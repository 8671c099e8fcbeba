"""Stages of gpu.py: the device's walls, kernels against references at real shapes, kernels timed.

Times are of CUDA events around many launches captured in one graph, so that Python's launching is
not in them; operands rotate through copies that exceed the L2 cache.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from headrace.kernels import tiles
from headrace.kernels.packed import attend_last
from headrace.kernels.triton.attention import paged_attention, query_rows
from headrace.kernels.triton.linear import linear, round_rows
from headrace.kernels.triton.matrix import Matrix
from headrace.kernels.triton.tables import lay_out, upload
from headrace.kernels.triton.vector import multiply_vector

DEVICE = torch.device("cuda")
BF16 = torch.bfloat16
WALL_BYTES = 4 << 30
PRODUCT = 8192
"""Rows and columns of the product that the wall is taken from."""
_COLD_BYTES = 256 << 20
"""Copies of an operand that are read in turn take so much."""

SHAPES = {  # outputs, inputs
    "1b qkv": (3072, 2048),
    "1b out": (2048, 2048),
    "1b gate_up": (16384, 2048),
    "1b down": (2048, 8192),
    "8b qkv": (6144, 4096),
    "8b gate_up": (28672, 4096),
    "8b down": (4096, 14336),
    "head": (128256, 2048),
}


class Walls(NamedTuple):
    """What this device does at most."""

    read_gb_s: float
    copy_gb_s: float
    """Bytes read plus bytes written."""
    bf16_tflop_s: float
    fp8_tflop_s: float
    """0 where torch has no row-wise fp8 product here."""


@triton.jit
def _read(x, out, BLOCK: tl.constexpr, TIMES: tl.constexpr):
    total = tl.zeros([BLOCK], tl.int32)
    start = tl.program_id(0).to(tl.int64) * (BLOCK * TIMES)
    for time in tl.static_range(TIMES):
        total += tl.load(x + start + time * BLOCK + tl.arange(0, BLOCK))
    tl.store(out + tl.program_id(0), tl.sum(total, 0))


def timed_s(run: Callable[[], object], *, repeat: int = 5) -> float:
    """Median seconds of one call on the device."""
    run()
    torch.cuda.synchronize()
    times: list[float] = []
    for _ in range(repeat):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def graphed_s(runs: Sequence[Callable[[], object]]) -> float:
    """Median seconds of one of several calls, launched as one graph."""
    for run in runs:
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    return timed_s(graph.replay) / len(runs)


def walls() -> Walls:
    block, times = 4096, 8
    x = torch.randint(0, 100, (WALL_BYTES // 4,), dtype=torch.int32, device=DEVICE)
    programs = x.numel() // (block * times)
    out = torch.empty(programs, dtype=torch.int32, device=DEVICE)
    launch = partial(_read[(programs,)], x, out, block, times)
    read = max(x.nbytes / timed_s(partial(launch, num_warps=warps)) for warps in (4, 8))
    copy = 2 * x.nbytes / timed_s(partial(torch.empty_like(x).copy_, x))
    del x, launch
    a, b = (torch.randn(PRODUCT, PRODUCT, device=DEVICE, dtype=BF16) for _ in range(2))
    work = 2 * PRODUCT**3
    bf16 = work / timed_s(lambda: a @ b, repeat=10)
    return Walls(read / 1e9, copy / 1e9, bf16 / 1e12, _fp8_wall(a, b, work) / 1e12)


def _fp8_wall(a: Tensor, b: Tensor, work: int) -> float:
    try:
        x, y = round_rows(a), round_rows(b)
        scales = x.scale_M[:, None], y.scale_M[None, :]
        return work / timed_s(
            lambda: torch._scaled_mm(x.x_MK, y.x_MK.t(), *scales, out_dtype=BF16), repeat=10
        )
    except (RuntimeError, AttributeError, TypeError):
        return 0.0


def checks() -> dict[str, Any]:
    """Relative errors at the sizes of real models, and whether a row depends on its company."""
    found: dict[str, Any] = {}
    for name, (outputs, inputs) in SHAPES.items():
        if name == "head":
            continue
        for matrix in matrices(outputs, inputs):
            weight = matrix.unpacked()
            for rows in (1, 5, 64, 200):
                x = torch.randn(rows, inputs, device=DEVICE, dtype=BF16)
                expected = x.float() @ weight.t()
                found[f"{name} {matrix.describe()} x{rows}"] = error(linear(x, matrix), expected)
            x = torch.randn(64, inputs, device=DEVICE, dtype=BF16)
            same = torch.equal(linear(x, matrix)[:3], linear(x[:3], matrix))
            found[f"{name} {matrix.describe()} rows alone are the same bits"] = same
    for heads, key_heads, head_dim, window in ((32, 8, 64, 0), (32, 8, 128, 0), (16, 8, 128, 500)):
        case = Paged(
            heads, key_heads, head_dim, [(1, 1), (777, 1), (9000, 1), (3000, 512), (99, 99)]
        )
        name = f"attention {heads}/{key_heads}x{head_dim} window {window}"
        whole = case.run(window)
        found[name] = error(whole, case.reference(window))
        alone = Paged(heads, key_heads, head_dim, [(1, 1), (777, 1)]).run(window)
        found[f"{name} rows alone are the same bits"] = torch.equal(alone, whole[:2])
    return found


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def matrices(outputs: int, inputs: int) -> list[Matrix]:
    """The same random weights in every format."""
    weight = torch.randn(outputs, inputs, device=DEVICE, dtype=BF16) * 0.02
    made = [Matrix.dense(weight)]
    for format, group in (("int8", 32), ("int8", 128), ("int4", 32), ("int4", 128)):
        q, scale = tiles.quantize(weight, format, group)
        made.append(Matrix.quantized(q, scale, format=format, group=group))
    rounded = round_rows(weight)
    made.append(Matrix.fp8(rounded.x_MK, rounded.scale_M))
    return made


class Paged:
    """Sequences of (context, new rows) over a shuffled pool; a seed a sequence."""

    def __init__(
        self, heads: int, key_heads: int, head_dim: int, shapes: list[tuple[int, int]]
    ) -> None:
        self.shapes, self.heads, self.block = shapes, heads, 32
        needed = [-(-context // self.block) for context, _ in shapes]
        order = np.random.default_rng(len(shapes)).permutation(sum(needed)).astype(np.int32)
        width = max(needed)
        self.blocks = np.zeros((len(shapes), width), np.int32)
        shape = (2, sum(needed), self.block, key_heads, head_dim)
        self.kv = torch.full(shape, float("nan"), device=DEVICE, dtype=BF16)
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        taken = 0
        for s, (context, new) in enumerate(shapes):
            own = order[taken : taken + needed[s]]
            taken += needed[s]
            self.blocks[s, : needed[s]] = own
            generator = torch.Generator(DEVICE).manual_seed(s)
            k, v = torch.randn(
                2, context, key_heads, head_dim, generator=generator, device=DEVICE
            ).to(BF16)
            q = torch.randn(new, heads, head_dim, generator=generator, device=DEVICE).to(BF16)
            padded = functional.pad(
                torch.stack((k, v)),
                (0, 0, 0, 0, 0, len(own) * self.block - context),
                value=float("nan"),
            )
            at = torch.from_numpy(own).long().to(DEVICE)
            self.kv[:, at] = padded.unflatten(1, (len(own), self.block))
            self.parts.append((q, k, v))
        self.q = torch.cat([q for q, _, _ in self.parts])

    def call(self, window: int) -> Callable[[], Tensor]:
        news = [new for _, new in self.shapes]
        host = lay_out(
            np.zeros(sum(news), np.int32),
            np.concatenate([np.arange(c - n, c) for c, n in self.shapes]).astype(np.int32),
            np.cumsum([0, *news]).astype(np.int32),
            np.array([context for context, _ in self.shapes], np.int32),
            self.blocks,
            block_tokens=self.block,
            windows=[window],
            tile_rows=query_rows(self.heads, self.kv.shape[3], self.kv.shape[4], BF16),
        )
        tables = upload(host, [window], DEVICE)
        scale = self.kv.shape[4] ** -0.5
        return lambda: paged_attention(
            self.q, self.kv[0], self.kv[1], tables, window=window, scale=scale
        )

    def run(self, window: int) -> Tensor:
        return self.call(window)()

    def reference(self, window: int) -> Tensor:
        return torch.cat(
            [attend_last(q.float(), k.float(), v.float(), window or None) for q, k, v in self.parts]
        )


def products(walls: Walls) -> list[dict[str, Any]]:
    """Every format at decode's row counts: microseconds and the share of the reading wall."""
    found: list[dict[str, Any]] = []
    for name, (outputs, inputs) in SHAPES.items():
        for matrix in matrices(outputs, inputs):
            copies = max(2, min(16, _COLD_BYTES // matrix.size_bytes))
            cold = [clone(matrix) for _ in range(copies)]
            for rows in (1, 4, 16, 64, 256):
                x = torch.randn(rows, inputs, device=DEVICE, dtype=BF16)
                seconds = graphed_s([lambda m=m, x=x: linear(x, m) for m in cold])
                row = {"matrix": name, "format": matrix.describe(), "rows": rows}
                row |= {"us": seconds * 1e6, "share": _share(matrix, seconds, walls)}
                if rows == 1 and matrix.scale is None:
                    by_torch = graphed_s(
                        [lambda m=m, x=x: functional.linear(x, m.data) for m in cold]
                    )
                    row["cublas_us"] = by_torch * 1e6
                if rows == 1 and name.endswith("gate_up"):
                    norm = torch.ones(inputs, device=DEVICE, dtype=BF16)
                    fused = graphed_s(
                        [
                            lambda m=m, x=x, norm=norm: multiply_vector(
                                x, m, norm=norm, eps=1e-5, gated=True
                            )
                            for m in cold
                        ]
                    )
                    row["fused_share"] = _share(matrix, fused, walls)
                found.append({key: rounded(value) for key, value in row.items()})
            del cold
    return found


def _share(matrix: Matrix, seconds: float, walls: Walls) -> float:
    return matrix.size_bytes / seconds / 1e9 / walls.read_gb_s


def rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def clone(matrix: Matrix) -> Matrix:
    scale = None if matrix.scale is None else matrix.scale.clone()
    return Matrix(
        format=matrix.format,
        rows=matrix.rows,
        cols=matrix.cols,
        data=matrix.data.clone(),
        scale=scale,
        group=matrix.group,
        bias=matrix.bias,
    )


def attention(walls: Walls) -> list[dict[str, Any]]:
    """Decode against the reading wall, prefill against the product wall and torch's own."""
    found: list[dict[str, Any]] = []
    for heads, key_heads, head_dim in ((32, 8, 64), (32, 8, 128)):
        for sequences, context in ((1, 256), (1, 8192), (32, 1024), (256, 600)):
            case = Paged(heads, key_heads, head_dim, [(context, 1)] * sequences)
            seconds = graphed_s([case.call(0)] * 4)
            size = 2 * sequences * context * key_heads * head_dim * 2
            row = {
                "heads": f"{heads}/{key_heads}x{head_dim}",
                "what": f"decode {sequences}x{context}",
            }
            row |= {"us": seconds * 1e6, "share": size / seconds / 1e9 / walls.read_gb_s}
            found.append({key: rounded(value) for key, value in row.items()})
        for context in (512, 2048, 8192):
            case = Paged(heads, key_heads, head_dim, [(context, context)])
            work = 2 * context * context * heads * head_dim  # two products, half of it masked
            (q, k, v), seconds = case.parts[0], timed_s(case.call(0))
            by_torch = timed_s(lambda q=q, k=k, v=v: attend_last(q, k, v, None))
            row = {"heads": f"{heads}/{key_heads}x{head_dim}", "what": f"prefill {context}"}
            row |= {"us": seconds * 1e6, "sdpa_us": by_torch * 1e6}
            row |= {"share": work / seconds / 1e12 / walls.bf16_tflop_s}
            found.append({key: rounded(value) for key, value in row.items()})
    return found
