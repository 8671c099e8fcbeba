"""The KV pool is as large as it says, and a row's slot is where its span puts it."""

import torch

from headrace.model.attend import KvCache, PagedSpan, slots
from headrace.model.config import ModelConfig

CONFIG = ModelConfig(
    family="llama",
    vocab_size=10,
    hidden_size=24,
    intermediate_size=16,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=64,
)


def test_allocates_what_it_reckons() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        kv = KvCache.allocate(CONFIG, blocks=5, block_tokens=8, dtype=dtype, device="cpu")
        assert kv.blocks == 5
        held = sum(cache.nbytes for cache in (*kv.k, *kv.v))
        assert held == KvCache.bytes_per_token(CONFIG, dtype) * 5 * 8


def test_slots_follow_the_block_table_in_any_order_of_spans() -> None:
    spans = [
        PagedSpan(row_start=3, row_end=4, blocks=[0], context_tokens=1),
        PagedSpan(row_start=0, row_end=3, blocks=[7, 2], context_tokens=6),
    ]
    assert slots(spans, 4).tolist() == [7 * 4 + 3, 2 * 4, 2 * 4 + 1, 0]
