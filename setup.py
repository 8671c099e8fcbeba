"""Compiles the native kernels, one shared library for each instruction set, where a compiler is.

Metadata is in pyproject.toml. The libraries are plain C ABIs loaded with ctypes, one of them picked
at run time (`headrace.kernels.library`), so a wheel serves every Python 3 of its platform.
Flags are explicit, never -march=native: what is built here must load on the machine it is shipped
to. Without a compiler the installation succeeds, and `headrace doctor` says what is missing.
"""

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
SOURCES = Path("src/headrace/kernels/native")
AVX512 = [
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
    *("-mavx512bf16", "-mavx512vbmi", "-mavx2", "-mfma", "-mf16c"),
]
FLAGS = {
    "x86_64": {
        "amx": [*AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
        "avx512": AVX512,
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "portable": [],
    },
    "aarch64": {"neon": ["-march=armv8.2-a+dotprod+i8mm+bf16+fp16"], "portable": []},
}
COMMON = [
    *("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-ffunction-sections"),
    *("-fno-math-errno", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-maybe-uninitialized"),
]
LINK = (
    ["-shared", "-Wl,-dead_strip", "-Wl,-x"]
    if sys.platform == "darwin"
    else ["-shared", "-s", "-Wl,--gc-sections", "-static-libstdc++", "-static-libgcc", "-pthread"]
)


class BuildNative(build_ext):
    """Extensions that are not Python modules, compiled a file a core; a failure is reported."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def run(self) -> None:
        super().run()
        built = [e.name for e in self.extensions if Path(self.get_ext_fullpath(e.name)).exists()]
        if not built:
            self.warn("no native kernels: headrace will run on plain torch, which is slow")

    def build_extension(self, ext: Extension) -> None:
        compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")
        target = Path(self.get_ext_fullpath(ext.name))
        objects = Path(self.build_temp) / ext.name
        target.parent.mkdir(parents=True, exist_ok=True)
        objects.mkdir(parents=True, exist_ok=True)

        def compile_one(source: str) -> str:
            out = str(objects / (Path(source).stem + ".o"))
            _run([*compiler, *COMMON, *ext.extra_compile_args, "-c", source, "-o", out])
            return out

        try:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                made = list(threads.map(compile_one, ext.sources))
            _run([*compiler, *LINK, *made, "-o", str(target)])
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", "") or error
            self.warn(f"{ext.name} was not built ({' '.join(compiler)}): {str(detail)[-2000:]}")


class PlatformWheel(bdist_wheel):
    """Of this platform, for any Python 3; on Linux for this C library and later ones."""

    def get_tag(self) -> tuple[str, str, str]:
        name = super().get_tag()[2]
        libc, version = platform.libc_ver()
        if libc == "glibc":
            name = name.replace("linux_", f"manylinux_{version.replace('.', '_')}_", 1)
        return "py3", "none", name


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)


def extensions() -> list[Extension]:
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / SOURCES).glob("*.cpp"))
    headers = sorted(str(path.relative_to(ROOT)) for path in (ROOT / SOURCES).glob("*.h"))
    return [
        Extension(
            f"headrace.kernels._native_{isa}",
            sources,
            depends=headers,
            extra_compile_args=flags,
            optional=True,
        )
        for isa, flags in FLAGS.get(machine, {"portable": []}).items()
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
