"""`headrace export`: files and directories appear, wrong calls say what to do."""

import json
from pathlib import Path

import pytest

from headrace.app import bundled_model
from headrace.cli import main


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["export", *words])
    return ended.value.code if isinstance(ended.value.code, int) else 1


def test_sprout_as_gguf_and_as_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sprout = str(bundled_model())
    file, directory = tmp_path / "sprout.gguf", tmp_path / "sprout"
    assert run(sprout, "--to", "gguf", "--type", "q8_0", "--out", str(file), "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["size_bytes"] == file.stat().st_size
    assert made["tensors"]["Q8_0"] == 43
    assert "one GGUF file" in (tmp_path / "sprout.md").read_text("utf-8")
    assert run(sprout, "--to", "hf", "--type", "float32", "--out", str(directory)) == 0
    assert {"README.md", "tokenizer.json", "chat_template.jinja", "model.safetensors"} <= {
        path.name for path in directory.iterdir()
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "onnx"), "'onnx' is none of hf, peft, gguf"),
        (("--to", "gguf", "--type", "float32"), "none of f16, q8_0, q4_0, which --to gguf has"),
        (("--to", "gguf", "--base", "x"), "--base is for adapters"),
        (("--to", "peft"), "is a whole model and no adapter"),
    ],
)
def test_wrong_calls_say_what_to_do(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(str(bundled_model()), *words, "--out", str(tmp_path / "x")) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_gguf_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    assert run(str(bundled_model()), "--to", "gguf", "--out", str(tmp_path / "x.gguf")) == 1
    assert (
        capsys.readouterr().err
        == "error: GGUF files need one more package: pip install 'headrace[gguf]'\n"
    )
