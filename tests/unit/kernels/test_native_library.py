"""Which library is chosen, and what is said where none can be."""

from pathlib import Path

import pytest

from headrace.kernels import library as loading
from native_isas import needs_native

AVX2 = frozenset({"avx2", "fma", "f16c"})


class Withheld:
    """In the place of the C function: the kernel has no tiles for this process."""

    restype: type | None
    argtypes: tuple[type, ...]

    def __call__(self) -> int:
        return 0


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation without libraries on an x86-64 machine."""
    monkeypatch.setattr(loading.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(loading, "path_of", lambda name: tmp_path / f"_native_{name}.so")
    return tmp_path


def test_the_best_that_the_processor_has_comes_first(
    somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "cpu_flags", lambda: AVX2)
    for name in ("amx", "avx512", "avx2", "portable"):
        (somewhere / f"_native_{name}.so").touch()
    found = {c.isa.name: c.obstacle for c in loading.candidates()}
    assert list(found) == ["amx", "avx512", "avx2", "portable"]
    assert found["avx2"] is None
    assert found["portable"] is None
    assert "avx512_vnni" in (found["avx512"] or "")
    assert "amx_int8" in (found["amx"] or "")


def test_what_was_not_built_is_said(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "cpu_flags", lambda: AVX2)
    obstacles = [c.obstacle for c in loading.candidates() if c.isa.name not in ("amx", "avx512")]
    assert all("no C++20 compiler at installation" in (o or "") for o in obstacles)


def test_arm_is_not_offered_x86(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.platform, "machine", lambda: "aarch64")
    assert [c.isa.name for c in loading.candidates()] == ["neon", "portable"]


def test_a_file_that_is_no_library_is_passed_over_with_its_reason(
    somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "cpu_flags", lambda: AVX2)
    (somewhere / "_native_avx2.so").write_bytes(b"not a library")
    loading.choose.cache_clear()
    loading.load.cache_clear()
    found, why = loading.choose()
    loading.choose.cache_clear()
    loading.load.cache_clear()
    assert found is None
    assert "avx2: " in (why or "")
    assert "portable: _native_portable.so was not built" in (why or "")


@needs_native
def test_another_abi_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = loading.library()
    assert chosen is not None
    monkeypatch.setattr(loading, "ABI", loading.ABI + 1)
    with pytest.raises(OSError, match="install it anew"):
        loading.Library(loading.path_of(chosen.isa))


@needs_native
def test_what_the_system_withholds_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = loading.library()
    assert chosen is not None
    monkeypatch.setattr(loading.Library, "hr_permitted", Withheld(), raising=False)
    with pytest.raises(OSError, match=f"does not let this process use {chosen.isa}"):
        loading.Library(loading.path_of(chosen.isa))


def test_this_processors_flags_are_read() -> None:
    assert loading.cpu_flags()
