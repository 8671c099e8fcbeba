"""setup.py where it cannot compile, and what its flags promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.kernels.library import ISAS

ROOT = Path(__file__).parents[3]
SETUP = ROOT / "setup.py"

if not SETUP.exists():
    pytest.skip("tests without a source tree", allow_module_level=True)


def test_installing_without_a_compiler_succeeds_and_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext"]
    where = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    environment = {**os.environ, "CXX": "/nonexistent/c++"}
    done = subprocess.run(
        [*command, *where], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.so"))
    said = done.stdout + done.stderr
    assert "was not built (/nonexistent/c++)" in said
    assert "no native kernels: headrace will run on plain torch, which is slow" in said


def test_builds_and_loader_know_the_same_instruction_sets() -> None:
    written = SETUP.read_text()
    assert "march=native" not in written.replace("never -march=native", "")
    for isa in ISAS:
        assert f'"{isa.name}":' in written
