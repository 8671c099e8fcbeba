"""What is saved, transformers loads with identical logits; old spellings mean the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoints
from headrace.model import checkpoint
from headrace.model.generation import GenerationDefaults

IDS = torch.arange(30) * 7 % 211

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    ("mistral", {"sliding_window": 5}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("qwen3", {"eos_token_id": [2, 5]}),
]


def logits(directory: Path, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        return checkpoints.oracle(directory, **options)(IDS[None]).logits


@pytest.mark.parametrize(("family", "fields"), CASES)
@pytest.mark.parametrize("shard_bytes", [10**9, 60_000])
def test_saved_directory_has_the_same_logits(
    tmp_path: Path, family: str, fields: dict[str, Any], shard_bytes: int
) -> None:
    first = checkpoints.make(tmp_path / "a", family, **fields)
    loaded = checkpoint.load(first)
    checkpoint.save(loaded.decoder, loaded.config, tmp_path / "b", shard_bytes=shard_bytes)
    assert torch.equal(logits(tmp_path / "b"), logits(first))
    again = checkpoint.load(tmp_path / "b")
    assert again.config == loaded.config
    assert again.eos_ids == loaded.eos_ids
    shards = list((tmp_path / "b").glob("*.safetensors"))
    assert (len(shards) == 1) == (shard_bytes == 10**9)


def test_saved_in_bfloat16(tmp_path: Path) -> None:
    loaded = checkpoint.load(checkpoints.make(tmp_path / "a", "qwen3"))
    recommended = GenerationDefaults(temperature=0.6, top_k=20, top_p=0.9, eos_token_ids=(2, 3))
    checkpoint.save(
        loaded.decoder, loaded.config, tmp_path / "b", dtype="bfloat16", generation=recommended
    )
    again = checkpoint.load(tmp_path / "b")
    assert again.dtype == torch.bfloat16
    assert again.config.dtype == "bfloat16"
    assert again.generation == recommended
    assert again.eos_ids == (2, 3)
    model = checkpoints.oracle(tmp_path / "b", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.generation_config.top_k == 20
    expected = {k: v.bfloat16() for k, v in loaded.decoder.state_dict().items()}
    for name, value in again.decoder.state_dict().items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}),
        (None, {"rope_type": "default"}),
    ],
)
def test_spelling_of_transformers_4(
    tmp_path: Path, old: dict[str, Any] | None, new: dict[str, Any]
) -> None:
    directory = checkpoints.make(
        tmp_path / "m", "llama", rope_parameters={**new, "rope_theta": 5000.0}
    )
    expected, before = logits(directory), checkpoint.load(directory).config
    path = directory / "config.json"
    hf = json.loads(path.read_text())
    del hf["rope_parameters"]
    hf["torch_dtype"] = hf.pop("dtype")
    path.write_text(json.dumps({**hf, "rope_theta": 5000.0, "rope_scaling": old}))
    assert checkpoint.load(directory).config == before
    assert torch.equal(logits(directory), expected)
