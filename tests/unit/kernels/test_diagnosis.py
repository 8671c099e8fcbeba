"""What `headrace doctor` finds, on machines that are made up."""

from pathlib import Path

import pytest

from headrace.kernels import diagnosis
from headrace.kernels.library import Candidate, Isa
from headrace.kernels.probe import Walls

WALLS = Walls(threads=2, read_gb_s=34.0, int8_gop_s=900.0, bf16_gflop_s=450.0)


def isa(name: str) -> Isa:
    return Isa(name=name, machines=(), flags=())


class Chosen:
    isa = "avx2"


class Measured:
    def __init__(self, pool: object) -> None:
        pass

    def walls(self) -> Walls:
        return WALLS


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An AVX2 processor; the path is that of its huge pages setting."""
    found = [
        Candidate(isa=isa("avx512"), obstacle="this processor lacks avx512f"),
        Candidate(isa=isa("avx2"), obstacle=None),
        Candidate(isa=isa("portable"), obstacle=None),
    ]
    monkeypatch.setattr(diagnosis, "candidates", lambda: found)
    monkeypatch.setattr(diagnosis, "library", Chosen)
    monkeypatch.setattr(diagnosis, "Pool", lambda threads: None)
    monkeypatch.setattr(diagnosis, "Probe", Measured)
    monkeypatch.setattr(diagnosis, "HUGE_PAGES", tmp_path / "enabled")
    return tmp_path / "enabled"


def test_one_build_runs_and_the_others_say_why_not(machine: Path) -> None:
    builds = diagnosis.diagnose(2).builds
    assert [(b.isa, b.runs, b.why_not) for b in builds] == [
        ("avx512", False, "this processor lacks avx512f"),
        ("avx2", True, None),
        ("portable", False, "avx2 is faster"),
    ]


def test_bounds_are_the_memory_wall_over_what_a_token_reads(machine: Path) -> None:
    found = diagnosis.diagnose(2)
    assert found.fast
    assert found.tokens_s["bfloat16"] == pytest.approx(17.0)
    assert found.tokens_s["int4 g32"] == pytest.approx(34.0 / 0.5625)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("always [madvise] never\n", "madvise"),
        ("[always] madvise never", "always"),
        ("", "unknown"),
    ],
)
def test_huge_pages_setting(machine: Path, written: str, read: str) -> None:
    machine.write_text(written)
    assert diagnosis.diagnose(2).huge_pages == read


def test_huge_pages_that_are_off_are_advised_on(machine: Path) -> None:
    assert not any("huge pages" in line for line in diagnosis.diagnose(2).advice)
    machine.write_text("always madvise [never]")
    assert any("huge pages are off" in line for line in diagnosis.diagnose(2).advice)


def test_a_processor_without_bfloat16_is_told_so(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("no bfloat16" in line for line in diagnosis.diagnose(2).advice)
    slow = Walls(threads=2, read_gb_s=34.0, int8_gop_s=900.0, bf16_gflop_s=100.0)
    monkeypatch.setattr(Measured, "walls", lambda self: slow)
    assert any("no bfloat16" in line for line in diagnosis.diagnose(2).advice)


def test_without_a_library_the_advice_is_a_compiler(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "library", lambda: None)
    monkeypatch.setattr(diagnosis, "why_not", lambda: "no native kernels (avx2: not built)")
    monkeypatch.setattr(diagnosis, "_gpus", list)
    found = diagnosis.diagnose(2)
    assert not found.fast
    assert found.walls is None
    assert found.tokens_s == {}
    assert "avx2: not built" in found.advice[0]
    assert "C++20 compiler" in found.advice[0]
