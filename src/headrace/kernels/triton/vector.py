# Triton's types do not describe the language inside its kernels, nor how they are launched.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
"""One row times a matrix: what decoding a single sequence is made of, bound by reading the weights.

A program takes a few outputs and all inputs, so nothing is joined between programs. The neighbours
of the product are done on the way, because at this size each would be a kernel that waits for the
last: RMSNorm of the input (its factor is common to all inputs, so it is applied to the sum), the
gate of gate-up matrices, and the sum with the residual stream.

Shapes: N outputs, K inputs, B outputs of a program; a load takes C groups of columns, E entries of
a row's data each.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headrace.kernels.triton.launch import padded
from headrace.kernels.triton.matrix import INT4, Matrix

_COLUMNS = 1024
"""Of one load; int4 takes twice as many, for the same bytes of a row in every thread."""


@triton.jit
def _columns(base, at_CE, K, WHOLE: tl.constexpr):
    """Entries of a vector, float32."""
    if WHOLE:
        return tl.load(base + at_CE).to(tl.float32)
    return tl.load(base + at_CE, mask=at_CE < K, other=0.0).to(tl.float32)


@triton.jit
def _input(x, norm, at_CE, K, NORM: tl.constexpr, WHOLE: tl.constexpr):
    """Columns of the input, times the norm's weight, and their squares."""
    x_CE = _columns(x, at_CE, K, WHOLE)
    if NORM:
        return x_CE * _columns(norm, at_CE, K, WHOLE), x_CE * x_CE
    return x_CE, x_CE


@triton.jit
def _products(
    data, scale, low_CE, high_CE, row_B, rows, inside_B, load, width,
    FORMAT: tl.constexpr, C: tl.constexpr, E: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The terms of some outputs' sums that one load adds, `[B, C, E]`."""
    at_CE = load * (C * E) + tl.arange(0, C)[:, None] * E + tl.arange(0, E)[None, :]
    at_BCE = data + row_B.to(tl.int64)[:, None, None] * width + at_CE[None, :, :]
    if WHOLE:
        w_BCE = tl.load(at_BCE)
    else:
        inside_BCE = inside_B[:, None, None] & (at_CE < width)[None, :, :]
        w_BCE = tl.load(at_BCE, mask=inside_BCE, other=0.0)
    if FORMAT == "int4":
        terms_BCE = ((w_BCE & 15).to(tl.int32) - 8).to(tl.float32) * low_CE[None, :, :]
        terms_BCE += ((w_BCE >> 4).to(tl.int32) - 8).to(tl.float32) * high_CE[None, :, :]
    else:
        terms_BCE = w_BCE.to(tl.float32) * low_CE[None, :, :]
    if FORMAT == "int4" or FORMAT == "int8":
        at_C = load * C + tl.arange(0, C)
        inside_BC = inside_B[:, None] & (at_C < width // E)[None, :]
        at_BC = scale + at_C[None, :] * rows + row_B[:, None]
        scale_BC = tl.load(at_BC, mask=inside_BC, other=0.0).to(tl.float32)
        terms_BCE = terms_BCE * scale_BC[:, :, None]
    return terms_BCE


@triton.jit
def _finish(sum_B, scale, bias, row_B, inside_B, factor, FORMAT: tl.constexpr, BIAS: tl.constexpr):
    """From a sum to an output."""
    if FORMAT == "fp8":
        sum_B = sum_B * tl.load(scale + row_B, mask=inside_B, other=0.0)
    sum_B = sum_B * factor
    if BIAS:
        sum_B += tl.load(bias + row_B, mask=inside_B, other=0.0).to(tl.float32)
    return sum_B


@triton.jit
def _vector(
    x, norm, data, scale, bias, stream, out, eps, N, K, width, rows,
    FORMAT: tl.constexpr, G: tl.constexpr, B: tl.constexpr, C: tl.constexpr, E: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr,
    WHOLE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row_B = tl.program_id(0) * B + tl.arange(0, B)
    inside_B = row_B < N
    first_CE = tl.arange(0, C)[:, None] * G + tl.arange(0, E)[None, :]
    sum_BCE = tl.zeros([B, C, E], tl.float32)
    up_BCE = tl.zeros([B, C, E], tl.float32)
    squares_CE = tl.zeros([C, E], tl.float32)
    for load in tl.range(0, tl.cdiv(K, C * G), num_stages=STAGES):
        at_CE = load * (C * G) + first_CE
        low_CE, square_CE = _input(x, norm, at_CE, K, NORM, WHOLE)
        squares_CE += square_CE
        high_CE = low_CE
        if FORMAT == "int4":
            high_CE, square_CE = _input(x, norm, at_CE + E, K, NORM, WHOLE)
            squares_CE += square_CE
        sum_BCE += _products(
            data, scale, low_CE, high_CE, row_B, rows, inside_B, load, width, FORMAT, C, E, WHOLE
        )
        if GATED:
            up_BCE += _products(
                data, scale, low_CE, high_CE, row_B + N, rows, inside_B, load, width,
                FORMAT, C, E, WHOLE,
            )  # fmt: skip
    factor = 1.0
    if NORM:
        factor = 1.0 / tl.sqrt_rn(tl.sum(tl.sum(squares_CE, 1), 0) / K + eps)
    sum_B = tl.sum(tl.sum(sum_BCE, 2), 1)
    out_B = _finish(sum_B, scale, bias, row_B, inside_B, factor, FORMAT, BIAS)
    if GATED:
        up_B = tl.sum(tl.sum(up_BCE, 2), 1)
        up_B = _finish(up_B, scale, bias, row_B + N, inside_B, factor, FORMAT, BIAS)
        out_B = out_B / (1.0 + tl.exp(-out_B)) * up_B
    if ADD:
        out_B += tl.load(stream + row_B, mask=inside_B, other=0.0).to(tl.float32)
    tl.store(out + row_B, out_B.to(out.dtype.element_ty), mask=inside_B)


def multiply_vector(
    x_1K: Tensor,
    matrix: Matrix,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
    stream: Tensor | None = None,
) -> Tensor:
    """`x @ W^T + bias` of a single row, and its neighbours.

    Args:
        x_1K: The row.
        matrix: W; with `gated` its rows are gate, then up.
        norm: Weight of the RMSNorm of x that comes first.
        eps: Of that norm.
        gated: The outputs are `silu(gate) * up`, half as many as W has rows.
        stream: `[1, N]` that the outputs are added to, in place.
    """
    outputs = matrix.rows // 2 if gated else matrix.rows
    out = stream
    if out is None:
        out = torch.empty((1, outputs), dtype=x_1K.dtype, device=x_1K.device)
    halves = 2 if matrix.format == INT4 else 1
    group = matrix.group or min(_COLUMNS, padded(matrix.cols, 16))
    together = max(1, min(_COLUMNS * halves // group, padded(matrix.cols // group)))
    programs = 4 if gated else 8
    width = matrix.data.shape[1]
    whole = outputs % programs == 0 and matrix.cols % (group * together) == 0
    _vector[(triton.cdiv(outputs, programs),)](
        x_1K, norm, matrix.data, matrix.scale, matrix.bias, stream, out,
        eps, outputs, matrix.cols, width, matrix.rows,
        FORMAT=matrix.format, G=group, B=programs, C=together, E=group // halves,
        NORM=norm is not None, GATED=gated, BIAS=matrix.bias is not None, ADD=stream is not None,
        WHOLE=whole, STAGES=3,
        num_warps=4,
    )  # fmt: skip
    return out
