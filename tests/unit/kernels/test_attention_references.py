"""The attention references against the textbook: one query, one head at a time, float64."""

import math

import pytest
import torch
from torch import Tensor

from headrace.kernels.dispatch import TORCH, kernels_for
from headrace.kernels.packed import causal_mask, packed_attention, plan_packed
from headrace.kernels.paged import (
    PagedSpan,
    paged_attention,
    plan_paged,
    write_cache,
)

N, K, H = 6, 2, 8
CPU = torch.device("cpu")


def textbook(q_TNH: Tensor, k_LKH: Tensor, v_LKH: Tensor, window: int | None) -> Tensor:
    queries, keys = len(q_TNH), len(k_LKH)
    out = torch.zeros_like(q_TNH, dtype=torch.float64)
    for t in range(queries):
        last = keys - queries + t
        first = 0 if window is None else max(0, last - window + 1)
        for n in range(q_TNH.shape[1]):
            head = n * k_LKH.shape[1] // q_TNH.shape[1]
            seen_k, seen_v = k_LKH[first : last + 1, head], v_LKH[first : last + 1, head]
            scores = seen_k.double() @ q_TNH[t, n].double() / math.sqrt(q_TNH.shape[2])
            out[t, n] = scores.softmax(0) @ seen_v.double()
    return out


def rows(count: int, heads: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, heads, H, generator=generator).to(dtype)


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_packed(window: int | None, dtype: torch.dtype, bar: float) -> None:
    doc_T = torch.tensor([4] * 5 + [1] + [4] * 11)  # a document is a run: the id may come again
    q, k, v = rows(17, N, 0, dtype), rows(17, K, 1, dtype), rows(17, K, 2, dtype)
    plan = plan_packed(doc_T)
    assert list(plan.bounds) == [0, 5, 6, 17]
    found = packed_attention(q, k, v, plan, window)
    assert found.dtype == dtype
    for start, end in ((0, 5), (5, 6), (6, 17)):
        expected = textbook(q[start:end], k[start:end], v[start:end], window)
        assert (found[start:end].double() - expected).abs().max() < bar


@pytest.mark.parametrize("window", [None, 3])
def test_neighbours_of_one_length_share_a_call_and_are_blind_all_the_same(
    window: int | None,
) -> None:
    """A document's outputs and gradients are the same bits alone and beside others."""
    lengths = (20, 20, 20, 9, 9, 20)
    doc_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    given = [rows(len(doc_T), heads, seed) for heads, seed in ((N, 0), (K, 1), (K, 2), (N, 3))]
    whole = _attended(given, doc_T, window)
    for document in range(len(lengths)):
        here = doc_T == document
        alone = _attended([part[here] for part in given], doc_T[here], window)
        for ours, theirs in zip(alone, whole, strict=True):
            assert torch.equal(ours, theirs[here])


def _attended(given: list[Tensor], doc_T: Tensor, window: int | None) -> list[Tensor]:
    """Of q, k, v and the output's gradient: the output and the gradients of q, k, v."""
    q, k, v = (part.clone().requires_grad_() for part in given[:3])
    found = packed_attention(q, k, v, plan_packed(doc_T), window)
    found.backward(given[3])
    return [found.detach(), *(leaf.grad for leaf in (q, k, v) if leaf.grad is not None)]


def test_packed_nothing() -> None:
    empty = torch.zeros(0, N, H)
    plan = plan_packed(torch.zeros(0, dtype=torch.int64))
    assert packed_attention(empty, empty[:, :K], empty[:, :K], plan, None).shape == (0, N, H)


def test_mask_counts_the_token_itself() -> None:
    assert causal_mask(2, 4, 2, CPU).tolist() == [
        [False, True, True, False],
        [False, False, True, True],
    ]


@pytest.mark.parametrize("window", [None, 1, 5, 16, 1000])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_paged_mixes_decode_chunks_and_fresh_prompts(
    window: int | None, dtype: torch.dtype, bar: float
) -> None:
    block_tokens = 4
    # context tokens and new rows of each sequence; the last two are fresh prompts
    shapes = [(1, 1), (9, 1), (33, 1), (200, 1), (30, 7), (6, 6), (2, 2)]
    kv = torch.full((2, 120, block_tokens, K, H), float("nan"), dtype=dtype)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(5)).tolist()
    spans: list[PagedSpan] = []
    expected: list[Tensor] = []
    fresh_q: list[Tensor] = []
    fresh_k: list[Tensor] = []
    fresh_v: list[Tensor] = []
    row = 0
    for seed, (context, new) in enumerate(shapes):
        q, k, v = (rows(context, heads, 10 * seed + i, dtype) for i, heads in enumerate((N, K, K)))
        blocks = [order.pop() for _ in range(-(-context // block_tokens))]
        slots = torch.tensor(
            [blocks[i // block_tokens] * block_tokens + i % block_tokens for i in range(context)]
        )
        write_cache(kv[0], kv[1], slots, k, v)
        spans.append(
            PagedSpan(row_start=row, row_end=row + new, blocks=blocks, context_tokens=context)
        )
        expected.append(textbook(q[-new:], k, v, window))
        fresh_q.append(q[-new:])
        fresh_k.append(k[-new:])
        fresh_v.append(v[-new:])
        row += new
    plan = plan_paged(spans, block_tokens, window, CPU)
    found = paged_attention(
        torch.cat(fresh_q), torch.cat(fresh_k), torch.cat(fresh_v), kv[0], kv[1], plan
    )
    assert (found.double() - torch.cat(expected)).abs().max() < bar


def test_window_keeps_gathers_short() -> None:
    span = PagedSpan(row_start=0, row_end=1, blocks=range(100), context_tokens=400)
    (group,) = plan_paged([span], 4, 10, CPU).decode
    assert group.slots_RL.shape[1] <= 12
    assert int(group.mask_R11L.sum()) == 10


def test_a_long_neighbour_does_not_pad_short_rows_without_end() -> None:
    spans = [
        PagedSpan(row_start=i, row_end=i + 1, blocks=range(-(-length // 4)), context_tokens=length)
        for i, length in enumerate([3, 30, 500, 900])
    ]
    widths = [group.slots_RL.shape for group in plan_paged(spans, 4, None, CPU).decode]
    assert widths == [(2, 32), (1, 500), (1, 900)]


def test_gathers_of_many_long_rows_are_cut() -> None:
    spans = [
        PagedSpan(row_start=i, row_end=i + 1, blocks=range(200), context_tokens=800)
        for i in range(40)
    ]
    groups = plan_paged(spans, 4, None, CPU).decode
    assert [group.slots_RL.numel() // 800 for group in groups] == [8] * 5
    assert sorted(row for group in groups for row in group.rows_R.tolist()) == list(range(40))


@pytest.mark.parametrize(
    ("start", "end", "blocks", "context"), [(0, 0, 1, 1), (0, 3, 1, 2), (0, 1, 1, 5), (0, 1, 0, 1)]
)
def test_impossible_spans_are_refused(start: int, end: int, blocks: int, context: int) -> None:
    span = PagedSpan(row_start=start, row_end=end, blocks=range(blocks), context_tokens=context)
    with pytest.raises(ValueError, match="rows <= context <= blocks"):
        plan_paged([span], 4, None, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_that_may_see_nothing_is_zero_not_nan(dtype: torch.dtype) -> None:
    """The references lean on torch for this where a native kernel pads its rows."""
    q, k = torch.randn(1, 2, 3, H, dtype=dtype), torch.randn(1, 2, 5, H, dtype=dtype)
    mask = torch.tensor([[True] * 5, [False] * 5, [True] * 5])
    found = torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask)
    assert found.isfinite().all()
    assert (found[:, :, 1] == 0).all()


def test_norm_and_rotation_against_their_formulas() -> None:
    x, weight = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    expected = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-3) * weight
    torch.testing.assert_close(TORCH.rms_norm(x, weight, 1e-3), expected)
    x_TNH = torch.randn(4, 2, 6)
    angle_TP = torch.randn(4, 3)
    turned = torch.view_as_complex(torch.stack(x_TNH.chunk(2, -1), -1)) * torch.polar(
        torch.ones(4, 1, 3), angle_TP.unsqueeze(1)
    )
    found = TORCH.rotate(x_TNH, angle_TP.cos(), angle_TP.sin())
    torch.testing.assert_close(found, torch.cat((turned.real, turned.imag), -1))
    half = TORCH.rotate(x_TNH.bfloat16(), angle_TP.cos(), angle_TP.sin())
    assert half.dtype == torch.bfloat16


def test_a_device_without_its_own_kernels_gets_the_reference() -> None:
    assert kernels_for(CPU) is TORCH
    assert kernels_for(torch.device("meta")) is TORCH
