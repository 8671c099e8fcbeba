"""`headrace model inspect`: the parts add up, and the arithmetic is checked by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from typer.testing import CliRunner

import checkpoints
from headrace.cli.model import model
from headrace.errors import CheckpointError, MissingExtra
from headrace.model import checkpoint, hub
from headrace.model.inspect import Inspection, available_memory_bytes, inspect
from headrace.model.quantization import Keep
from headrace.model.quantized import quantize_decoder


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
@pytest.mark.parametrize("tied", ["tied", "own head"])
def test_parts_are_what_transformers_counts(tmp_path: Path, family: str, tied: str) -> None:
    directory = checkpoints.make(tmp_path / "m", family, tie_word_embeddings=tied == "tied")
    found = inspect(directory)
    parameters = dict(checkpoints.oracle(directory).named_parameters())
    assert found.parameters == sum(p.numel() for p in parameters.values())
    assert sum(found.parameters_by_part.values()) == found.parameters
    assert (found.parameters_by_part["head"] == 0) == (tied == "tied")
    assert found.stored_bytes == {"F32": 4 * found.parameters}
    assert found.weight_bytes == {"float32": 4 * found.parameters, "bfloat16": 2 * found.parameters}


def by_hand(found: Inspection, position: int, window: int | None) -> int:
    """2 FLOPs a weight in matrix products, and 4 * heads * head_dim a visible key."""
    products = found.parameters_by_part["attention"] + found.parameters_by_part["feed_forward"]
    seen = position if window is None else min(position, window)
    return 2 * (products + 211 * 48) + 2 * 4 * 6 * 8 * seen


@pytest.mark.parametrize("window", [None, 10])
def test_costs_by_hand(tmp_path: Path, window: int | None) -> None:
    found = inspect(checkpoints.make(tmp_path / "m", "mistral", sliding_window=window))
    assert found.kv_bytes_per_token == {"float32": 2 * 2 * 2 * 8 * 4, "bfloat16": 2 * 2 * 2 * 8 * 2}
    for position in (1, 256):
        assert found.flops_per_token[position] == by_hand(found, position, window)
    fit = next(fit for fit in found.fits if fit.dtype == "bfloat16")
    free = found.memory_bytes - found.weight_bytes["bfloat16"]
    assert fit.sequences == free // (found.kv_bytes_per_token["bfloat16"] * 256)
    assert 2**20 < available_memory_bytes() < 2**50


def test_contexts_up_to_what_the_model_is_made_for(tmp_path: Path) -> None:
    directory = checkpoints.make(tmp_path / "m", "llama", max_position_embeddings=20_000)
    assert list(inspect(directory).flops_per_token) == [1, 1024, 4096, 16_384, 20_000]


def test_command(tmp_path: Path) -> None:
    directory = checkpoints.make(tmp_path / "m", "qwen3", tie_word_embeddings=True)
    runner = CliRunner()
    shown = runner.invoke(model, ["inspect", str(directory)])
    assert shown.exit_code == 0, shown.output
    for text in ("qwen3, 2 layers", "attention", "tied", "KV per token", "sequences, bfloat16"):
        assert text in shown.output
    printed = runner.invoke(model, ["inspect", str(directory), "--json"])
    assert json.loads(printed.stdout)["parameters"] == inspect(directory).parameters


def test_command_without_a_checkpoint(tmp_path: Path) -> None:
    failed = CliRunner().invoke(model, ["inspect", str(tmp_path / "none")])
    assert isinstance(failed.exception, CheckpointError)
    assert "no such directory" in failed.exception.message


def test_resolve_directory_file_and_nonsense(tmp_path: Path) -> None:
    assert hub.resolve(str(tmp_path)) == tmp_path
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(CheckpointError, match="is a file; give the checkpoint's directory"):
        hub.resolve(tmp_path / "model.gguf")
    for name in ("nonsense", "a/b/c", "../x/y", "a b/c", "\0"):
        with pytest.raises(CheckpointError, match="no such directory"):
            hub.resolve(name)


def test_resolve_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"pip install 'headrace\[hub\]'"):
        hub.resolve("owner/name")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("LocalEntryNotFoundError", "hub cannot be reached"),
        ("OfflineModeIsEnabled", "hub cannot be reached"),
        ("GatedRepoError", "is gated; accept its licence"),
        ("RevisionNotFoundError", "has no revision 'main'"),
        ("RepositoryNotFoundError", "no such repository on the hub"),
        ("HfHubHTTPError", "the hub refused"),
        ("HFValidationError", "not a hub id"),
    ],
)
def test_resolve_says_why_the_hub_did_not_give(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    kind = getattr(huggingface_hub.errors, name)

    def fail(*_: object, **__: object) -> str:
        raise kind.__new__(kind)  # their constructors want an HTTP response

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=says):
        hub.resolve("owner/name@main")


def test_resolve_fetches_only_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[str, str | None, list[str]]] = []

    def fetch(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert hub.resolve("owner/na-me.1@v2") == tmp_path
    assert hub.resolve("owner/name") == tmp_path
    assert [call[:2] for call in calls] == [("owner/na-me.1", "v2"), ("owner/name", None)]
    assert not any("bin" in pattern or ".py" in pattern for pattern in calls[0][2])


@pytest.mark.parametrize("format", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("tied", ["tied", "own head"])
def test_a_quantized_directory_has_the_parameters_it_stands_for(
    tmp_path: Path, format: str, tied: str
) -> None:
    directory = checkpoints.make(
        tmp_path / "m", "qwen2", tie_word_embeddings=tied == "tied", dtype=torch.bfloat16
    )
    loaded = checkpoint.load(directory, dtype="float32")
    made = quantize_decoder(loaded.decoder, format=format, keep=[Keep.parse("down_proj")])
    config = replace(loaded.config, quantization=made)
    checkpoint.save(loaded.decoder, config, tmp_path / "q", dtype="bfloat16")
    full, found = inspect(directory), inspect(tmp_path / "q")
    assert full.quantization == "none"
    assert found.quantization == format
    assert found.parameters_by_part == full.parameters_by_part
    assert found.flops_per_token == full.flops_per_token
    weights = (tmp_path / "q" / "model.safetensors").stat().st_size
    assert 0 < weights - found.weight_bytes[format] < 10_000  # the header
    assert found.weight_bytes[format] < full.weight_bytes["bfloat16"]
    assert found.kv_bytes_per_token[format] == full.kv_bytes_per_token["bfloat16"]
    shown = CliRunner().invoke(model, ["inspect", str(tmp_path / "q")])
    assert f"quantization {format}" in " ".join(shown.stdout.split())
