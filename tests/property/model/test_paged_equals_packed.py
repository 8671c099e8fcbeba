"""Any way to cut sequences into steps, over any blocks, gives what one packed pass gives."""

import random
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.model.attend import KvCache, Packed, Paged, PagedSpan, slots
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder

BASE = ModelConfig(
    family="qwen3",
    vocab_size=97,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    qk_norm=True,
    initializer_range=0.2,
)
WINDOWS: tuple[tuple[int | None, ...], ...] = ((), (5, None), (1, 70))


def build(windows: tuple[int | None, ...]) -> Decoder:
    decoder = Decoder(replace(BASE, windows=windows))
    decoder.init_weights(3)
    return decoder.eval()


DECODERS: dict[tuple[int | None, ...], Decoder] = {windows: build(windows) for windows in WINDOWS}


@dataclass
class Running:
    ids: list[int]
    blocks: list[int]
    done: int = 0


def run_schedule(
    decoder: Decoder, sequences: list[list[int]], block_tokens: int, rng: random.Random
) -> list[torch.Tensor]:
    """Hidden states of all sequences from random steps over shuffled blocks."""
    needed = [-(-len(ids) // block_tokens) for ids in sequences]
    pool = list(range(sum(needed) + 3))
    rng.shuffle(pool)
    kv = KvCache.allocate(
        decoder.config,
        blocks=len(pool),
        block_tokens=block_tokens,
        dtype=torch.float32,
        device="cpu",
    )
    for cache in (*kv.k, *kv.v):
        cache.fill_(float("nan"))  # what an earlier owner may have left must never be read
    running = [
        Running(ids, [pool.pop() for _ in range(count)])
        for ids, count in zip(sequences, needed, strict=True)
    ]
    out = [torch.zeros(len(ids), decoder.config.hidden_size) for ids in sequences]
    while any(r.done < len(r.ids) for r in running):
        chosen = [
            (i, r) for i, r in enumerate(running) if r.done < len(r.ids) and rng.random() < 0.7
        ]
        rng.shuffle(chosen)
        spans: list[PagedSpan] = []
        ids: list[int] = []
        pos: list[int] = []
        places: list[tuple[int, int, int]] = []
        for i, r in chosen:
            count = rng.choice([1, 1, rng.randint(1, len(r.ids) - r.done)])
            count = min(count, len(r.ids) - r.done)
            spans.append(
                PagedSpan(
                    row_start=len(ids),
                    row_end=len(ids) + count,
                    blocks=r.blocks,
                    context_tokens=r.done + count,
                )
            )
            places.append((i, r.done, r.done + count))
            ids += r.ids[r.done : r.done + count]
            pos += range(r.done, r.done + count)
            r.done += count
        if not spans:
            continue
        rng.shuffle(spans)
        attend = Paged(kv, slots(spans, block_tokens), spans)
        hidden_TD = decoder.hidden(torch.tensor(ids), torch.tensor(pos), attend)
        row = 0
        for i, start, end in places:
            out[i][start:end] = hidden_TD[row : row + end - start]
            row += end - start
    return out


@pytest.mark.parametrize("windows", WINDOWS)
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    block_tokens=st.sampled_from([1, 2, 4, 16]),
    seed=st.integers(0, 2**32),
)
@torch.inference_mode()
def test_random_schedules(
    windows: tuple[int | None, ...], lengths: list[int], block_tokens: int, seed: int
) -> None:
    rng = random.Random(seed)
    sequences = [[rng.randrange(97) for _ in range(length)] for length in lengths]
    decoder = DECODERS[windows]
    ids_T = torch.tensor([token for ids in sequences for token in ids])
    pos_T = torch.cat([torch.arange(length) for length in lengths])
    doc_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    expected_TD = decoder.hidden(ids_T, pos_T, Packed(doc_T))
    found_TD = torch.cat(run_schedule(decoder, sequences, block_tokens, rng))
    assert (found_TD - expected_TD).abs().max() <= 3e-5 * expected_TD.abs().max()


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    seed=st.integers(0, 2**32),
    poison=st.booleans(),
)
@torch.inference_mode()
def test_packed_documents_are_bitwise_blind_to_each_other(
    lengths: list[int], seed: int, poison: bool
) -> None:
    rng = random.Random(seed)
    decoder = DECODERS[(5, None)]
    doc_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    pos_T = torch.cat([torch.arange(length) for length in lengths])
    ids_T = torch.tensor([rng.randrange(1, 97) for _ in range(len(doc_T))])
    kept = doc_T == rng.randrange(len(lengths))
    other_T = torch.where(kept, ids_T, torch.zeros_like(ids_T) if poison else (ids_T + 1) % 97)
    before_TD = decoder.hidden(ids_T, pos_T, Packed(doc_T))
    embedding = decoder.embed_tokens.weight
    first_row = embedding[0].clone()
    try:
        if poison:
            embedding[0] = float("nan")
        after_TD = decoder.hidden(other_T, pos_T, Packed(doc_T))
    finally:
        embedding[0] = first_row
    assert torch.equal(before_TD[kept], after_TD[kept])


@torch.inference_mode()
def test_shared_prefix_blocks_are_as_good_as_own() -> None:
    decoder = DECODERS[(5, None)]
    prefix, tails = [3, 1, 4, 1, 5, 9, 2, 6], [[5, 3], [5, 8, 9]]
    kv = KvCache.allocate(
        decoder.config, blocks=8, block_tokens=4, dtype=torch.float32, device="cpu"
    )
    first = [PagedSpan(row_start=0, row_end=8, blocks=[6, 2], context_tokens=8)]
    decoder.hidden(torch.tensor(prefix), torch.arange(8), Paged(kv, slots(first, 4), first))
    spans = [
        PagedSpan(row_start=0, row_end=2, blocks=[6, 2, 0], context_tokens=10),
        PagedSpan(row_start=2, row_end=5, blocks=[6, 2, 7], context_tokens=11),
    ]
    ids_T, pos_T = torch.tensor(tails[0] + tails[1]), torch.tensor([8, 9, 8, 9, 10])
    hit_TD = decoder.hidden(ids_T, pos_T, Paged(kv, slots(spans, 4), spans))
    for tail, rows in zip(tails, (slice(0, 2), slice(2, 5)), strict=True):
        whole_T = torch.tensor(prefix + tail)
        miss_TD = decoder.hidden(
            whole_T, torch.arange(len(whole_T)), Packed(torch.zeros_like(whole_T))
        )
        torch.testing.assert_close(hit_TD[rows], miss_TD[8:], rtol=1e-5, atol=1e-5)
