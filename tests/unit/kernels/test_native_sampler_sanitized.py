"""sampler.cpp under the address, undefined-behaviour and thread sanitizers, over extreme rows."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from headrace.kernels import library

NATIVE = Path(library.__file__).with_name("native")
FUZZ = Path(__file__).with_name("sampler_fuzz.cpp")
AVX512 = [
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16"),
    *("-mavx512vbmi", "-mavx2", "-mfma", "-mf16c"),
]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_extreme_rows(sanitizers: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    needs = next(isa for isa in library.ISAS if isa.name == "avx512")
    if compiler is None or os.uname().machine not in needs.machines:
        pytest.skip("no C++ compiler, or another kind of processor")
    if missing := set(needs.flags) - library.cpu_flags():
        pytest.skip(f"this processor lacks {missing}")
    program = tmp_path / "fuzz"
    options = ["-O1", "-g", "-std=c++20", "-fno-math-errno", f"-I{NATIVE}", "-pthread"]
    checks = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    sources = [str(FUZZ), str(NATIVE / "sampler.cpp")]
    subprocess.run([compiler, *options, *AVX512, *checks, *sources, "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 1000
