"""Norms and rotations are the same bits with a gradient and without."""

import pytest
import torch

from headrace.kernels.elementwise import rms_norm, rotate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_changes_no_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(13, 4, 16, generator=generator).to(dtype)
    weight = torch.randn(16, generator=generator).to(dtype)
    angle = torch.randn(13, 8, generator=generator)
    cos, sin = angle.cos(), angle.sin()
    with torch.no_grad():
        normed, turned = rms_norm(x, weight, 1e-6), rotate(x, cos, sin)
    x.requires_grad_()
    assert torch.equal(rms_norm(x, weight.requires_grad_(), 1e-6), normed)
    assert torch.equal(rotate(x, cos, sin), turned)
