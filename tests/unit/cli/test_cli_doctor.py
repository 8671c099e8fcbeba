"""`headrace doctor`: the table, the JSON and the exit code."""

import json

import pytest

from headrace import cli
from headrace.cli import doctor as verb
from headrace.kernels.diagnosis import Build, Diagnosis
from headrace.kernels.probe import Walls


def diagnosis(walls: Walls | None) -> Diagnosis:
    return Diagnosis(
        builds=[
            Build(isa="avx512", runs=False, why_not="this processor lacks avx512f"),
            Build(isa="avx2", runs=walls is not None, why_not=None if walls else "not built"),
        ],
        threads=4,
        huge_pages="madvise",
        walls=walls,
        tokens_s={"int8 g32": 32.0} if walls else {},
        gpus=[],
        torch="2.13.0",
        advice=["take a compiler"],
    )


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Diagnosis]:
    """What the verb finds: the last one put here."""
    kept = [diagnosis(Walls(threads=4, read_gb_s=34.04, int8_gop_s=925.0, bf16_gflop_s=461.0))]
    monkeypatch.setattr(verb, "diagnose", lambda threads: kept[-1])
    return kept


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", *arguments])
    return stop.value.code


def test_tables(found: list[Diagnosis], capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    shown = capsys.readouterr().out
    for words in ("runs", "this processor lacks avx512f", "34.0 GB/s read", "925 Gop/s", "madvise"):
        assert words in shown
    assert "per 1e9 weights, at most: 32 in int8 g32" in shown
    assert "- take a compiler" in shown


def test_json(found: list[Diagnosis], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["walls"]["read_gb_s"] == 34.04
    assert data["builds"][1] == {"isa": "avx2", "runs": True, "why_not": None}


def test_plain_torch_alone_is_exit_code_1(
    found: list[Diagnosis], capsys: pytest.CaptureFixture[str]
) -> None:
    found.append(diagnosis(None))
    assert run() == 1
    assert "not built" in capsys.readouterr().out
