"""Native products where they are large, degenerate or wrong."""

import pytest
import torch

from headrace.kernels import native, tiles
from headrace.kernels.native import Matrix
from native_isas import isas, needs_native, pool, scratch

SHAPES = [("bf16", 0), ("int8", 32), ("int8", 128), ("int4", 64)]


def made(isa: str, format: str, group: int, rows: int, cols: int) -> Matrix:
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(1)).bfloat16()
    if format == "bf16":
        return Matrix.pack(pool(isa), weight)
    chosen: native.QuantizedFormat = "int8" if format == "int8" else "int4"
    return Matrix.quantize(pool(isa), weight, format=chosen, group=group)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(("format", "group"), SHAPES)
def test_more_activations_than_a_cache_holds(isa: str, format: str, group: int) -> None:
    """The order of the work differs (several spans); the bits do not."""
    matrix = made(isa, format, group, rows=40, cols=2048)
    x_MI = torch.randn(700, 2048, generator=torch.Generator().manual_seed(2))
    whole = matrix.linear(pool(isa, 2), scratch(isa), x_MI)
    parts = [matrix.linear(pool(isa), scratch(isa), part) for part in x_MI.split(13)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(("format", "group"), SHAPES)
def test_accumulating_adds_to_what_was_there(isa: str, format: str, group: int) -> None:
    matrix = made(isa, format, group, rows=37, cols=96)
    x_MI, before = torch.randn(9, 96), torch.randn(9, 37)
    product = matrix.linear(pool(isa), scratch(isa), x_MI)
    out = matrix.linear(pool(isa), scratch(isa), x_MI, add_to=before.clone())
    assert torch.equal(out, before + product)


@pytest.mark.parametrize("isa", isas())
def test_every_build_says_what_it_is(isa: str) -> None:
    assert pool(isa).library.isa == isa


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_extreme_weights_round_as_the_reference_rounds_them(
    isa: str, format: native.QuantizedFormat
) -> None:
    """Zeros, equal magnitudes of both signs, scales that are subnormal, zero or beyond float16."""
    rows = [
        torch.zeros(64),
        torch.tensor([1.0, -1.0]).repeat(32),
        torch.full((64,), 1e-6),
        torch.full((64,), 1e-12),
        torch.linspace(-1e30, 1e30, 64),
        torch.tensor([0.5, 1.5, 2.5, -127.0]).repeat(16),
    ]
    weight = torch.stack(rows).bfloat16()
    found = native.quantize(pool(isa), weight, format=format, group=32)
    expected = tiles.quantize(weight, format, 32)
    assert torch.equal(found.scales_OG, expected.scale)
    assert torch.equal(found.q_OI, expected.q)


@pytest.mark.parametrize("isa", isas())
def test_activations_too_small_for_a_scale_are_zeros(isa: str) -> None:
    matrix = made(isa, "int8", 32, rows=16, cols=32)
    out = matrix.linear(pool(isa), scratch(isa), torch.full((1, 32), 1e-38))
    assert torch.equal(out, torch.zeros(1, 16))


@needs_native
def test_what_does_not_fit_is_refused() -> None:
    matrix = Matrix.pack(native.Pool(1), torch.zeros(16, 32))
    threads, memory = native.Pool(1), native.Scratch()
    with pytest.raises(ValueError, match="x has 31 columns, the matrix 32"):
        matrix.linear(threads, memory, torch.zeros(1, 31))
    with pytest.raises(ValueError, match="no packed form for int8 16 x 32 in groups of 48"):
        native.packed_bytes("int8", rows=16, cols=32, group=48)
    with pytest.raises(ValueError, match="expected 1088"):
        Matrix.from_packed(
            torch.zeros(5, dtype=torch.uint8), format="int8", rows=16, cols=64, group=32
        )
    with pytest.raises(ValueError, match="shapes that do not fit"):
        native.check(
            threads.library.hr_gather(
                matrix.struct, 1, torch.tensor([16], dtype=torch.int32).data_ptr(), 0
            )
        )
