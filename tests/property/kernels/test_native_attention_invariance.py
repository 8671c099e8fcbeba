"""Native attention, bit for bit: however a sequence is cut into steps, a row is the same row.

Whole prefill, prefill in chunks, decode token by token, in whatever company, over whatever blocks
and page sizes, by however many threads.
"""

import random
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from native_attention import FORMATS, Cache, Span
from native_isas import isas


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    kv_format: int
    group: int
    kv_heads: int
    head_dim: int
    window: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequence:
    q_TNH: Tensor
    k_TKH: Tensor
    v_TKH: Tensor

    @classmethod
    def random(cls, shape: Shape, length: int, seed: int) -> "Sequence":
        generator = torch.Generator().manual_seed(seed)

        def normal(heads: int, scale: float) -> Tensor:
            return scale * torch.randn(length, heads, shape.head_dim, generator=generator)

        # Scores far apart, so that maxima move and small weights vanish.
        queries = normal(shape.kv_heads * shape.group, 3.0)
        return cls(
            q_TNH=queries, k_TKH=normal(shape.kv_heads, 1.0), v_TKH=normal(shape.kv_heads, 1.0)
        )

    def __len__(self) -> int:
        return len(self.q_TNH)


def run(
    isa: str,
    shape: Shape,
    sequences: list[Sequence],
    *,
    most_rows: int,
    block_tokens: int,
    threads: int,
    seed: int,
) -> list[Tensor]:
    """All sequences through random steps of up to `most_rows` rows each; the outputs."""
    rng = random.Random(seed)
    counts = [-(-len(sequence) // block_tokens) for sequence in sequences]
    free = list(range(sum(counts) + 3))
    rng.shuffle(free)
    tables = [[free.pop() for _ in range(count)] for count in counts]
    cache = Cache(
        isa,
        shape.kv_format,
        blocks=sum(counts) + 3,
        block_tokens=block_tokens,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        threads=threads,
    )
    done = [0] * len(sequences)
    out = [torch.full_like(sequence.q_TNH, float("nan")) for sequence in sequences]
    while any(d < len(s) for d, s in zip(done, sequences, strict=True)):
        waiting = [i for i, s in enumerate(sequences) if done[i] < len(s)]
        chosen = rng.sample(waiting, rng.randint(1, len(waiting)))
        rows = [min(len(sequences[i]) - done[i], rng.randint(1, most_rows)) for i in chosen]
        parts = [slice(done[i], done[i] + count) for i, count in zip(chosen, rows, strict=True)]
        spans = [
            Span(rows=count, context=part.stop, blocks=tables[i])
            for i, count, part in zip(chosen, rows, parts, strict=True)
        ]
        picked = list(zip((sequences[i] for i in chosen), parts, strict=True))
        keys = torch.cat([sequence.k_TKH[part] for sequence, part in picked])
        values = torch.cat([sequence.v_TKH[part] for sequence, part in picked])
        assert cache.write(spans, keys, values) == 0
        queries = torch.cat([sequence.q_TNH[part] for sequence, part in picked])
        found = cache.attend(spans, queries, shape.window).split(rows)
        for i, part, attended in zip(chosen, parts, found, strict=True):
            out[i][part] = attended
            done[i] = part.stop
    return out


def whole(isa: str, shape: Shape, sequence: Sequence) -> Tensor:
    """The sequence in one step, alone, in order, by one thread."""
    blocks = list(range(-(-len(sequence) // 16)))
    cache = Cache(
        isa,
        shape.kv_format,
        blocks=len(blocks),
        block_tokens=16,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
    )
    spans = [Span(rows=len(sequence), context=len(sequence), blocks=blocks)]
    assert cache.write(spans, sequence.k_TKH, sequence.v_TKH) == 0
    return cache.attend(spans, sequence.q_TNH, shape.window)


SHAPES = st.builds(
    Shape,
    kv_format=st.sampled_from(list(FORMATS.values())),
    group=st.sampled_from([1, 2, 3, 4, 5, 7, 12, 13, 30]),
    kv_heads=st.integers(1, 3),
    head_dim=st.sampled_from([16, 32, 64, 80, 96, 128]),
    window=st.sampled_from([0, 0, 1, 3, 20, 100, 128, 150]),
)


@pytest.mark.parametrize("isa", isas())
@settings(max_examples=25, deadline=None)
@given(
    shape=SHAPES,
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    most_rows=st.sampled_from([1, 4, 40, 300]),
    block_tokens=st.sampled_from([16, 32, 48, 64, 128]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)
def test_any_schedule_gives_the_same_bits(
    isa: str,
    shape: Shape,
    lengths: list[int],
    most_rows: int,
    block_tokens: int,
    threads: int,
    seed: int,
) -> None:
    sequences = [Sequence.random(shape, length, seed + i) for i, length in enumerate(lengths)]
    found = run(
        isa,
        shape,
        sequences,
        most_rows=most_rows,
        block_tokens=block_tokens,
        threads=threads,
        seed=seed,
    )
    for sequence, scheduled in zip(sequences, found, strict=True):
        expected = whole(isa, shape, sequence)
        assert expected.isfinite().all()
        assert torch.equal(scheduled.view(torch.int32), expected.view(torch.int32))
