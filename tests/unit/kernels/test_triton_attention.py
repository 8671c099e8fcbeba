"""Triton's paged attention against the torch reference, and against itself in other company."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.kernels.packed import attend_last
from triton_device import DEVICE, relative_error

# isort: split
from headrace.kernels.triton.attention import paged_attention, query_rows
from headrace.kernels.triton.tables import Capacity, HostStep, Layout, Tables, lay_out, upload

BARS = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 2e-3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Sequences in a poisoned pool, a step over their last rows, and what it must give."""

    kv: Tensor
    q_TNH: Tensor
    expected_TNH: Tensor
    host: HostStep
    window: int

    @classmethod
    def draw(
        cls,
        shapes: list[tuple[int, int]],
        *,
        heads: tuple[int, int, int],
        window: int = 0,
        dtype: torch.dtype = torch.float32,
        block_tokens: int = 16,
        seeds: list[int] | None = None,
        placement: int = 0,
    ) -> "Case":
        """`shapes` are context and new rows of each sequence; `seeds` say what is in them."""
        query_heads, key_heads, head_dim = heads
        needed = [-(-context // block_tokens) for context, _ in shapes]
        total = sum(needed) + 3
        kv = torch.full((2, total * block_tokens, key_heads, head_dim), float("nan"), dtype=dtype)
        order = torch.randperm(total, generator=torch.Generator().manual_seed(placement))
        tables = list(order[: sum(needed)].split(needed)) if shapes else []
        queries: list[Tensor] = []
        expected: list[Tensor] = []
        for (context, new), blocks, seed in zip(
            shapes, tables, seeds or range(len(shapes)), strict=True
        ):
            generator = torch.Generator().manual_seed(seed)
            k, v = torch.randn(2, context, key_heads, head_dim, generator=generator).to(dtype)
            q = torch.randn(new, query_heads, head_dim, generator=generator).to(dtype)
            at = torch.arange(context)
            kv[:, blocks[at // block_tokens] * block_tokens + at % block_tokens] = torch.stack(
                (k, v)
            )
            queries.append(q)
            expected.append(attend_last(q.float(), k.float(), v.float(), window or None))
        width = max(needed, default=0) + 1
        rows = np.array([new for _, new in shapes])
        contexts = np.array([context for context, _ in shapes], np.int32)
        host = lay_out(
            np.zeros(rows.sum(), np.int32),
            np.concatenate([np.arange(c - n, c) for c, n in shapes]).astype(np.int32),
            np.concatenate(([0], np.cumsum(rows))).astype(np.int32),
            contexts,
            np.stack(
                [np.pad(blocks.numpy(), (0, width - len(blocks))) for blocks in tables]
            ).astype(np.int32),
            block_tokens=block_tokens,
            windows=[window],
            tile_rows=query_rows(query_heads, key_heads, head_dim, dtype),
        )
        return cls(
            kv=kv.unflatten(1, (total, block_tokens)).to(DEVICE),
            q_TNH=torch.cat(queries).to(DEVICE),
            expected_TNH=torch.cat(expected).to(DEVICE),
            host=host,
            window=window,
        )

    def run(self, tables: Tables | None = None, q_TNH: Tensor | None = None) -> Tensor:
        if tables is None:
            tables = upload(self.host, [self.window], DEVICE)
        return paged_attention(
            self.q_TNH if q_TNH is None else q_TNH,
            self.kv[0],
            self.kv[1],
            tables,
            window=self.window,
            scale=self.q_TNH.shape[-1] ** -0.5,
        )


MIXED = [(1, 1), (9, 1), (270, 1), (40, 7), (2, 2), (150, 40)]


@pytest.mark.parametrize(
    ("window", "dtype"),
    [
        *((window, torch.float32) for window in (0, 1, 5, 140)),
        (0, torch.bfloat16),
        (140, torch.bfloat16),
        (0, torch.float16),
    ],
)
def test_mixed_step(window: int, dtype: torch.dtype) -> None:
    case = Case.draw(MIXED, heads=(6, 2, 8), window=window, dtype=dtype)
    assert relative_error(case.run(), case.expected_TNH) < BARS[dtype]


@pytest.mark.parametrize("heads", [(4, 4, 64), (7, 1, 80), (8, 2, 128), (2, 1, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_head_shapes(heads: tuple[int, int, int], dtype: torch.dtype) -> None:
    case = Case.draw([(140, 1), (37, 20)], heads=heads, dtype=dtype, block_tokens=32)
    assert relative_error(case.run(), case.expected_TNH) < BARS[dtype]


@pytest.mark.parametrize("window", [0, 100])
def test_a_decode_row_does_not_depend_on_its_company(window: int) -> None:
    shapes, seeds = [(200, 1), (7, 1), (390, 1), (20, 20), (129, 1)], [3, 1, 4, 1, 5]
    together = Case.draw(shapes, heads=(4, 2, 16), window=window, seeds=seeds).run()
    row = 0
    for at, (shape, seed) in enumerate(zip(shapes, seeds, strict=True)):
        if shape[1] == 1:
            alone = Case.draw(
                [shape], heads=(4, 2, 16), window=window, seeds=[seed], placement=at + 1
            )
            assert torch.equal(alone.run()[0], together[row])
        row += shape[1]


def test_a_chunk_does_not_depend_on_its_company() -> None:
    shapes, seeds = [(60, 33), (7, 1), (45, 45)], [3, 1, 4]
    together = Case.draw(shapes, heads=(4, 2, 16), seeds=seeds).run()
    alone = Case.draw(shapes[:1], heads=(4, 2, 16), seeds=seeds[:1], placement=9).run()
    assert torch.equal(alone, together[:33])


@pytest.mark.parametrize("window", [0, 30])
def test_a_step_in_a_larger_buffer(window: int) -> None:
    """What a captured graph sees: more rows, sequences and pieces than the step has."""
    case = Case.draw([(200, 1), (7, 1), (390, 1)], heads=(4, 2, 16), window=window)
    capacity = Capacity(rows=5, sequences=5, blocks=5 * 40, splits=19, tiles=0)
    assert capacity.holds(case.host.capacity)
    layout = Layout(capacity, [window])
    buffer = np.full(layout.size, 12345, np.int32)  # what an earlier step left
    used = layout.fill(buffer, case.host, idle_slot=11)
    buffer[used:] = 999_999
    tables = layout.views(torch.from_numpy(buffer).to(DEVICE), tiles=0)
    padded = torch.cat((case.q_TNH, torch.full_like(case.q_TNH[:2], float("nan"))))
    found = case.run(tables, padded)
    assert torch.equal(found[:3], case.run())
    assert (found[3:] == 0).all()
    assert tables.slots_T.tolist() == [*case.host.slots_T.tolist(), 11, 11]


def test_capacity_that_a_step_exceeds() -> None:
    host = Case.draw([(200, 1), (40, 7)], heads=(4, 2, 16)).host
    exact = host.capacity
    assert exact == Capacity(rows=8, sequences=2, blocks=26, splits=2, tiles=1)
    for name in ("rows", "sequences", "blocks", "splits", "tiles"):
        fields = {field: getattr(exact, field) for field in Capacity.__slots__}
        assert not Capacity(**{**fields, name: fields[name] - 1}).holds(exact)


def test_window_keeps_work_short() -> None:
    (splits,) = Case.draw([(1000, 1)], heads=(2, 1, 16), window=129).host.splits.values()
    assert splits.pieces_W2.tolist() == [[0, 6], [0, 7]]


def test_the_longest_tile_begins_first() -> None:
    host = Case.draw([(60, 60), (9, 1), (80, 20)], heads=(8, 1, 16)).host
    tile = query_rows(8, 1, 16, torch.float32)
    seen = [(60 if s == 0 else 80) - (60 if s == 0 else 20) + at for s, at in host.tiles_W2]
    assert len(seen) == -(-60 // tile) + -(-20 // tile)
    assert seen == sorted(seen, reverse=True)


def test_too_many_heads_on_one_key_head() -> None:
    with pytest.raises(ValueError, match="more than 32 share a key head"):
        query_rows(64, 1, 16, torch.float32)
