"""NF4 against bitsandbytes: what is stored and what is computed with, bit for bit."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.model import nf4

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    functional: Any = pytest.importorskip("bitsandbytes.functional")
    from bitsandbytes.backends.default import ops

generic: Any = ops._dequantize_4bit_compute  # pyright: ignore[reportPrivateUsage]

# Even numbers of columns: for odd ones bitsandbytes compiles a fallback, which takes seconds.
# Its AVX-512 kernel takes wrong scales, far off the matrix, where a block goes on in the next row;
# there its own generic implementation, which tells what it means to compute, is the oracle.
SHAPES = ((64, 64), (48, 90), (8, 130), (1, 6), (257, 128), (600, 2048))


def weight(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(shape[0])
    made = torch.randn(shape, generator=generator) * 0.05
    made.view(-1)[: min(64, made.numel() // 2)] = 0  # a block of nothing
    return made.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("block", [32, 64, 256, 4096])
@pytest.mark.parametrize("double", [False, True])
def test_stored_and_dequantized_bits_are_those_of_bitsandbytes(
    dtype: torch.dtype, block: int, double: bool
) -> None:
    for shape in SHAPES:
        matrix = weight(shape, dtype)
        packed, state = functional.quantize_4bit(
            matrix, blocksize=block, quant_type="nf4", compress_statistics=double
        )
        ours = nf4.quantize(matrix, block=block, double=double)
        assert torch.equal(ours.packed, packed.view(-1))
        assert torch.equal(ours.scale_B, state.absmax)
        if double:
            assert ours.scale_scale is not None
            assert ours.offset is not None
            assert torch.equal(ours.scale_scale, state.state2.absmax)
            assert torch.equal(ours.offset, state.offset)
            assert torch.equal(nf4.dynamic_levels(), state.state2.code)
        made = nf4.dequantize(ours, dtype)
        scales = state.absmax
        if double:
            scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        assert torch.equal(made, generic(packed.view(-1), scales, state.code, block, shape, dtype))
        if shape[1] % block == 0 or shape[0] == 1:
            assert torch.equal(made, functional.dequantize_4bit(packed, state))


def test_many_double_quantized_scales_are_those_of_bitsandbytes() -> None:
    generator = torch.Generator().manual_seed(1)
    for spread in (1e-6, 0.02, 30.0):
        matrix = torch.randn((512, 4096), generator=generator) * spread
        packed, state = functional.quantize_4bit(
            matrix, blocksize=32, quant_type="nf4", compress_statistics=True
        )
        ours = nf4.quantize(matrix, block=32)
        assert torch.equal(ours.scale_B, state.absmax)
        assert torch.equal(
            nf4.dequantize(ours, torch.float32), functional.dequantize_4bit(packed, state)
        )


def test_a_matrix_that_bitsandbytes_stored_is_read() -> None:
    matrix = weight((48, 90), torch.float32)
    packed, state = functional.quantize_4bit(matrix, quant_type="nf4", compress_statistics=True)
    stored = nf4.Nf4(
        packed=packed.view(-1),
        scale_B=state.absmax,
        scale_scale=state.state2.absmax,
        offset=state.offset,
        block=64,
        rows=48,
        cols=90,
    )
    for dtype in (torch.float32, torch.bfloat16):
        state.dtype = dtype
        theirs = functional.dequantize_4bit(packed, state)
        assert torch.equal(nf4.dequantize(stored, dtype), theirs)
