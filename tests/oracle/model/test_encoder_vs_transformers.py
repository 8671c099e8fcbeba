"""Packed encoders against transformers, each document alone: hidden states within 1e-5."""

from pathlib import Path
from typing import Any

import pytest
import torch

import encoders
from headrace.model.encoder_checkpoint import load_encoder

BAR = 1e-5
LENGTHS = (5, 1, 2, 17, 17, 64, 3, 17)

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tanh": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu"},
    "large eps": {"layer_norm_eps": 1e-2},
    "one head": {"num_attention_heads": 1, "num_hidden_layers": 1},
    "odd": {"hidden_size": 34, "num_attention_heads": 2, "intermediate_size": 31},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_hidden_states(tmp_path: Path, family: str, shape: str) -> None:
    directory = encoders.make(tmp_path / "m", family, **SHAPES[shape])
    loaded = load_encoder(directory)
    generator = torch.Generator().manual_seed(1)
    documents = [
        torch.randint(5, loaded.config.vocab_size, (length,), generator=generator).tolist()
        for length in LENGTHS
    ]
    with torch.no_grad():
        hidden_TD = loaded.encoder.hidden(
            torch.tensor([i for ids in documents for i in ids]), LENGTHS
        )
    parts = hidden_TD.split(list(LENGTHS))
    for ids, found in zip(documents, parts, strict=True):
        wanted = encoders.oracle_hidden(directory, ids)
        assert (found - wanted).abs().max() <= BAR * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForSequenceClassification"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_checkpoint_with_a_head(tmp_path: Path, family: str, head: str) -> None:
    directory = encoders.make(tmp_path / "m", family, head=head)
    loaded = load_encoder(directory)
    assert loaded.unused
    with torch.no_grad():
        found = loaded.encoder.hidden(torch.tensor([2, 9, 3]), [3])
    assert (found - encoders.oracle_hidden(directory, [2, 9, 3])).abs().max() <= 3e-5
