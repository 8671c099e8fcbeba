# Triton's types do not describe the language inside its kernels, nor how they are launched.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
"""RMSNorm: one program a row, the whole row in registers.

Computed in float32 and rounded once, as `elementwise.rms_norm` does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headrace.kernels.triton.launch import WIDEST_TILE, padded


@triton.jit
def _rms_norm(x, weight, out, eps, stride, D: tl.constexpr, BLOCK_D: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at_D = tl.arange(0, BLOCK_D)
    inside = at_D < D
    x_D = tl.load(x + row * stride + at_D, mask=inside, other=0.0).to(tl.float32)
    weight_D = tl.load(weight + at_D, mask=inside, other=0.0).to(tl.float32)
    factor = 1.0 / tl.sqrt_rn(tl.sum(x_D * x_D) / D + eps)
    tl.store(out + row * D + at_D, (x_D * factor * weight_D).to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / rms(x) * weight` over the last dimension; no gradient."""
    width = x.shape[-1]
    if width > WIDEST_TILE:
        raise ValueError(f"rows of {width} exceed {WIDEST_TILE}, the widest this kernel takes")
    rows = x.reshape(-1, width)
    out = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    if rows.shape[0]:
        _rms_norm[(rows.shape[0],)](
            rows,
            weight,
            out,
            eps,
            rows.stride(0),
            D=width,
            BLOCK_D=padded(width),
            num_warps=4 if width <= 4096 else 8,
        )
    return out.view(x.shape)
