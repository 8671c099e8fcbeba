"""RMS normalisation and the rotation of queries and keys: torch references.

Invariant: both compute in float32 and return the dtype they were given, so a bfloat16 model loses
nothing here but the final rounding. Shapes: T tokens, N heads, H head dim.

Sources: Zhang and Sennrich 2019 (RMSNorm); Su et al. 2021 (RoPE) in the two-halves layout that
Hugging Face checkpoints are stored for (pairs are `i` and `i + H/2`, not `2i` and `2i + 1`).
"""

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / rms(x) * weight` over the last dimension."""
    return functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def rotate(x_TNH: Tensor, cos_TP: Tensor, sin_TP: Tensor) -> Tensor:
    """Turn each pair `(x[i], x[i + P])` of a head by its position's angle; P = H/2, float32."""
    cos_T1P, sin_T1P = cos_TP.unsqueeze(1), sin_TP.unsqueeze(1)
    a_TNP, b_TNP = x_TNH.float().chunk(2, dim=-1)
    turned = torch.cat(
        (a_TNP * cos_T1P - b_TNP * sin_T1P, b_TNP * cos_T1P + a_TNP * sin_T1P), dim=-1
    )
    return turned.to(x_TNH.dtype)
