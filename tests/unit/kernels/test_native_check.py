"""tests/native/check.cpp: all entry points against plain loops, under sanitizers and on ARM."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.kernels import library

NATIVE = Path(library.__file__).with_name("native")
CHECK = Path(__file__).parents[2] / "native" / "check.cpp"
OPTIONS = ["-g", "-std=c++20", "-ffp-contract=off", "-fno-math-errno", f"-I{NATIVE}", "-pthread"]
AVX512 = [
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
    *("-mavx512bf16", "-mavx512vbmi", "-mavx2", "-mfma", "-mf16c"),
]
X86 = {
    "amx": [*AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
    "avx512": AVX512,
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "portable": [],
}
NEON = ["-march=armv8.2-a+dotprod+i8mm+bf16+fp16", "-static"]


def build(out: Path, compiler: str, options: list[str]) -> Path:
    """The check and the library in one program, a file a core."""

    def compile_one(source: Path) -> str:
        made = out / (source.stem + ".o")
        command = [compiler, *OPTIONS, *options, "-c", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        made = list(threads.map(compile_one, [CHECK, *sorted(NATIVE.glob("*.cpp"))]))
    program = out / "check"
    subprocess.run([compiler, *options, *made, "-pthread", "-o", str(program)], check=True)
    return program


def passes(command: list[str], isa: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    name, count, *_ = done.stdout.split()
    assert name == f"{isa}:"
    assert int(count) > 2000


@pytest.mark.slow
@pytest.mark.parametrize("isa", X86)
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_under_sanitizers(isa: str, sanitizers: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    needs = next(known for known in library.ISAS if known.name == isa)
    if compiler is None or (needs.machines and os.uname().machine not in needs.machines):
        pytest.skip("no C++ compiler, or another kind of processor")
    if missing := set(needs.flags) - library.cpu_flags():
        pytest.skip(f"this processor lacks {missing}")
    options = ["-O1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", *X86[isa]]
    passes([str(build(tmp_path, compiler, options))], isa)


@pytest.mark.slow
def test_on_arm(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64")
    program = build(tmp_path, compiler, ["-O2", *NEON])
    passes([emulator, "-cpu", "max", str(program)], "neon")
