"""`headrace train sft|dpo --adapter ...` in seconds: an adapter, its base untouched, the sum."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import adapted
from headrace.cli.train import train
from headrace.errors import ConfigError
from headrace.model import checkpoint
from headrace.model.adapter_files import load_adapter, peek_adapter
from headrace.training import fit

SPROUT = Path(__file__).parents[3] / "src" / "headrace" / "sprout"
SETS = (
    "updates.steps=4",
    "updates.lr=0.01",
    "rows.per_step=4",
    "rows.row_tokens=96",
    "rows.batch_tokens=384",
    "held_out_one_in=0",
    "samples=0",
    "compute.threads=1",
    "adapter.rank=4",
)


def run(method: str, data: Path, out: Path, *words: str, sets: tuple[str, ...] = ()) -> Result:
    options = [word for item in (*SETS, *sets) for word in ("--set", item)]
    files = ("--model", str(SPROUT), "--data", str(data), "--out", str(out))
    return CliRunner().invoke(train, [method, *files, "--json", *words, *options])


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    turns = [
        [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "n"}]
        for n in range(8)
    ]
    path.write_text("".join(json.dumps({"messages": said}) + "\n" for said in turns))
    return path


def losses(out: Path) -> list[float]:
    lines = (out / "training_log.jsonl").read_text().splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [record["loss"] for record in records if record["kind"] == "step"]


def test_qlora_trains_an_adapter_that_merges_into_the_model(tmp_path: Path, chats: Path) -> None:
    out = tmp_path / "out"
    before = (SPROUT / "model.safetensors").read_bytes()
    done = run("sft", chats, out, "--adapter", "qlora", sets=("adapter.dropout=0.1",))
    assert done.exit_code == 0, done.output
    assert "MiB at most in memory, estimated" in done.stderr
    assert losses(out)[-1] < losses(out)[0]
    assert (SPROUT / "model.safetensors").read_bytes() == before
    loaded = checkpoint.load(SPROUT, dtype="float32")
    file = peek_adapter(out / "adapter", loaded.config)
    assert file.plan.base == {"block": 64, "double": True}
    assert file.fingerprint == loaded.fingerprint
    load_adapter(loaded.decoder, out / "adapter", fingerprint=loaded.fingerprint)
    merged = checkpoint.load(out / "model", dtype="float32").decoder
    # The file is in bfloat16.
    assert adapted.error(adapted.logits(merged), adapted.logits(loaded.decoder)) < 0.05


def test_dropout_is_the_same_after_a_restart(tmp_path: Path, chats: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    sets = ("adapter.dropout=0.3", "updates.checkpoint_every_s=0", "updates.schedule=constant")
    assert run("sft", chats, whole, "--adapter", "lora", sets=sets).exit_code == 0
    assert run("sft", chats, cut, "--adapter", "lora", sets=sets).exit_code == 0
    newest = max((cut / "checkpoints").iterdir())
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()  # as if it had been killed before its last step
    again = run("sft", chats, cut, "--adapter", "lora", "--resume", "auto", sets=sets)
    assert again.exit_code == 0, again.output
    name = "adapter/adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_dpo_against_the_model_under_the_adapter(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(
            json.dumps({"prompt": f"Is it {n}?", "chosen": f"Yes, {n}.", "rejected": "Go away!"})
            + "\n"
            for n in range(8)
        )
    )
    done = run("dpo", pairs, tmp_path / "out", "--adapter", "dora")
    assert done.exit_code == 0, done.output
    first, *_, last = losses(tmp_path / "out")
    assert first == pytest.approx(float(torch.tensor(2.0).log()), abs=1e-4)  # it is the reference
    assert last < first
    assert (tmp_path / "out/adapter/adapter_config.json").exists()


def test_what_cannot_be_is_refused_before_anything_is_loaded(
    tmp_path: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run("sft", chats, tmp_path / "o", "--adapter", "lora", sets=("adapter.targets=q",))
    assert isinstance(refused.exception, ConfigError)
    assert "'q' fits no module" in str(refused.exception)
    monkeypatch.setattr(fit, "available_bytes", lambda device: 1 << 20)
    refused = run("sft", chats, tmp_path / "o", sets=("rows.batch_tokens=96",))
    assert isinstance(refused.exception, ConfigError)
    assert "nothing fits here: the least is --adapter qlora" in str(refused.exception)
