"""Triton's norm, gate and rotation against the torch references."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels import elementwise
from headrace.kernels.paged import write_cache
from triton_device import DEVICE, relative_error

# isort: split
from headrace.kernels.triton.gate import silu_mul
from headrace.kernels.triton.norm import rms_norm
from headrace.kernels.triton.rope import rotate_and_write

# The interpreter cuts bfloat16 off where a GPU rounds.
BARS = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 6e-4}
dtypes = pytest.mark.parametrize("dtype", BARS)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device=DEVICE, dtype=dtype)


@dtypes
@pytest.mark.parametrize("shape", [(1, 48), (5, 64), (2, 3, 80), (0, 16)])
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight = draw(0, *shape, dtype=dtype) * 3, draw(1, shape[-1], dtype=dtype)
    found = rms_norm(x, weight, 1e-5)
    assert found.dtype == dtype
    assert found.shape == x.shape
    if x.numel():
        expected = elementwise.rms_norm(x.float(), weight.float(), 1e-5)
        assert relative_error(found, expected) < BARS[dtype]


def test_rms_norm_of_strided_rows() -> None:
    x, weight = draw(0, 6, 96), draw(1, 32)
    expected = elementwise.rms_norm(x[:, 32:64], weight, 1e-5)
    assert relative_error(rms_norm(x[:, 32:64], weight, 1e-5), expected) < 2e-6


@dtypes
@pytest.mark.parametrize(("rows", "inner"), [(1, 90), (3, 1030), (0, 8)])
def test_silu_mul(dtype: torch.dtype, rows: int, inner: int) -> None:
    gate_up = draw(2, rows, 2 * inner, dtype=dtype)
    found = silu_mul(gate_up)
    assert found.shape == (rows, inner)
    if rows:
        gate, up = gate_up.chunk(2, dim=1)
        expected = functional.silu(gate.float()) * up.float()
        assert relative_error(found, expected) < BARS[dtype]


@dtypes
@pytest.mark.parametrize(("heads", "key_heads", "head_dim"), [(6, 2, 8), (8, 8, 64), (7, 1, 80)])
@pytest.mark.parametrize("normed", [False, True])
def test_rotate_and_write(
    dtype: torch.dtype, heads: int, key_heads: int, head_dim: int, normed: bool
) -> None:
    rows, pairs = 5, head_dim // 2
    qkv = draw(3, rows, (heads + 2 * key_heads) * head_dim, dtype=dtype)
    table = (draw(4, 40, pairs), draw(5, 40, pairs))
    pos = torch.tensor([0, 39, 7, 7, 12], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([9, 3, 15, 0, 8], dtype=torch.int32, device=DEVICE)
    norms = (draw(6, head_dim, dtype=dtype), draw(7, head_dim, dtype=dtype)) if normed else None
    found = torch.full((2, 4, 4, key_heads, head_dim), -7.0, dtype=dtype, device=DEVICE)
    q = rotate_and_write(
        qkv, table, pos, slots, found[0], found[1], heads=heads, norms=norms, eps=1e-5
    )

    parts = qkv.unflatten(-1, (-1, head_dim)).split([heads, key_heads, key_heads], dim=1)
    turned: list[Tensor] = []
    for part, norm in zip(parts[:2], norms or (None, None), strict=True):
        flat = part.float()
        if norm is not None:
            flat = elementwise.rms_norm(flat, norm.float(), 1e-5)
        turned.append(elementwise.rotate(flat, table[0][pos.long()], table[1][pos.long()]))
    expected = torch.full_like(found, -7.0)
    write_cache(expected[0], expected[1], slots.long(), turned[1].to(dtype), parts[2])
    assert relative_error(q, turned[0]) < BARS[dtype]
    assert relative_error(found[0], expected[0]) < BARS[dtype]
    assert torch.equal(found[1], expected[1])  # values are copied, and no other slot is touched
    untouched = torch.ones(16, dtype=torch.bool)
    untouched[slots.cpu().long()] = False
    assert (found[0].flatten(0, 1)[untouched.to(DEVICE)] == -7.0).all()
