"""Attention over documents packed end to end, block-causal or sliding-window: torch reference.

Invariant: a document's output is a function of that document's rows alone, bitwise: documents are
attended apart, so not even a NaN crosses a boundary. Differentiable.

Shapes: T packed tokens, N query heads, K key heads, H head dim, L tokens of one document, B
documents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter

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
    """Causal attention inside each document; neighbours of one length share a call."""
    parts: list[Tensor] = []
    for rows, length in _runs(plan.bounds):
        q_BLNH, k_BLKH, v_BLKH = (x[rows].unflatten(0, (-1, length)) for x in (q_TNH, k_TKH, v_TKH))
        parts.append(_attend(q_BLNH, k_BLKH, v_BLKH, window).flatten(0, 1))
    return torch.cat(parts) if parts else torch.empty_like(q_TNH)


def _runs(bounds: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Rows of neighbouring documents that are equally long, and how long each is."""
    lengths = ((end - start, start) for start, end in pairwise(bounds))
    for length, group in groupby(lengths, key=itemgetter(0)):
        starts = [start for _, start in group]
        yield slice(starts[0], starts[-1] + length), length


def attend_last(q_TNH: Tensor, k_LKH: Tensor, v_LKH: Tensor, window: int | None) -> Tensor:
    """Causal attention of the last T of L positions over all L."""
    return _attend(q_TNH.unsqueeze(0), k_LKH.unsqueeze(0), v_LKH.unsqueeze(0), window).squeeze(0)


def _attend(q_BTNH: Tensor, k_BLKH: Tensor, v_BLKH: Tensor, window: int | None) -> Tensor:
    """The same for B documents: each is computed as it would be alone, bit for bit."""
    queries, keys = q_BTNH.shape[1], k_BLKH.shape[1]
    whole = queries == keys and (window is None or window >= keys)
    mask = None if whole else causal_mask(queries, keys, window, q_BTNH.device)
    o_BNTH = functional.scaled_dot_product_attention(
        q_BTNH.transpose(1, 2),
        k_BLKH.transpose(1, 2),
        v_BLKH.transpose(1, 2),
        attn_mask=mask,
        is_causal=whole,
        enable_gqa=q_BTNH.shape[2] != k_BLKH.shape[2],
    )
    return o_BNTH.transpose(1, 2)
