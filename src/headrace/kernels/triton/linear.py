# Triton's types do not describe the language inside its kernels, nor how they are launched.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
"""Rows times a matrix, for any number of rows and any format: which kernel runs, and the kernels.

    rows        dense      int8, int4, fp8
    1           vector     vector                      (`vector`; fused with its neighbours)
    2..128      cuBLAS     `_multiply`: unpacked in registers, tile by tile
    129..       cuBLAS     unpacked whole, then cuBLAS
    any         -          fp8 with activations rounded to fp8: `_multiply` on fp8 units

Invariant: where `vector` or `_multiply` runs on bfloat16 or float16 rows, a row's result is the
same bits whatever the other rows are. cuBLAS chooses by shape, and so do fp8 rows past 64. Bound:
2 to about 64 rows read the weights once and are as fast as that; past it the products dominate.

Shapes: M rows, N outputs, K inputs.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from headrace.kernels.triton.gate import silu_mul
from headrace.kernels.triton.launch import padded, product
from headrace.kernels.triton.matrix import DENSE, FP8, INT4, Matrix
from headrace.kernels.triton.norm import rms_norm
from headrace.kernels.triton.vector import multiply_vector

TILED_ROWS = 128
"""Up to so many rows quantized weights are unpacked tile by tile."""

_COLUMNS = 128
"""Inputs of one load: a whole cache line of a row of int8."""


@triton.jit
def _tile(base, at_R, inside_R, at_C, width, WHOLE: tl.constexpr):
    """A tile of rows and columns of a row-major matrix, zero outside."""
    at_RC = base + at_R.to(tl.int64)[:, None] * width + at_C[None, :]
    if WHOLE:
        return tl.load(at_RC, mask=inside_R[:, None], other=0.0)
    return tl.load(at_RC, mask=inside_R[:, None] & (at_C < width)[None, :], other=0.0)


@triton.jit
def _exactly(q, dtype: tl.constexpr):
    """Small integers as floats; by way of float32, because the interpreter knows no other to
    bfloat16."""
    return q.to(tl.float32).to(dtype)


@triton.jit
def _multiply(
    x, data, scale, x_scale, bias, stream, out, M, N, K, width,
    FORMAT: tl.constexpr, G: tl.constexpr, TOGETHER: tl.constexpr,
    BIAS: tl.constexpr, ADD: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # Weights are the left operand: unpacked values go from registers straight into the product, and
    # outputs, of which there are many, fill the tensor cores' rows however few rows x has.
    at_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at_M = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_N = at_N < N
    inside_M = at_M < M
    sum_NM = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for chunk in tl.range(0, tl.cdiv(K, G * TOGETHER), num_stages=STAGES):
        for part in tl.static_range(TOGETHER):
            group = chunk * TOGETHER + part
            at_G = group * G + tl.arange(0, G)
            if FORMAT == "fp8":
                w_NG = _tile(data, at_N, inside_N, at_G, width, WHOLE)
                x_MG = _tile(x, at_M, inside_M, at_G, K, WHOLE)
                sum_NM = product(w_NG.to(x_MG.dtype), tl.trans(x_MG), sum_NM)
            else:
                part_NM = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
                if FORMAT == "int8":
                    w_NG = _tile(data, at_N, inside_N, at_G, width, WHOLE)
                    x_MG = _tile(x, at_M, inside_M, at_G, K, WHOLE)
                    part_NM = product(_exactly(w_NG, x_MG.dtype), tl.trans(x_MG), part_NM)
                else:
                    at_H = tl.arange(0, G // 2)
                    w_NH = _tile(data, at_N, inside_N, group * (G // 2) + at_H, width, WHOLE)
                    low_MH = _tile(x, at_M, inside_M, group * G + at_H, K, WHOLE)
                    high_MH = _tile(x, at_M, inside_M, group * G + G // 2 + at_H, K, WHOLE)
                    low_NH = _exactly((w_NH & 15).to(tl.int8) - 8, low_MH.dtype)
                    high_NH = _exactly((w_NH >> 4).to(tl.int8) - 8, low_MH.dtype)
                    part_NM = product(low_NH, tl.trans(low_MH), part_NM)
                    part_NM = product(high_NH, tl.trans(high_MH), part_NM)
                inside_s = inside_N & (group * G < K)
                scale_N = tl.load(scale + group * N + at_N, mask=inside_s, other=0.0)
                sum_NM += part_NM * scale_N.to(tl.float32)[:, None]
    if FORMAT == "fp8":
        sum_NM *= tl.load(scale + at_N, mask=inside_N, other=0.0)[:, None]
        if x.dtype.element_ty == data.dtype.element_ty:  # both operands are fp8
            sum_NM *= tl.load(x_scale + at_M, mask=inside_M, other=0.0)[None, :]
    if BIAS:
        sum_NM += tl.load(bias + at_N, mask=inside_N, other=0.0).to(tl.float32)[:, None]
    to_NM = at_M.to(tl.int64)[None, :] * N + at_N[:, None]
    inside_NM = inside_N[:, None] & inside_M[None, :]
    if ADD:
        sum_NM += tl.load(stream + to_NM, mask=inside_NM, other=0.0).to(tl.float32)
    tl.store(out + to_NM, sum_NM.to(out.dtype.element_ty), mask=inside_NM)


@triton.jit
def _unpack(
    data, scale, out, N, K, width,
    FORMAT: tl.constexpr, G: tl.constexpr, BLOCK_N: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    at_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_N = at_N < N
    group = tl.program_id(1)
    at_E = tl.arange(0, E)
    w_NE = _tile(data, at_N, inside_N, group * E + at_E, width, False)
    scale_N = tl.load(
        scale + at_N + (0 if FORMAT == "fp8" else group * N), mask=inside_N, other=0.0
    )
    scale_N1 = scale_N.to(tl.float32)[:, None]
    low_NE = w_NE
    if FORMAT == "int4":
        low_NE = (w_NE & 15).to(tl.int32) - 8
        high_NE = (w_NE >> 4).to(tl.int32) - 8
    at_K = group * G + at_E
    to_NE = out + at_N.to(tl.int64)[:, None] * K + at_K[None, :]
    low_NE = (low_NE.to(tl.float32) * scale_N1).to(out.dtype.element_ty)
    tl.store(to_NE, low_NE, mask=inside_N[:, None] & (at_K < K)[None, :])
    if FORMAT == "int4":
        high_NE = (high_NE.to(tl.float32) * scale_N1).to(out.dtype.element_ty)
        tl.store(to_NE + E, high_NE, mask=inside_N[:, None] & (at_K + E < K)[None, :])


@triton.jit
def _round_rows(x, out, scale, stride, K: tl.constexpr, BLOCK_K: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at_K = tl.arange(0, BLOCK_K)
    x_K = tl.load(x + row * stride + at_K, mask=at_K < K, other=0.0).to(tl.float32)
    step = tl.maximum(tl.max(tl.abs(x_K), 0), 1e-12) / 448.0
    x_K = tl.minimum(tl.maximum(x_K / step, -448.0), 448.0)
    tl.store(out + row * K + at_K, x_K.to(out.dtype.element_ty), mask=at_K < K)
    tl.store(scale + row, step)


class Rounded(NamedTuple):
    """Rows in e4m3, and the scale of each."""

    x_MK: Tensor
    scale_M: Tensor


def round_rows(x_MK: Tensor) -> Rounded:
    """Rows to fp8, each so that its largest entry is e4m3's."""
    rows, width = x_MK.shape
    out = torch.empty((rows, width), dtype=torch.float8_e4m3fn, device=x_MK.device)
    scale = torch.empty(rows, dtype=torch.float32, device=x_MK.device)
    if rows:
        _round_rows[(rows,)](
            x_MK, out, scale, x_MK.stride(0), K=width, BLOCK_K=padded(width), num_warps=8
        )
    return Rounded(out, scale)


def unpack(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """A quantized matrix as a dense one, for products with many rows."""
    out = torch.empty((matrix.rows, matrix.cols), dtype=dtype, device=matrix.data.device)
    group = matrix.group or _COLUMNS
    entries = group // 2 if matrix.format == INT4 else group
    _unpack[(triton.cdiv(matrix.rows, 32), triton.cdiv(matrix.cols, group))](
        matrix.data, matrix.scale, out, matrix.rows, matrix.cols, matrix.data.shape[1],
        FORMAT=matrix.format, G=group, BLOCK_N=32, E=entries, num_warps=4,
    )  # fmt: skip
    return out


def linear(
    x_MK: Tensor, matrix: Matrix, *, stream: Tensor | None = None, fp8_rows: bool = False
) -> Tensor:
    """`x @ W^T + bias`.

    Args:
        x_MK: Contiguous rows.
        matrix: W.
        stream: `[M, N]` that the result is added to, in place.
        fp8_rows: With an fp8 matrix and more than one row: round x to fp8 too.
    """
    rows = x_MK.shape[0]
    if rows == 1:
        return multiply_vector(x_MK, matrix, stream=stream)
    if matrix.format == FP8 and fp8_rows:
        rounded = round_rows(x_MK)
        return _tiled(rounded.x_MK, matrix, stream, rounded.scale_M, x_MK.dtype)
    if matrix.format != DENSE and rows <= TILED_ROWS:
        return _tiled(x_MK, matrix, stream, None, x_MK.dtype)
    weight = matrix.data if matrix.format == DENSE else unpack(matrix, x_MK.dtype)
    if stream is None:
        return functional.linear(x_MK, weight, matrix.bias)
    stream.addmm_(x_MK, weight.t())
    return stream if matrix.bias is None else stream.add_(matrix.bias)


def normed_linear(
    x_MK: Tensor, norm: Tensor, eps: float, matrix: Matrix, *, fp8_rows: bool = False
) -> Tensor:
    """RMSNorm, then `linear`."""
    if x_MK.shape[0] == 1:
        return multiply_vector(x_MK, matrix, norm=norm, eps=eps)
    return linear(rms_norm(x_MK, norm, eps), matrix, fp8_rows=fp8_rows)


def gated_linear(
    x_MK: Tensor, norm: Tensor, eps: float, gate_up: Matrix, *, fp8_rows: bool = False
) -> Tensor:
    """RMSNorm, then `silu(gate) * up` of a matrix whose rows are gate, then up."""
    if x_MK.shape[0] == 1:
        return multiply_vector(x_MK, gate_up, norm=norm, eps=eps, gated=True)
    return silu_mul(normed_linear(x_MK, norm, eps, gate_up, fp8_rows=fp8_rows))


class _Shape(NamedTuple):
    rows: int
    outputs: int
    warps: int
    stages: int


def _shape(rows: int, matrix: Matrix, x_bytes: int) -> _Shape:
    """Tiles of a product: narrow ones where few outputs must keep all multiprocessors reading."""
    block_m = min(padded(rows, 16), 128 if x_bytes == 1 else 64)
    if x_bytes == 1 and rows > 64:
        return _Shape(rows=128, outputs=128, warps=8, stages=3)
    if x_bytes > 2:
        return _Shape(rows=min(block_m, 32), outputs=32, warps=4, stages=1)
    if matrix.rows <= 4096:
        return _Shape(rows=block_m, outputs=16, warps=2, stages=4)
    if matrix.rows <= 8192:
        return _Shape(rows=block_m, outputs=32, warps=4, stages=4)
    return _Shape(rows=block_m, outputs=64, warps=4, stages=4)


def _tiled(
    x_MK: Tensor,
    matrix: Matrix,
    stream: Tensor | None,
    x_scale_M: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    rows = x_MK.shape[0]
    out = stream
    if out is None:
        out = torch.empty((rows, matrix.rows), dtype=dtype, device=x_MK.device)
    if rows == 0:
        return out
    shape = _shape(rows, matrix, x_MK.dtype.itemsize)
    group = matrix.group or _COLUMNS
    _multiply[(triton.cdiv(matrix.rows, shape.outputs), triton.cdiv(rows, shape.rows))](
        x_MK, matrix.data, matrix.scale, x_scale_M, matrix.bias, stream, out,
        rows, matrix.rows, matrix.cols, matrix.data.shape[1],
        FORMAT=matrix.format, G=group, TOGETHER=max(1, _COLUMNS // group),
        BIAS=matrix.bias is not None, ADD=stream is not None,
        WHOLE=matrix.cols % max(group, _COLUMNS) == 0,
        BLOCK_M=shape.rows, BLOCK_N=shape.outputs, STAGES=shape.stages,
        num_warps=shape.warps,
    )  # fmt: skip
    return out
