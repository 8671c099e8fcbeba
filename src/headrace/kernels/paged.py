"""Attention of new tokens over a paged KV cache: the plan of one step, and its torch reference.

A cache layer is `[blocks, block_tokens, K, H]`; slot `block * block_tokens + offset` is one token's
row of it. A step is a list of `PagedSpan`: rows of the packed input that continue one sequence, its
block table and its length with those rows included. Prefill, a later chunk of it, decode and
verification of drafted tokens differ only in numbers.

Invariant: what a row sees is its own sequence up to itself, wherever the blocks lie.

Rows that are alone in their span (decode) share padded gathers, one per power of two of context, so
that a long neighbour costs a short sequence at most a factor of two; longer spans go one by one.

Shapes: T rows of the step, R rows of one gather, L cached tokens, N query heads, K key heads, G =
N/K, H head dim.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from headrace.kernels.packed import attend_last

SMALLEST_GATHER_BLOCKS = 8
"""Sequences of up to so many blocks share one gather whatever their lengths."""

GATHER_TOKENS = 8192
"""Padded tokens of one gather, so that what was gathered is still in the processor's cache when
it is attended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PagedSpan:
    """Rows `row_start` to `row_end` of a step: the newest tokens of one sequence.

    `context_tokens` counts all tokens of the sequence once this step is written, the new rows
    included; `blocks` are its physical blocks in order, at least enough to hold them.
    """

    row_start: int
    row_end: int
    blocks: Sequence[int]
    context_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeGroup:
    """Single-row spans that share a padded gather."""

    rows_R: Tensor
    slots_RL: Tensor
    """Padding repeats a slot of the row's own: what another sequence left in a block, be it NaN,
    is never read."""
    mask_R11L: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One span of several rows."""

    row_start: int
    row_end: int
    blocks_B: Tensor
    first: int
    """Offset of the earliest key in the gathered blocks that any row of the span may see."""
    last: int
    """One past the newest key's offset in the gathered blocks."""
    fresh: bool
    """The span is the whole sequence so far: keys and values are those of the step itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PagedPlan:
    """The index tensors of one step for one window width, shared by all layers that have it."""

    decode: Sequence[DecodeGroup]
    chunks: Sequence[Chunk]
    window: int | None


def plan_paged(
    spans: Sequence[PagedSpan], block_tokens: int, window: int | None, device: torch.device
) -> PagedPlan:
    """Turn a step's spans into index tensors; blocks wholly outside the window are left out."""
    chunks: list[Chunk] = []
    by_size: defaultdict[int, list[_Reach]] = defaultdict(list)
    for span in spans:
        reach = _reach(span, block_tokens, window)
        if span.row_end - span.row_start == 1:
            size = max(len(reach.blocks), SMALLEST_GATHER_BLOCKS)
            by_size[(size - 1).bit_length()].append(reach)
        else:
            chunks.append(_chunk(reach, device))
    decode = [
        _group(part, block_tokens, device)
        for size, reaches in sorted(by_size.items())
        for part in _parts(reaches, GATHER_TOKENS // (block_tokens << size))
    ]
    return PagedPlan(decode=decode, chunks=chunks, window=window)


def paged_attention(
    q_TNH: Tensor,
    k_TKH: Tensor,
    v_TKH: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: PagedPlan,
) -> Tensor:
    """Attend the step's queries; its keys and values are in the cache already."""
    o_TNH = torch.zeros_like(q_TNH)
    for group in plan.decode:
        o_TNH[group.rows_R] = _attend_rows(q_TNH[group.rows_R], k_cache, v_cache, group)
    for chunk in plan.chunks:
        rows = slice(chunk.row_start, chunk.row_end)
        if chunk.fresh:
            k_LKH, v_LKH = k_TKH[rows], v_TKH[rows]
        else:
            keys = slice(chunk.first, chunk.last)
            k_LKH = k_cache[chunk.blocks_B].flatten(0, 1)[keys]
            v_LKH = v_cache[chunk.blocks_B].flatten(0, 1)[keys]
        o_TNH[rows] = attend_last(q_TNH[rows], k_LKH, v_LKH, plan.window)
    return o_TNH


def write_cache(
    k_cache: Tensor, v_cache: Tensor, slots_T: Tensor, k_TKH: Tensor, v_TKH: Tensor
) -> None:
    """Put the step's keys and values into their slots."""
    k_cache.flatten(0, 1).index_copy_(0, slots_T, k_TKH.to(k_cache.dtype))
    v_cache.flatten(0, 1).index_copy_(0, slots_T, v_TKH.to(v_cache.dtype))


def _attend_rows(q_RNH: Tensor, k_cache: Tensor, v_cache: Tensor, group: DecodeGroup) -> Tensor:
    rows, heads, head_dim = q_RNH.shape
    key_heads = k_cache.shape[2]
    gathered = (rows, -1, key_heads, head_dim)
    slots = group.slots_RL.flatten()
    k_RLKH = k_cache.flatten(0, 1).index_select(0, slots).view(gathered)
    v_RLKH = v_cache.flatten(0, 1).index_select(0, slots).view(gathered)
    # The G query heads of a key head stand in for query positions: a matrix product for each key
    # head, where expanding the keys would make G vector products and G copies.
    o_RKGH = functional.scaled_dot_product_attention(
        q_RNH.view(rows, key_heads, heads // key_heads, head_dim),
        k_RLKH.transpose(1, 2),
        v_RLKH.transpose(1, 2),
        attn_mask=group.mask_R11L,
    )
    return o_RKGH.reshape(rows, heads, head_dim)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reach:
    """The part of a sequence's block table that a span's rows can see."""

    span: PagedSpan
    blocks: Sequence[int]
    first: int
    last: int


def _reach(span: PagedSpan, block_tokens: int, window: int | None) -> _Reach:
    rows, context = span.row_end - span.row_start, span.context_tokens
    if rows < 1 or context < rows or len(span.blocks) * block_tokens < context:
        raise ValueError(
            f"span of {rows} rows, {context} context tokens and {len(span.blocks)} blocks of "
            f"{block_tokens}: needs 1 <= rows <= context <= blocks * block_tokens"
        )
    earliest = 0 if window is None else max(0, context - rows - window + 1)
    skipped = earliest // block_tokens
    needed = -(-context // block_tokens)
    offset = skipped * block_tokens
    return _Reach(
        span=span,
        blocks=span.blocks[skipped:needed],
        first=earliest - offset,
        last=context - offset,
    )


def _parts(reaches: list[_Reach], rows: int) -> Iterator[list[_Reach]]:
    step = max(1, rows)
    return (reaches[i : i + step] for i in range(0, len(reaches), step))


def _chunk(reach: _Reach, device: torch.device) -> Chunk:
    span = reach.span
    return Chunk(
        row_start=span.row_start,
        row_end=span.row_end,
        blocks_B=torch.tensor(reach.blocks, dtype=torch.int64, device=device),
        first=reach.first,
        last=reach.last,
        fresh=span.row_end - span.row_start == span.context_tokens,
    )


def _group(reaches: Sequence[_Reach], block_tokens: int, device: torch.device) -> DecodeGroup:
    width = max(len(reach.blocks) for reach in reaches)
    blocks_RB = torch.tensor(
        [[*reach.blocks, *[0] * (width - len(reach.blocks))] for reach in reaches], device=device
    )
    first_R1 = torch.tensor([[reach.first] for reach in reaches], device=device)
    last_R1 = torch.tensor([[reach.last] for reach in reaches], device=device)
    offset_L = torch.arange(width * block_tokens, device=device)
    seen_RL = (offset_L >= first_R1) & (offset_L < last_R1)
    in_block = torch.arange(block_tokens, device=device)
    slots_RL = (blocks_RB.unsqueeze(-1) * block_tokens + in_block).flatten(1)
    own_R1 = slots_RL.gather(1, last_R1 - 1)
    return DecodeGroup(
        rows_R=torch.tensor([reach.span.row_start for reach in reaches], device=device),
        slots_RL=torch.where(seen_RL, slots_RL, own_R1),
        mask_R11L=seen_RL[:, None, None, :],
    )
