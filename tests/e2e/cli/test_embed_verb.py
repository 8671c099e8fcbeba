"""`headrace embed` and `headrace model inspect` on a small encoder."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

import encoders
from headrace.cli import main


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("encoder") / "m"
    return str(encoders.make(directory, prompts={"query": "query: "}, max_tokens=20))


def test_lines_in_lines_out(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(f'{{"id": 7, "text": "the of"}}\n\n"and to"\n{{"text": "{"in " * 40}"}}\n')
    words = ("embed", "--model", checkpoint, "--input", str(file), "--truncate", "--base64")
    assert run(*words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [line.get("id") for line in lines] == [7, None, None]
    assert [line.get("truncated") for line in lines] == [None, None, True]
    rows = [np.frombuffer(base64.b64decode(line["embedding"]), "<f4") for line in lines]
    assert {len(row) for row in rows} == {48}
    assert np.allclose([np.linalg.norm(row) for row in rows], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give texts, or --input"),
        (("a", "--input", "x"), "not both"),
        (("--input", "absent.jsonl"), "cannot read absent.jsonl"),
        (("a", "--model", "absent"), "no such directory"),
    ],
)
def test_refusals(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", *words) != 0
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_line_without_a_text(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"body": "the"}\n')
    assert run("embed", "--model", checkpoint, "--input", str(file)) != 0
    assert "texts.jsonl:1 has no text" in capsys.readouterr().err.replace("\n", " ")


def test_inspect(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model", "inspect", checkpoint, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dimensions"], found["max_tokens"], found["pooling"]) == (48, 20, "mean")
    assert found["parameters"] == sum(found["parameters_by_part"].values())
    assert found["stored_bytes"] == {"F32": 4 * found["parameters"]}
    assert run("model", "inspect", checkpoint) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "texts up to 20 tokens to vectors of 48 numbers of length one, pooled by mean" in shown
    assert "prompt query: 'query: '" in shown
