"""RMS normalisation and the rotation of queries and keys: torch references.

Invariant: both compute in float32 and return the dtype they were given, so a bfloat16 model loses
nothing here but the final rounding; what they return is the same bits whether a gradient is wanted
or not (an importance ratio of policy training is exactly 1 by it). Gradients are written out by
hand: what autograd makes of the same formulas takes three times as many passes over memory.

Shapes: T tokens, N heads, H head dim, P = H/2 pairs, D the last dimension of anything.

Sources: Zhang and Sennrich 2019 (RMSNorm); Su et al. 2021 (RoPE) in the two-halves layout that
Hugging Face checkpoints are stored for (pairs are `i` and `i + H/2`, not `2i` and `2i + 1`).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / rms(x) * weight` over the last dimension."""
    if x.dtype == weight.dtype == torch.float32:
        if torch.is_grad_enabled():
            return _RmsNorm.apply(x, weight, eps)
        return (x * _scale(x, eps)).mul_(weight)
    return functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def rotate(x_TNH: Tensor, cos_TP: Tensor, sin_TP: Tensor) -> Tensor:
    """Turn each pair `(x[i], x[i + P])` of a head by its position's angle; P = H/2, float32."""
    if x_TNH.dtype == torch.float32:
        if torch.is_grad_enabled():
            return _Rotate.apply(x_TNH, cos_TP, sin_TP)
        return _turned(x_TNH, cos_TP, sin_TP, back=False)
    cos_T1P, sin_T1P = cos_TP.unsqueeze(1), sin_TP.unsqueeze(1)
    a_TNP, b_TNP = x_TNH.float().chunk(2, dim=-1)
    turned = torch.cat(
        (a_TNP * cos_T1P - b_TNP * sin_T1P, b_TNP * cos_T1P + a_TNP * sin_T1P), dim=-1
    )
    return turned.to(x_TNH.dtype)


def _scale(x: Tensor, eps: float) -> Tensor:
    return x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()


class _RmsNorm(torch.autograd.Function):
    """With n = x / rms(x): d/dx = (g w - n mean(g w n)) / rms(x), d/dw = sum over rows of g n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight_D)
        return normed * weight_D

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides it
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        normed, scale, weight_D = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        along = grad * normed
        grad_weight_D = along.flatten(0, -2).sum(0) if wants_weight else None
        if not wants_x:
            return None, grad_weight_D, None
        mean = (along @ weight_D).unsqueeze(-1).div_(weight_D.numel())
        grad_x = (grad * weight_D).addcmul_(normed, mean, value=-1).mul_(scale)
        return grad_x, grad_weight_D, None


class _Rotate(torch.autograd.Function):
    """A rotation; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x_TNH: Tensor, cos_TP: Tensor, sin_TP: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TP, sin_TP)
        return _turned(x_TNH, cos_TP, sin_TP, back=False)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides it
        ctx: Any, grad_TNH: Tensor
    ) -> tuple[Tensor | None, ...]:
        cos_TP, sin_TP = ctx.saved_tensors
        return _turned(grad_TNH, cos_TP, sin_TP, back=True), None, None


def _turned(x_TNH: Tensor, cos_TP: Tensor, sin_TP: Tensor, *, back: bool) -> Tensor:
    pairs = cos_TP.shape[-1]
    turned_TNH = x_TNH * torch.cat((cos_TP, cos_TP), dim=-1).unsqueeze(1)
    sin_T1P = -sin_TP.unsqueeze(1) if back else sin_TP.unsqueeze(1)
    # Products rounded before they are added, as every other implementation does: addcmul_ fuses.
    turned_TNH[..., :pairs].sub_(x_TNH[..., pairs:] * sin_T1P)
    turned_TNH[..., pairs:].add_(x_TNH[..., :pairs] * sin_T1P)
    return turned_TNH
