# Triton's types do not describe the language inside its kernels, nor how they are launched.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
"""SwiGLU's gate: `silu(gate) * up`, of one matrix whose rows are gate, then up.

Computed in float32 and rounded once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 1024


@triton.jit
def _silu_mul(gate_up, out, F, stride, BLOCK_F: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at_F = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = at_F < F
    gate_F = tl.load(gate_up + row * stride + at_F, mask=inside, other=0.0).to(tl.float32)
    up_F = tl.load(gate_up + row * stride + F + at_F, mask=inside, other=0.0).to(tl.float32)
    gated_F = gate_F / (1.0 + tl.exp(-gate_F)) * up_F
    tl.store(out + row * F + at_F, gated_F.to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up_TG: Tensor) -> Tensor:
    """`silu(gate) * up`, `[T, F]` of `[T, 2F]`."""
    rows, inner = gate_up_TG.shape[0], gate_up_TG.shape[1] // 2
    out = torch.empty((rows, inner), dtype=gate_up_TG.dtype, device=gate_up_TG.device)
    if rows:
        grid = (rows, triton.cdiv(inner, _TILE))
        _silu_mul[grid](gate_up_TG, out, inner, gate_up_TG.stride(0), BLOCK_F=_TILE, num_warps=4)
    return out
