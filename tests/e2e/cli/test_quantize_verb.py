"""`headrace quantize` on sprout: a directory that serves the same answers, or a refusal."""

import json
from pathlib import Path

import pytest

from headrace.app import bundled_model
from headrace.cli import main
from headrace.model import checkpoint
from headrace.model.inspect import inspect
from headrace.tokens import Tokenizer
from headrace.training import sample


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sprout's own docs: this repository's pages, cut small."""
    directory = tmp_path_factory.mktemp("texts")
    library = Path(json.__file__).parent
    records = [
        json.dumps({"path": f"{path.name}/{n}", "text": path.read_text()[n : n + 1500]})
        for path in sorted(library.glob("*.py"))
        for n in range(0, 9000, 1500)
    ]
    (directory / "json.jsonl").write_text("\n".join(records))
    return directory


@pytest.mark.parametrize(
    ("format", "smallest", "largest"), [("int8", 0.5, 0.56), ("int4", 0.3, 0.4)]
)
def test_sprout(
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    format: str,
    smallest: float,
    largest: float,
) -> None:
    out, source = tmp_path / "q", bundled_model()
    code = run(
        "quantize", str(source), "--to", format, "--out", str(out), "--calibrate", str(texts),
        "--calibration-tokens", "3000", "--held-out-tokens", "1500", "--json",
    )  # fmt: skip
    assert code == 0
    said = json.loads(capsys.readouterr().out)
    assert (
        smallest
        < said["written"]["weight_bytes"] / said["written"]["weight_bytes_before"]
        < largest
    )
    assert said["measured"]["quality"]["tokens"] <= 1500
    assert inspect(out).quantization == format
    tokenizer = Tokenizer.load(out)
    prompt = tokenizer.encode("import json\n\nclass JSONDecoder")
    answers = [
        sample.greedy(
            checkpoint.load(path, dtype="float32").decoder, prompt, max_tokens=8, eos_ids=set()
        )
        for path in (source, out)
    ]
    agreeing = sum(a == b for a, b in zip(*answers, strict=True))
    assert agreeing >= (8 if format == "int8" else 1)
    assert run("model", "inspect", str(out)) == 0
    assert f"quantization {format}" in " ".join(capsys.readouterr().out.split())


def test_for_people(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "quantize", str(bundled_model()), "--to", "fp8", "--out", str(tmp_path / "q"),
        "--calibrate", str(texts), "--held-out-tokens", "800",
    )  # fmt: skip
    assert run(*words) == 0
    found = capsys.readouterr()
    assert "fp8 is for GPUs: a CPU turns it into bfloat16 as it loads" in found.err
    assert "perplexity" in found.out
    assert f"serve it: headrace serve {tmp_path / 'q'}" in found.out.replace("\n", "")
    assert run(*words) == 2
    assert "exists already" in capsys.readouterr().err


def test_refusal(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        "quantize", str(bundled_model()), "--to", "int4", "--method", "rtn", "--keep",
        "lm_head=int4", "--out", str(tmp_path / "q"), "--calibrate", str(texts),
        "--held-out-tokens", "800", "--max-loss", "0",
    )  # fmt: skip
    found = capsys.readouterr()
    assert code == 2
    assert "perplexity" in found.out  # the numbers, and what to do
    assert "nothing was written. calibrate with --method gptq" in " ".join(found.err.split())
    assert not (tmp_path / "q").exists()
    assert run("quantize", str(bundled_model()), "--to", "int8", "--keep", "lm_head=x") == 2
