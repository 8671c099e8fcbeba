"""Attention over documents packed end to end, block-causal or sliding-window: torch reference.

Invariant: a document's output is a function of that document's rows alone, bitwise: documents are
attended one by one, so not even a NaN crosses a boundary. Differentiable.

Shapes: T packed tokens, N query heads, K key heads, H head dim, L tokens of one document.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedPlan:
    """Where each document of a packed row begins and ends: rows `bounds[i]` to `bounds[i + 1]`."""

    bounds: Sequence[int]


def plan_packed(doc_T: Tensor) -> PackedPlan:
    """The plan of a row of document ids; a document is a run of equal ids."""
    if doc_T.numel() == 0:
        return PackedPlan(bounds=(0,))
    changes = (torch.nonzero(doc_T[1:] != doc_T[:-1]).flatten() + 1).tolist()
    return PackedPlan(bounds=(0, *changes, doc_T.numel()))


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """True where query i, the `queries` last of `keys` positions, may look at key j.

    A window counts the token itself: `window` 1 sees nothing but itself.
    """
    position_Q1 = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    distance_QL = position_Q1 - torch.arange(keys, device=device)
    seen_QL = distance_QL >= 0
    return seen_QL if window is None else seen_QL & (distance_QL < window)


def packed_attention(
    q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, plan: PackedPlan, window: int | None
) -> Tensor:
    """Causal attention inside each document."""
    parts: list[Tensor] = []
    for start, end in zip(plan.bounds[:-1], plan.bounds[1:], strict=True):
        rows = slice(start, end)
        parts.append(attend_last(q_TNH[rows], k_TKH[rows], v_TKH[rows], window))
    return torch.cat(parts) if parts else torch.empty_like(q_TNH)


def attend_last(q_TNH: Tensor, k_LKH: Tensor, v_LKH: Tensor, window: int | None) -> Tensor:
    """Causal attention of the last T of L positions over all L."""
    queries, keys = q_TNH.shape[0], k_LKH.shape[0]
    whole = queries == keys and (window is None or window >= keys)
    mask = None if whole else causal_mask(queries, keys, window, q_TNH.device)
    o_1NTH = functional.scaled_dot_product_attention(
        q_TNH.transpose(0, 1).unsqueeze(0),
        k_LKH.transpose(0, 1).unsqueeze(0),
        v_LKH.transpose(0, 1).unsqueeze(0),
        attn_mask=mask,
        is_causal=whole,
        enable_gqa=q_TNH.shape[1] != k_LKH.shape[1],
    )
    return o_1NTH.squeeze(0).transpose(0, 1)
