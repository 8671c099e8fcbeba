"""Against transformers: logits within 1e-5 of the largest, greedy ids identical, gradients too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import checkpoints
from headrace.model import checkpoint
from headrace.model.attend import KvCache, Packed, Paged, PagedSpan, slots
from headrace.model.decoder import Decoder

BAR = 1e-5
PROMPT_TOKENS = 50

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "one key head": {"num_key_value_heads": 1},
    "gqa 1/3, odd heads": {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 54},
    "all heads own keys": {"num_attention_heads": 3, "num_key_value_heads": 3},
    "one of everything": {
        "vocab_size": 1009,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
        "hidden_size": 34,
        "intermediate_size": 31,
    },
}

ROPES: dict[str, dict[str, Any]] = {
    "theta": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 500.0,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn, all keys": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.2,
        "truncate": False,
    },
    "yarn, given attention": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 0.8,
    },
    "longrope": {
        "rope_type": "longrope",
        "original_max_position_embeddings": 32,
        "factor": 8.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 4.0, 8.0],
    },
    "longrope, no factor": {
        "rope_type": "longrope",
        "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 4.0, 8.0],
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0},
}

EXTRAS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 20}),
    ("mistral", {"sliding_window": 7}),
    ("mistral", {"sliding_window": 1, "head_dim": 10}),
    ("mistral", {"sliding_window": 4096}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    ("qwen3", {"attention_bias": True, "head_dim": 22}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}),
]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def packed_logits(decoder: Decoder, ids_T: Tensor) -> Tensor:
    pos_T = torch.arange(len(ids_T))
    return decoder.logits(decoder.hidden(ids_T, pos_T, Packed(torch.zeros_like(ids_T))))


def compare(directory: Path, *, tokens: int = PROMPT_TOKENS, context_tokens: int = 0) -> float:
    loaded = checkpoint.load(directory, context_tokens=context_tokens)
    generator = torch.Generator().manual_seed(1)
    ids_T = torch.randint(loaded.config.vocab_size, (tokens,), generator=generator)
    with torch.inference_mode():
        expected_TV = checkpoints.oracle(directory)(ids_T[None]).logits[0]
        return relative_error(packed_logits(loaded.decoder, ids_T), expected_TV)


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_family_in_odd_shapes(tmp_path: Path, family: str, shape: str) -> None:
    assert compare(checkpoints.make(tmp_path / "m", family, **SHAPES[shape])) <= BAR


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_rope_type(tmp_path: Path, family: str, rope: str) -> None:
    directory = checkpoints.make(
        tmp_path / "m", family, head_dim=8, rope_parameters=dict(ROPES[rope])
    )
    assert compare(directory) <= BAR


@pytest.mark.parametrize(("family", "fields"), EXTRAS)
def test_features_of_single_families(tmp_path: Path, family: str, fields: dict[str, Any]) -> None:
    assert compare(checkpoints.make(tmp_path / "m", family, **fields)) <= BAR


def test_longrope_on_the_short_side_of_its_switch(tmp_path: Path) -> None:
    directory = checkpoints.make(
        tmp_path / "m", "llama", head_dim=8, rope_parameters=dict(ROPES["longrope"])
    )
    assert compare(directory, tokens=30, context_tokens=32) <= BAR
    assert compare(directory, tokens=30) > BAR  # the long factors are others


def test_dynamic_beyond_its_trained_context(tmp_path: Path) -> None:
    directory = checkpoints.make(
        tmp_path / "m",
        "llama",
        max_position_embeddings=32,
        rope_parameters=dict(ROPES["dynamic"]),
    )
    assert compare(directory, context_tokens=PROMPT_TOKENS) <= BAR


def greedy(loaded: checkpoint.Checkpoint, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Continue all prompts at once through the paged cache, a step a token."""
    blocks = 12
    kv = KvCache.allocate(
        loaded.config,
        blocks=blocks * len(prompts),
        block_tokens=16,
        dtype=torch.float32,
        device="cpu",
    )
    sequences = [list(prompt) for prompt in prompts]
    news = [list(prompt) for prompt in prompts]
    for _ in range(tokens):
        spans: list[PagedSpan] = []
        row = 0
        for i, new in enumerate(news):
            spans.append(
                PagedSpan(
                    row_start=row,
                    row_end=row + len(new),
                    blocks=range(i * blocks, (i + 1) * blocks),
                    context_tokens=len(sequences[i]),
                )
            )
            row += len(new)
        ids_T = torch.tensor([token for new in news for token in new])
        pos_T = torch.cat(
            [torch.arange(len(s) - len(n), len(s)) for s, n in zip(sequences, news, strict=True)]
        )
        hidden_TD = loaded.decoder.hidden(ids_T, pos_T, Paged(kv, slots(spans, 16), spans))
        logits_RV = loaded.decoder.logits(hidden_TD[[span.row_end - 1 for span in spans]])
        news = [[token] for token in logits_RV.argmax(-1).tolist()]
        for sequence, new in zip(sequences, news, strict=True):
            sequence += new
    return [s[len(p) :] for s, p in zip(sequences, prompts, strict=True)]


@pytest.mark.parametrize(
    ("family", "fields"),
    [*((family, {}) for family in checkpoints.FAMILIES), ("mistral", {"sliding_window": 11})],
)
def test_greedy_ids_are_identical(tmp_path: Path, family: str, fields: dict[str, Any]) -> None:
    directory = checkpoints.make(tmp_path / "m", family, **fields)
    loaded, model = checkpoint.load(directory), checkpoints.oracle(directory)
    generator = torch.Generator().manual_seed(2)
    lengths = [1, 2, 5, 16, 17, 31, 40, 64]
    prompts = [
        torch.randint(3, loaded.config.vocab_size, (length,), generator=generator).tolist()
        for length in lengths
    ]
    with torch.inference_mode():
        expected = [
            model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=64,
                min_new_tokens=64,
                do_sample=False,
                eos_token_id=[],
                pad_token_id=0,
            )[0, len(prompt) :].tolist()
            for prompt in prompts
        ]
        assert greedy(loaded, prompts, 64) == expected
    assert len({tuple(answer) for answer in expected}) > 4  # not one constant answer


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_gradients_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    directory = checkpoints.make(tmp_path / "m", family, tie_word_embeddings=family == "qwen3")
    decoder, model = checkpoint.load(directory).decoder, checkpoints.oracle(directory)
    ids_T = torch.arange(40) * 5 % 211
    torch.nn.functional.cross_entropy(packed_logits(decoder, ids_T[:-1]), ids_T[1:]).backward()
    expected_TV = model(ids_T[None, :-1]).logits[0]
    torch.nn.functional.cross_entropy(expected_TV, ids_T[1:]).backward()
    expected = dict(model.named_parameters())
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert relative_error(parameter.grad, expected[checkpoint.hub_name(name)].grad) < 1e-4, name
