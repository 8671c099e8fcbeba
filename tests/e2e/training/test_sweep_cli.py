"""`headrace train sweep` on a small corpus: it runs, keeps what is done, and predicts."""

import json
from pathlib import Path

import pytest

from headrace.cli import main

GRID = ["--grid", "1x32,2x32,1x64:500,1k"]
SMALL = [
    "--set", "rows.row_tokens=64", "--set", "rows.per_step=4", "--set", "held_out_rows=8",
    "--set", "shape.vocab_tokens=280",
]  # fmt: skip


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["train", "sweep", *words])
    return ended.value.code if isinstance(ended.value.code, int) else 1


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    words = [
        f"Line {n} says that {n} and {n + 1} make {2 * n + 1}, which is odd." for n in range(9)
    ]
    lines = [
        json.dumps({"id": f"d{n}", "text": f"Part {n}. " + " ".join(words) * 3}) for n in range(30)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_sweep_ends_in_a_law_and_is_continued(texts: Path, tmp_path: Path, capsys):
    out = tmp_path / "sweep"
    call = ["--data", str(texts), *GRID, *SMALL, "--out", str(out), "--budget", "1e12", "--json"]
    assert run(*call) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["runs"]) == 6
    assert first["held_out"]["name"] == "1x64-1k"
    assert first["held_out"]["predicted"] > 0
    assert first["optima"][0]["flops"] == 1e12
    assert (out / "scaling.svg").read_text().startswith("<svg")
    # A run that is lost is made again, the same; the others are kept.
    lost = out / "runs" / "2x32-1k"
    (lost / "result.json").unlink()
    assert run(*call) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == first
    assert again.err.count("(kept)") == 5


def test_another_plan_in_the_same_place_is_refused(texts: Path, tmp_path: Path, capsys):
    out = tmp_path / "sweep"
    call = ["--data", str(texts), "--grid", "1x32,2x32,1x64:200,900", *SMALL, "--out", str(out)]
    assert run(*call) == 0
    assert run(*call, "--set", "seed=1") == 1
    assert "another plan or other data" in capsys.readouterr().err
