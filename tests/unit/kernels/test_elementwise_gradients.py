"""Gradients written out by hand against autograd's of the plain formulas."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels.elementwise import rms_norm, rotate


def _plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _near(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= 2e-6 * float(other.abs().max())


@pytest.mark.parametrize("shape", [(7, 12), (5, 3, 12), (1, 12)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, grad = torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape)
    found: list[list[Tensor]] = []
    for norm in (
        lambda a, w: rms_norm(a, w, 1e-6),
        lambda a, w: functional.rms_norm(a, w.shape, w, 1e-6),
    ):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = norm(a, w)
        out.backward(grad)
        assert a.grad is not None
        assert w.grad is not None
        found.append([out.detach(), a.grad, w.grad])
    assert all(_near(ours, theirs) for ours, theirs in zip(*found, strict=True))
    frozen = x.clone().requires_grad_()
    rms_norm(frozen, weight, 1e-6).backward(grad)
    assert frozen.grad is not None
    assert torch.equal(frozen.grad, found[0][1])


def test_rotate() -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(6, 3, 8), torch.randn(6, 3, 8)
    angle = torch.randn(6, 4)
    found: list[list[Tensor]] = []
    for turn in (rotate, _plain_rotate):
        a = x.clone().requires_grad_()
        out = turn(a, angle.cos(), angle.sin())
        out.backward(grad)
        assert a.grad is not None
        found.append([out.detach(), a.grad])
    assert all(_near(ours, theirs) for ours, theirs in zip(*found, strict=True))
    with torch.no_grad():
        assert _near(rotate(x, angle.cos(), angle.sin()), found[1][0])
