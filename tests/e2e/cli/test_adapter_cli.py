"""`headrace adapter`: a merged directory is the adapted model, and comes apart again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import adapted
import checkpoints
from headrace.cli import main
from headrace.model import adapters, checkpoint
from headrace.model.adapter_files import Origin, save_adapter
from headrace.model.adapters import Adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "m"
    checkpoints.make(path, "qwen3", dtype=torch.bfloat16, tie_word_embeddings=True)
    (path / "tokenizer.json").write_text("{}")
    return path


def made(base: Path, path: Path, chosen: Adapter) -> torch.Tensor:
    """Save an adapter over the base; the logits of the two together."""
    loaded = checkpoint.load(base)
    plan = adapters.plan(loaded.config, chosen)
    adapters.attach(loaded.decoder, plan)
    adapted.fill(loaded.decoder)
    origin = Origin(fingerprint=loaded.fingerprint, nf4=plan.base)
    save_adapter(loaded.decoder, path, base=str(base), origin=origin)
    return adapted.logits(loaded.decoder).detach()


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(str(stop.value.code))


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
def test_merging_and_unmerging(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: Any
) -> None:
    expected = made(base, tmp_path / "a", Adapter(method=method, rank=4))
    words = ("adapter", "merge", tmp_path / "a", "--base", base, "--out", tmp_path / "m", "--json")
    assert run(*words) == 0
    said = result(capsys)
    assert said["into"] == ("nf4" if method == "qlora" else "full")
    merged = checkpoint.load(tmp_path / "m").decoder
    assert adapted.error(adapted.logits(merged), expected) < 0.05  # bfloat16's rounding
    assert (tmp_path / "m/tokenizer.json").read_text() == "{}"
    if method == "qlora":
        # The model that was trained is much nearer than the one over weights it has not seen.
        assert said["logit_shift"]["nf4"] < said["logit_shift"]["full"] / 3
    capsys.readouterr()

    words = ("adapter", "unmerge", tmp_path / "m", "--adapter", tmp_path / "a", "--json")
    assert run(*words, "--base", base, "--out", tmp_path / "exact") == 0
    assert result(capsys)["exact"] is True
    original = checkpoint.load(base).decoder.state_dict()
    for name, value in checkpoint.load(tmp_path / "exact").decoder.state_dict().items():
        assert torch.equal(value, original[name]), name

    code = run(*words, "--out", tmp_path / "subtracted")
    if method == "dora":
        assert code == 2
        assert "DoRA cannot be subtracted" in capsys.readouterr().err
    elif method == "lora":
        assert code == 0
        for name, value in checkpoint.load(tmp_path / "subtracted").decoder.state_dict().items():
            assert torch.allclose(value, original[name], atol=0.02), name


def test_merging_over_the_other_weights_and_other_adapters(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(base, tmp_path / "a", Adapter(method="qlora", rank=4))
    made(base, tmp_path / "b", Adapter(method="lora", rank=2))
    words = ("adapter", "merge", tmp_path / "a", "--base", base, "--out", tmp_path / "m")
    assert run(*words, "--into", "full") == 0
    out = capsys.readouterr().out
    assert "into full (written): logits move by at most" in out
    assert "into nf4: logits move" in out
    assert run(*words) == 1
    assert "exists already" in capsys.readouterr().err
    words = ("adapter", "unmerge", tmp_path / "m", "--adapter", tmp_path / "b", "--out")
    assert run(*words, tmp_path / "x") == 2
    assert "another adapter" in capsys.readouterr().err
    other = checkpoints.make(tmp_path / "other", "qwen3", seed=5, tie_word_embeddings=True)
    assert run("adapter", "merge", tmp_path / "a", "--base", other, "--out", tmp_path / "y") == 1
    assert "was trained over the weights" in capsys.readouterr().err


def test_inspecting_and_exporting(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(base, tmp_path / "a", Adapter(method="rslora", rank=32, targets="q_proj,down_proj"))
    made(base, tmp_path / "d", Adapter(method="dora", targets="q_proj,lm_head", whole="norm"))
    assert run("adapter", "inspect", tmp_path / "a", "--base", base, "--json") == 0
    said = result(capsys)
    assert said["method"] == "LoRA, rsLoRA's scale"
    assert said["targets"] == {"q_proj": 2, "down_proj": 2}
    assert said["fit"] == "this is the base that it was trained over"
    assert said["not_for_vllm"] == []
    assert run("adapter", "inspect", tmp_path / "d", "--base", base) == 0
    out = capsys.readouterr().out
    assert "DoRA" in out
    assert "not for vLLM: it has no DoRA" in out

    words = ("adapter", "export", "--base", base, "--target", "vllm", "--out", tmp_path / "v")
    assert run(*words, tmp_path / "a") == 2
    error = capsys.readouterr().err
    assert "rank 32 exceeds max_lora_rank 16 - start vLLM with --max-lora-rank 32" in error
    assert run(*words, tmp_path / "d") == 2
    error = capsys.readouterr().err
    assert "no DoRA" in error
    assert "no modules_to_save (model.norm)" in error
    assert "adapters of lm_head" in error
    assert run(*words, tmp_path / "a", "--max-lora-rank", 32, "--dtype", "bfloat16") == 0
    assert run("adapter", "inspect", tmp_path / "v", "--base", base, "--json") == 0
    capsys.readouterr()
    assert json.loads((tmp_path / "v/adapter_config.json").read_text())["use_rslora"] is True
