"""Triton's products with dense, int8, int4 and fp8 weights against unpacked float32 weights."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels import elementwise
from triton_device import DEVICE, INTERPRETED, relative_error

# isort: split
from headrace.kernels.triton.linear import (
    TILED_ROWS,
    gated_linear,
    linear,
    normed_linear,
    round_rows,
    unpack,
)
from headrace.kernels.triton.matrix import DENSE, FP8, INT4, INT8, Matrix, join

FORMATS = (DENSE, INT8, INT4, FP8)
BARS = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device=DEVICE, dtype=dtype)


def make(
    format: str,
    rows: int,
    cols: int,
    *,
    group: int = 32,
    biased: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Matrix:
    bias = draw(seed + 1, rows, dtype=dtype) if biased else None
    if format == DENSE:
        return Matrix.dense(draw(seed, rows, cols, dtype=dtype), bias=bias)
    if format == FP8:
        weight = draw(seed, rows, cols).to(torch.float8_e4m3fn)
        return Matrix.fp8(weight, draw(seed + 2, rows).exp(), bias=bias)
    generator = torch.Generator().manual_seed(seed)
    low, high = (-127, 128) if format == INT8 else (-8, 8)
    q = torch.randint(low, high, (rows, cols), generator=generator, dtype=torch.int8).to(DEVICE)
    scale = draw(seed + 2, rows, -(-cols // group)).exp() / high
    return Matrix.quantized(q, scale, format=format, group=group, bias=bias)


def reference(x: Tensor, matrix: Matrix) -> Tensor:
    bias = None if matrix.bias is None else matrix.bias.float()
    return functional.linear(x.float(), matrix.unpacked(), bias)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_products(format: str, dtype: torch.dtype, rows: int) -> None:
    matrix = make(format, 50, 96, biased=rows != 2, dtype=dtype)
    x = draw(5, rows, 96, dtype=dtype)
    found = linear(x, matrix)
    assert found.dtype == dtype
    assert relative_error(found, reference(x, matrix)) < BARS[dtype]


@pytest.mark.parametrize("format", [INT8, INT4])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("rows", "outputs", "cols"), [(1, 9, 2200), (3, 33, 144), (1, 16, 2048)])
def test_groups_and_odd_sizes(format: str, group: int, rows: int, outputs: int, cols: int) -> None:
    matrix = make(format, outputs, cols, group=group)
    x = draw(5, rows, cols)
    assert relative_error(linear(x, matrix), reference(x, matrix)) < 3e-6


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows", [1, 5])
def test_neighbours(format: str, rows: int) -> None:
    matrix = make(format, 40, 70, biased=True)
    x, norm, stream = draw(5, rows, 70) * 3, draw(6, 70), draw(7, rows, 40)
    normed = elementwise.rms_norm(x, norm, 1e-5)
    assert relative_error(normed_linear(x, norm, 1e-5, matrix), reference(normed, matrix)) < 3e-6
    gate, up = reference(normed, matrix).chunk(2, dim=1)
    gated = gated_linear(x, norm, 1e-5, matrix)
    assert relative_error(gated, functional.silu(gate) * up) < 3e-6
    expected = stream + reference(x, matrix)
    found = linear(x, matrix, stream=stream)
    assert found is stream
    assert relative_error(found, expected) < 3e-6


@pytest.mark.parametrize("format", [INT8, INT4, FP8])
def test_many_rows_unpack_first(format: str) -> None:
    matrix = make(format, 40, 70, biased=True)
    assert torch.equal(unpack(matrix, torch.float32), matrix.unpacked())
    x, stream = draw(5, TILED_ROWS + 1, 70), draw(7, TILED_ROWS + 1, 40)
    expected = stream + reference(x, matrix)
    assert relative_error(linear(x, matrix, stream=stream), expected) < 3e-6


def test_fp8_rows() -> None:
    x = draw(5, 6, 96) * torch.tensor([1e-3, 1.0, 50.0, 1.0, 0.0, 1.0], device=DEVICE)[:, None]
    rounded = round_rows(x)
    back = rounded.x_MK.float() * rounded.scale_M[:, None]
    assert relative_error(back, x) < 0.04
    assert float(rounded.x_MK[0].float().abs().max()) == 448.0
    matrix = make(FP8, 50, 96, biased=True)
    found = linear(x, matrix, fp8_rows=True)
    assert relative_error(found, reference(back, matrix)) < (3e-6 if INTERPRETED else 1e-3)


@pytest.mark.parametrize("format", [INT8, INT4, FP8])
def test_a_row_does_not_depend_on_its_company(format: str) -> None:
    matrix = make(format, 50, 96)
    x = draw(5, 70, 96, dtype=torch.bfloat16)
    few, many = linear(x[:3], matrix), linear(x, matrix)
    assert torch.equal(few, many[:3])


@pytest.mark.parametrize("format", FORMATS)
def test_look_up(format: str) -> None:
    matrix = make(format, 50, 70)
    ids = torch.tensor([49, 0, 7, 7], dtype=torch.int32, device=DEVICE)
    assert torch.equal(matrix.look_up(ids), matrix.unpacked()[ids.long()])


def test_no_rows() -> None:
    for format in FORMATS:
        assert linear(draw(0, 0, 64), make(format, 10, 64)).shape == (0, 10)


def test_joined_rows() -> None:
    for format in FORMATS:
        parts = [make(format, rows, 64, biased=True, seed=rows) for rows in (10, 6)]
        x = draw(5, 2, 64)
        expected = torch.cat([reference(x, part) for part in parts], dim=1)
        assert relative_error(linear(x, join(parts)), expected) < 3e-6
    with pytest.raises(ValueError, match="several kinds"):
        join([make(INT8, 4, 64), make(INT8, 4, 64, group=64)])
    with pytest.raises(ValueError, match="some do not"):
        join([make(INT8, 4, 64), make(INT8, 4, 64, biased=True)])


def test_shapes_that_do_not_fit() -> None:
    q, scale = torch.zeros(4, 64, dtype=torch.int8), torch.ones(4, 2)
    with pytest.raises(ValueError, match="group 48"):
        Matrix.quantized(q, scale, format=INT8, group=48)
    with pytest.raises(ValueError, match=r"needs \(4, 1\)"):
        Matrix.quantized(q, scale, format=INT8, group=64)
