# Triton's types do not describe the language inside its kernels, nor how they are launched.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
"""Rows of `q | k | v` → rotated queries, and keys and values in their cache slots, in one pass.

One program takes one row and a few neighbouring heads of one kind. Where the model norms queries
and keys by head (Qwen3), that is done here too. Computed in float32 and rounded once.

Shapes: T rows, N query heads, K key heads, H head dim, P = H/2 pairs, C positions of the table.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from headrace.kernels.triton.launch import padded

_HEADS = 8
"""Heads one program takes at most."""


@triton.jit
def _halves(base, head_B, at_P, inside, P: tl.constexpr):
    """Both halves of some heads, `[B, P]` each, float32."""
    at = base + head_B[:, None] * (2 * P) + at_P[None, :]
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + P, mask=inside, other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _normed(a, b, weight, at_P, eps, P: tl.constexpr):
    """RMSNorm over a head."""
    factor = 1.0 / tl.sqrt_rn((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * P) + eps)
    w_a = tl.load(weight + at_P, mask=at_P < P, other=0.0).to(tl.float32)
    w_b = tl.load(weight + P + at_P, mask=at_P < P, other=0.0).to(tl.float32)
    return a * factor[:, None] * w_a[None, :], b * factor[:, None] * w_b[None, :]


@triton.jit
def _rotate_and_write(
    qkv, cos, sin, pos, slots, q_norm, k_norm, q_out, k_cache, v_cache, eps, stride,
    N: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_B
    head_B = tl.arange(0, BLOCK_B)
    at_P = tl.arange(0, BLOCK_P)
    inside = (head_B[:, None] >= 0) & (at_P[None, :] < P)
    dtype = q_out.dtype.element_ty
    a, b = _halves(qkv + row * stride + head * (2 * P), head_B, at_P, inside, P)
    slot = tl.load(slots + row).to(tl.int64)
    to_BP = head_B[:, None] * (2 * P) + at_P[None, :]
    if head >= N + K:
        to = v_cache + slot * (K * 2 * P) + (head - N - K) * (2 * P) + to_BP
        tl.store(to, a.to(dtype), mask=inside)
        tl.store(to + P, b.to(dtype), mask=inside)
    else:
        angle = tl.load(pos + row).to(tl.int64) * P + at_P
        cos_1P = tl.load(cos + angle, mask=at_P < P, other=0.0)[None, :]
        sin_1P = tl.load(sin + angle, mask=at_P < P, other=0.0)[None, :]
        if head < N:
            if NORM:
                a, b = _normed(a, b, q_norm, at_P, eps, P)
            to = q_out + row * (N * 2 * P) + head * (2 * P) + to_BP
        else:
            if NORM:
                a, b = _normed(a, b, k_norm, at_P, eps, P)
            to = k_cache + slot * (K * 2 * P) + (head - N) * (2 * P) + to_BP
        tl.store(to, (a * cos_1P - b * sin_1P).to(dtype), mask=inside)
        tl.store(to + P, (b * cos_1P + a * sin_1P).to(dtype), mask=inside)


def rotate_and_write(
    qkv_TX: Tensor,
    table: tuple[Tensor, Tensor],
    pos_T: Tensor,
    slots_T: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    heads: int,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Write the step's keys and values and return its queries, `[T, N, H]`.

    Args:
        qkv_TX: `[T, (N + 2 K) H]`: queries, keys, values.
        table: Cosine and sine of every position, float32 `[C, P]` each.
        pos_T: Position of each row.
        slots_T: Slot of each row in the caches; two rows may share only one that nobody reads.
        k_cache: `[blocks, block_tokens, K, H]`, contiguous, of the dtype of `qkv_TX`.
        v_cache: Likewise.
        heads: N.
        norms: Weights `[H]` of the norms of queries and of keys, where the model has them.
        eps: Of those norms.
    """
    rows, (key_heads, head_dim) = qkv_TX.shape[0], k_cache.shape[2:]
    q_TNH = torch.empty((rows, heads, head_dim), dtype=qkv_TX.dtype, device=qkv_TX.device)
    together = math.gcd(heads, key_heads, _HEADS)
    q_norm, k_norm = norms or (q_TNH, q_TNH)  # never read without norms
    if rows:
        _rotate_and_write[(rows, (heads + 2 * key_heads) // together)](
            qkv_TX, *table, pos_T, slots_T, q_norm, k_norm, q_TNH, k_cache, v_cache, eps,
            qkv_TX.stride(0),
            N=heads, K=key_heads, P=head_dim // 2,
            BLOCK_B=together, BLOCK_P=padded(head_dim // 2), NORM=norms is not None,
            num_warps=1 if together * head_dim <= 256 else 2,
        )  # fmt: skip
    return q_TNH
