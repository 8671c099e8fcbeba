# Triton's types do not describe the language inside its kernels, nor how they are launched.
# pyright: basic, reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
"""Attention of new rows over the paged cache: decode rows by splits, longer sequences by tiles.

Decode: one program takes one split (`SPLIT_TOKENS` cached tokens at fixed positions) of one row for
one key head and all the query heads that share it, and leaves an unnormalised sum, its maximum and
its total; `_combine` joins a row's splits in order. The grid is fixed and programs fetch pieces of
the work list until it is done, so that a captured graph serves any lengths. Prefill: one program
takes a tile of queries of one sequence for one key head and walks the keys they may see.

Invariant: keys beyond what a row may see are never read, so that what another sequence left in a
block, be it NaN, is harmless. The cuts of a decode row depend on its position only.

Shapes: T rows, S sequences, W pieces, N query heads, K key heads, G = N/K, H head dim, M rows of a
tile (queries times G), L keys of a tile.

Sources: Dao et al. 2022 and 2023 (FlashAttention, and the splits of its decoding).
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from headrace.kernels.triton.launch import multiprocessors, padded, product
from headrace.kernels.triton.tables import SPLIT_TOKENS, Tables


@triton.jit
def _keys(
    cache, blocks, head, at_L, seen_L, at_H,
    K: tl.constexpr, H: tl.constexpr, TOKENS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Keys or values `[L, H]` of one head at the positions `at_L` of a sequence.

    Every position of the tile is seen where `WHOLE`.
    """
    if WHOLE:
        block_L = tl.load(blocks + at_L // TOKENS).to(tl.int64)
    else:
        block_L = tl.load(blocks + at_L // TOKENS, mask=seen_L, other=0).to(tl.int64)
    slot_L = block_L * TOKENS + at_L % TOKENS
    at = cache + (slot_L * K + head)[:, None] * H + at_H[None, :]
    if WHOLE:
        if at_H.shape[0] == H:
            return tl.load(at)
        return tl.load(at, mask=at_H[None, :] < H, other=0.0)
    return tl.load(at, mask=seen_L[:, None] & (at_H[None, :] < H), other=0.0)


@triton.jit
def _fold(q_MH, k_LH, v_LH, bias_ML, m_M, l_M, o_MH, scale, MASKED: tl.constexpr):
    """One more tile of keys: maximum, total and sum of what has been seen. Scores are base 2."""
    s_ML = product(q_MH, tl.trans(k_LH), tl.zeros([q_MH.shape[0], k_LH.shape[0]], tl.float32))
    s_ML = s_ML * scale
    if MASKED:
        s_ML = tl.where(bias_ML, s_ML, float("-inf"))
    new_M = tl.maximum(m_M, tl.max(s_ML, 1))
    # No -inf minus -inf in a row that has seen nothing yet.
    base_M = tl.where(new_M == float("-inf"), 0.0, new_M) if MASKED else new_M
    p_ML = tl.exp2(s_ML - base_M[:, None])
    old_M = tl.exp2(m_M - base_M)
    l_M = l_M * old_M + tl.sum(p_ML, 1)
    o_MH = product(p_ML.to(v_LH.dtype), v_LH, o_MH * old_M[:, None])
    return new_M, l_M, o_MH


@triton.jit
def _attend_splits(
    q, k_cache, v_cache, sums, peaks, totals,
    row_start, context, width, blocks, pieces, first, sequences, scale,
    K: tl.constexpr, G: tl.constexpr, H: tl.constexpr, TOKENS: tl.constexpr,
    WINDOW: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    at_G = tl.arange(0, BLOCK_G)
    at_H = tl.arange(0, BLOCK_H)
    inside_GH = (at_G[:, None] < G) & (at_H[None, :] < H)
    count = tl.load(first + sequences)
    for piece in range(tl.program_id(0), count, tl.num_programs(0)):
        sequence = tl.load(pieces + 2 * piece)
        start = tl.load(pieces + 2 * piece + 1) * SPLIT
        length = tl.load(context + sequence)
        table = blocks + sequence.to(tl.int64) * tl.load(width)
        row = tl.load(row_start + sequence).to(tl.int64)
        at_q = q + (row * K * G + head * G + at_G)[:, None] * H + at_H[None, :]
        q_GH = tl.load(at_q, mask=inside_GH, other=0.0)
        m_G = tl.full([BLOCK_G], float("-inf"), tl.float32)
        l_G = tl.zeros([BLOCK_G], tl.float32)
        o_GH = tl.zeros([BLOCK_G, BLOCK_H], tl.float32)
        for tile in range(start, tl.minimum(start + SPLIT, length), BLOCK_L):
            at_L = tile + tl.arange(0, BLOCK_L)
            seen_L = at_L < length
            if WINDOW > 0:
                seen_L = seen_L & (at_L >= length - WINDOW)
            k_LH = _keys(k_cache, table, head, at_L, seen_L, at_H, K, H, TOKENS, False)
            v_LH = _keys(v_cache, table, head, at_L, seen_L, at_H, K, H, TOKENS, False)
            m_G, l_G, o_GH = _fold(q_GH, k_LH, v_LH, seen_L[None, :], m_G, l_G, o_GH, scale, True)
        to_G = (tl.zeros([BLOCK_G], tl.int64) + piece) * (K * G) + head * G + at_G
        tl.store(peaks + to_G, m_G, mask=at_G < G)
        tl.store(totals + to_G, l_G, mask=at_G < G)
        tl.store(sums + to_G[:, None] * H + at_H[None, :], o_GH, mask=inside_GH)


@triton.jit
def _combine(
    sums, peaks, totals, row_start, context, first, out,
    N: tl.constexpr, H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    begin = tl.load(first + sequence)
    end = tl.load(first + sequence + 1)
    row = tl.load(row_start + sequence).to(tl.int64)
    at_H = tl.arange(0, BLOCK_H)
    to_H = out + (row * N + head) * H + at_H
    if end > begin:
        m = float("-inf")
        l = 0.0
        o_H = tl.zeros([BLOCK_H], tl.float32)
        for piece in range(begin, end, BLOCK_W):
            at_W = piece + tl.arange(0, BLOCK_W)
            there_W = at_W < end
            from_W = at_W.to(tl.int64) * N + head
            m_W = tl.load(peaks + from_W, mask=there_W, other=float("-inf"))
            l_W = tl.load(totals + from_W, mask=there_W, other=0.0)
            inside_WH = there_W[:, None] & (at_H[None, :] < H)
            o_WH = tl.load(sums + from_W[:, None] * H + at_H[None, :], mask=inside_WH, other=0.0)
            new = tl.maximum(m, tl.max(m_W, 0))
            old = tl.exp2(m - new)
            weight_W = tl.exp2(m_W - new)
            l = l * old + tl.sum(l_W * weight_W, 0)
            o_H = o_H * old + tl.sum(o_WH * weight_W[:, None], 0)
            m = new
        tl.store(to_H, (o_H / l).to(out.dtype.element_ty), mask=at_H < H)
    elif tl.load(context + sequence) == 0:  # a graph's padding
        there = row < tl.load(row_start + sequence + 1)
        tl.store(to_H, tl.zeros([BLOCK_H], out.dtype.element_ty), mask=(at_H < H) & there)


@triton.jit
def _attend_tiles(
    q, k_cache, v_cache, out, row_start, context, width, blocks, tiles, scale,
    K: tl.constexpr, G: tl.constexpr, H: tl.constexpr, TOKENS: tl.constexpr,
    WINDOW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    sequence = tl.load(tiles + 2 * tl.program_id(0))
    offset = tl.load(tiles + 2 * tl.program_id(0) + 1)
    begin = tl.load(row_start + sequence)
    rows = tl.load(row_start + sequence + 1) - begin
    length = tl.load(context + sequence)
    table = blocks + sequence.to(tl.int64) * tl.load(width)

    at_M = tl.arange(0, BLOCK_M)
    row_M = offset + at_M // BLOCK_G
    group_M = at_M % BLOCK_G
    pos_M = length - rows + row_M
    at_H = tl.arange(0, BLOCK_H)
    inside_MH = ((row_M < rows) & (group_M < G))[:, None] & (at_H[None, :] < H)
    flat_M = (begin + row_M).to(tl.int64) * (K * G) + head * G + group_M
    to_MH = flat_M[:, None] * H + at_H[None, :]
    q_MH = tl.load(q + to_MH, mask=inside_MH, other=0.0)

    first = length - rows + offset
    last = tl.minimum(first + BLOCK_M // BLOCK_G, length)
    m_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_M = tl.zeros([BLOCK_M], tl.float32)
    o_MH = tl.zeros([BLOCK_M, BLOCK_H], tl.float32)
    at_L = tl.arange(0, BLOCK_L)
    masked = 0
    if WINDOW > 0:
        masked = tl.maximum(first - WINDOW + 1, 0) // BLOCK_L * BLOCK_L
    else:  # keys that all rows of the tile see, without a mask
        masked = (first + 1) // BLOCK_L * BLOCK_L
        for tile in range(0, masked, BLOCK_L):
            k_LH = _keys(k_cache, table, head, tile + at_L, at_L >= 0, at_H, K, H, TOKENS, True)
            v_LH = _keys(v_cache, table, head, tile + at_L, at_L >= 0, at_H, K, H, TOKENS, True)
            m_M, l_M, o_MH = _fold(q_MH, k_LH, v_LH, m_M, m_M, l_M, o_MH, scale, False)
    for tile in range(masked, last, BLOCK_L):
        key_L = tile + at_L
        seen_ML = key_L[None, :] <= pos_M[:, None]
        if WINDOW > 0:
            seen_ML = seen_ML & (key_L[None, :] > pos_M[:, None] - WINDOW)
        k_LH = _keys(k_cache, table, head, key_L, key_L < last, at_H, K, H, TOKENS, False)
        v_LH = _keys(v_cache, table, head, key_L, key_L < last, at_H, K, H, TOKENS, False)
        m_M, l_M, o_MH = _fold(q_MH, k_LH, v_LH, seen_ML, m_M, l_M, o_MH, scale, True)
    l_M = tl.where(l_M > 0.0, l_M, 1.0)  # rows past the sequence's end saw nothing
    out_MH = (o_MH / l_M[:, None]).to(out.dtype.element_ty)
    tl.store(out + to_MH, out_MH, mask=inside_MH)


class TileShape(NamedTuple):
    """Sizes of a tile and of the group of threads that works on it."""

    rows: int
    """Queries times their heads."""
    keys: int
    warps: int
    stages: int


def tile_shape(head_dim: int, dtype: torch.dtype) -> TileShape:
    """What fits a Hopper's, and in 16 bits an Ampere's, shared memory."""
    if dtype.itemsize > 2:
        return TileShape(rows=32, keys=32, warps=4, stages=1)
    if head_dim > 128:
        return TileShape(rows=64, keys=32, warps=8, stages=2)
    return TileShape(rows=128, keys=64, warps=8, stages=2 if head_dim > 64 else 3)


def query_rows(heads: int, key_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Rows of a sequence that share a tile: what `tables.lay_out` must know."""
    return tile_shape(head_dim, dtype).rows // _group(heads, key_heads, head_dim, dtype)


def _group(heads: int, key_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    group = padded(heads // key_heads)
    if group > tile_shape(head_dim, dtype).rows:
        raise ValueError(
            f"{heads} query heads on {key_heads} key heads: more than "
            f"{tile_shape(head_dim, dtype).rows} share a key head"
        )
    return group


def paged_attention(
    q_TNH: Tensor, k_cache: Tensor, v_cache: Tensor, tables: Tables, *, window: int, scale: float
) -> Tensor:
    """Attend the step's queries; its keys and values are in the cache already.

    Rows that belong to no sequence (a graph's padding) are zero.

    Args:
        q_TNH: Contiguous, of the caches' dtype.
        k_cache: `[blocks, block_tokens, K, H]`, contiguous; `block_tokens` a power of two.
        v_cache: Likewise.
        tables: The step; its tiles cut for `query_rows` of these shapes.
        window: Tokens a row sees, itself counted; 0 = all.
        scale: Factor on the scores.
    """
    o_TNH = torch.empty_like(q_TNH)
    base2 = scale * math.log2(math.e)
    if tables.decodes:
        _decode(q_TNH, k_cache, v_cache, o_TNH, tables, window, base2)
    if tables.tiles:
        _prefill(q_TNH, k_cache, v_cache, o_TNH, tables, window, base2)
    return o_TNH


def _decode(
    q_TNH: Tensor, k_cache: Tensor, v_cache: Tensor, o_TNH: Tensor, tables: Tables, window: int,
    scale: float,
) -> None:  # fmt: skip
    heads, head_dim = q_TNH.shape[1:]
    tokens, key_heads = k_cache.shape[1:3]
    splits, sequences = tables.splits[window], len(tables.context_S)
    device, wide = q_TNH.device, padded(head_dim, 16)
    sums = torch.empty((splits.count, heads, head_dim), dtype=torch.float32, device=device)
    peaks = torch.empty((2, splits.count, heads), dtype=torch.float32, device=device)
    narrow = q_TNH.dtype.itemsize > 2 or wide > 128
    # Enough programs to fill the machine several times over; more would only queue.
    together = min(splits.count, max(1, 8 * multiprocessors(device) // key_heads))
    _attend_splits[(together, key_heads)](
        q_TNH, k_cache, v_cache, sums, peaks[0], peaks[1],
        tables.row_start_S1, tables.context_S, tables.width_1, tables.blocks,
        splits.pieces_W2, splits.first_S1, sequences, scale,
        K=key_heads, G=heads // key_heads, H=head_dim, TOKENS=tokens,
        WINDOW=window, SPLIT=SPLIT_TOKENS,
        BLOCK_G=padded(heads // key_heads, 16), BLOCK_H=wide,
        BLOCK_L=32 if narrow else SPLIT_TOKENS,
        num_warps=4, num_stages=1,
    )  # fmt: skip
    _combine[(sequences, heads)](
        sums, peaks[0], peaks[1], tables.row_start_S1, tables.context_S,
        splits.first_S1, o_TNH,
        N=heads, H=head_dim, BLOCK_W=8, BLOCK_H=wide, num_warps=2,
    )  # fmt: skip


def _prefill(
    q_TNH: Tensor, k_cache: Tensor, v_cache: Tensor, o_TNH: Tensor, tables: Tables, window: int,
    scale: float,
) -> None:  # fmt: skip
    heads, head_dim = q_TNH.shape[1:]
    tokens, key_heads = k_cache.shape[1:3]
    shape = tile_shape(head_dim, q_TNH.dtype)
    _attend_tiles[(tables.tiles, key_heads)](
        q_TNH, k_cache, v_cache, o_TNH,
        tables.row_start_S1, tables.context_S, tables.width_1, tables.blocks, tables.tiles_W2,
        scale,
        K=key_heads, G=heads // key_heads, H=head_dim, TOKENS=tokens, WINDOW=window,
        BLOCK_M=shape.rows, BLOCK_G=_group(heads, key_heads, head_dim, q_TNH.dtype),
        BLOCK_H=padded(head_dim, 16), BLOCK_L=shape.keys,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
