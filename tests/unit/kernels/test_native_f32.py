"""Float32 matrices in packed tiles: the same numbers back, and torch's products."""

import pytest
import torch

import native_isas
from headrace.kernels.native import Matrix

SHAPES = [(1, 1, 1), (3, 5, 17), (25, 16, 16), (7, 37, 33), (60, 48, 130)]


@native_isas.needs_native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isa", native_isas.isas())
def test_products(isa: str, shape: tuple[int, int, int]) -> None:
    count, rows, cols = shape
    pool, scratch = native_isas.pool(isa, 2), native_isas.scratch(isa)
    generator = torch.Generator().manual_seed(4)
    weight_OI, bias_O, x_MI = (
        torch.randn(size, generator=generator) for size in ((rows, cols), (rows,), (count, cols))
    )
    matrix = Matrix.pack(pool, weight_OI, format="f32", bias=bias_O)
    assert matrix.describe() == "f32"
    assert torch.equal(matrix.unpack(), weight_OI)
    assert torch.equal(matrix.gather(torch.tensor([rows - 1, 0])), weight_OI[[rows - 1, 0]])
    wanted = (x_MI.double() @ weight_OI.double().T + bias_O).float()
    found = matrix.linear(pool, scratch, x_MI)
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))
    added = matrix.linear(pool, scratch, x_MI, add_to=torch.ones(count, rows))
    assert (added - found - 1).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@native_isas.needs_native
@pytest.mark.parametrize("isa", native_isas.isas())
def test_parts_are_put_in_turn(isa: str) -> None:
    pool = native_isas.pool(isa, 2)
    weight_OI = torch.randn(40, 24, generator=torch.Generator().manual_seed(5))
    matrix = Matrix.allocate(format="f32", rows=40, cols=24)
    matrix.put(pool, 16, weight_OI[16:])
    matrix.put(pool, 0, weight_OI[:16])
    assert torch.equal(matrix.unpack(), weight_OI)


@native_isas.needs_native
@pytest.mark.parametrize("isa", native_isas.isas())
def test_a_row_is_the_same_bits_among_any_others(isa: str) -> None:
    pool, scratch = native_isas.pool(isa, 2), native_isas.scratch(isa)
    generator = torch.Generator().manual_seed(6)
    matrix = Matrix.pack(pool, torch.randn(50, 70, generator=generator), format="f32")
    x_MI = torch.randn(53, 70, generator=generator)
    whole = matrix.linear(pool, scratch, x_MI)
    for row in (0, 7, 52):
        assert torch.equal(whole[row : row + 1], matrix.linear(pool, scratch, x_MI[row : row + 1]))
