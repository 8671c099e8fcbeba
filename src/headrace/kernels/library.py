"""Shared libraries beside this file → the one that this processor runs best.

There is one library for each instruction set (setup.py), all with the C ABI of native/headrace.h.
What the processor has is read before a library is opened: a wrong one would die of SIGILL.
"""

import ctypes
import functools
import platform
import sys
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

ABI = 3
"""HR_ABI of native/headrace.h that the declarations below are written for."""

_X86 = ("x86_64", "AMD64")
_ARM = ("aarch64", "arm64")


@dataclass(frozen=True, kw_only=True, slots=True)
class Isa:
    """An instruction set that there is a build for."""

    name: str
    machines: Sequence[str]
    """`platform.machine()`; empty = any."""
    flags: Sequence[str]
    """What the processor must have, in the words of /proc/cpuinfo."""


_AVX512 = (
    *("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"),
    *("avx512vbmi", "avx2", "fma", "f16c"),
)
ISAS = (
    Isa(name="amx", machines=_X86, flags=(*_AVX512, "amx_tile", "amx_int8", "amx_bf16")),
    Isa(name="avx512", machines=_X86, flags=_AVX512),
    Isa(name="avx2", machines=_X86, flags=("avx2", "fma", "f16c")),
    Isa(name="neon", machines=_ARM, flags=("asimd", "asimddp", "i8mm", "bf16")),
    Isa(name="portable", machines=(), flags=()),
)
"""Best first."""


class MatrixStruct(ctypes.Structure):
    """`hr_matrix`."""

    _fields_ = (
        *((name, c_int32) for name in ("format", "rows", "cols", "group")),
        *((name, c_void_p) for name in ("data", "bias")),
    )


class KvStruct(ctypes.Structure):
    """`hr_kv`."""

    _fields_ = (
        *((name, c_int32) for name in ("format", "blocks", "block_tokens", "kv_heads", "head_dim")),
        *((name, c_void_p) for name in ("k", "v")),
    )


class SpansStruct(ctypes.Structure):
    """`hr_spans`."""

    _fields_ = (
        *((name, c_int32) for name in ("rows", "spans", "max_blocks")),
        *((name, c_void_p) for name in ("row_start", "context", "blocks")),
    )


_MATRIX, _KV, _SPANS = POINTER(MatrixStruct), POINTER(KvStruct), POINTER(SpansStruct)
_P, _I, _L, _F = c_void_p, c_int, c_int64, c_float
_DECLARATIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "hr_abi": (_I, ()),
    "hr_isa": (c_char_p, ()),
    "hr_permitted": (_I, ()),
    "hr_pool_new": (_P, (_I,)),
    "hr_pool_free": (None, (_P,)),
    "hr_scratch_new": (_P, ()),
    "hr_scratch_free": (None, (_P,)),
    "hr_packed_bytes": (_L, (_I, _I, _I, _I)),
    "hr_pack_bf16": (_I, (_P, _I, _I, _P, _L, _P)),
    "hr_pack_f32": (_I, (_P, _I, _I, _P, _L, _P)),
    "hr_pack_quantized": (_I, (_P, _I, _I, _I, _I, _P, _P, _P)),
    "hr_quantize": (_I, (_P, _I, _I, _I, _I, _P, _L, _P, _P)),
    "hr_unpack": (_I, (_MATRIX, _P)),
    "hr_gather": (_I, (_MATRIX, _I, _P, _P)),
    "hr_linear": (_I, (_P, _P, _MATRIX, _I, _P, _L, _P, _L, _I)),
    "hr_kv_bytes": (_L, (_I, _I, _I, _I, _I)),
    "hr_kv_write": (_I, (_P, _KV, _SPANS, _P, _L, _P, _L)),
    "hr_attend": (_I, (_P, _P, _KV, _SPANS, _I, _F, _I, _P, _L, _P, _L)),
    "hr_probe_read": (c_double, (_P, _P, _L)),
    "hr_probe_dot": (c_double, (_P, _I)),
    "hr_hidden": (_I, (_P, _P, _P, _P, _P, _P, _P)),
    "hr_logits": (_I, (_P, _P, _P, _I, _P, _P)),
    "hr_encode": (_I, (_P, _P, _P, _I, _P, _P, _P)),
}


class Library(ctypes.CDLL):
    """An opened library: its functions (`hr_linear`, ...) are attributes, declared."""

    isa: str

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.hr_abi.restype = c_int
        if (abi := self.hr_abi()) != ABI:
            raise OSError(f"{path.name} has ABI {abi}, this package {ABI}; install it anew")
        for name, (result, arguments) in _DECLARATIONS.items():
            function = getattr(self, name)
            function.restype, function.argtypes = result, arguments
        self.isa = self.hr_isa().decode()
        if not self.hr_permitted():
            raise OSError(f"the operating system does not let this process use {self.isa}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An instruction set, and why it cannot run here (None = it can)."""

    isa: Isa
    obstacle: str | None


def candidates() -> list[Candidate]:
    """Every instruction set of this kind of machine, best first."""
    machine, has = platform.machine(), cpu_flags()
    found: list[Candidate] = []
    for isa in ISAS:
        if isa.machines and machine not in isa.machines:
            continue
        obstacle = None
        if missing := [flag for flag in isa.flags if flag not in has]:
            obstacle = f"this processor lacks {', '.join(missing)}"
        elif not path_of(isa.name).exists():
            obstacle = f"{path_of(isa.name).name} was not built: no C++20 compiler at installation"
        found.append(Candidate(isa=isa, obstacle=obstacle))
    return found


@functools.cache
def load(name: str) -> Library:
    """Open the library of one instruction set, which this processor must have.

    Raises:
        OSError: It is not there, not loadable or of another ABI.
    """
    return Library(path_of(name))


@functools.cache
def library() -> Library | None:
    """The best library that runs here; None = `why_not` says why there is none."""
    return choose()[0]


def why_not() -> str | None:
    """Why there is no native library, for people; None = there is one."""
    return choose()[1]


@functools.cache
def choose() -> tuple[Library | None, str | None]:
    """The library, or why there is none."""
    reasons: list[str] = []
    for candidate in candidates():
        if candidate.obstacle is None:
            try:
                return load(candidate.isa.name), None
            except (OSError, AttributeError) as error:
                reasons.append(f"{candidate.isa.name}: {error}")
        else:
            reasons.append(f"{candidate.isa.name}: {candidate.obstacle}")
    return None, "no native kernels (" + "; ".join(reasons) + ")"


def path_of(name: str) -> Path:
    """Where the library of an instruction set is, if it was built."""
    return Path(__file__).with_name(f"_native_{name}.so")


@functools.cache
def cpu_flags() -> frozenset[str]:
    """What this processor has, in the words of Linux's /proc/cpuinfo."""
    if sys.platform == "darwin":
        return _mac_flags()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _mac_flags() -> frozenset[str]:
    names = {
        "FEAT_DotProd": "asimddp",
        "FEAT_BF16": "bf16",
        "FEAT_I8MM": "i8mm",
        "AdvSIMD": "asimd",
    }
    libc = ctypes.CDLL(None)
    has: set[str] = set()
    for feature, flag in names.items():
        value, size = c_int(0), ctypes.c_size_t(4)
        key = f"hw.optional.arm.{feature}".encode()
        status = libc.sysctlbyname(key, ctypes.byref(value), ctypes.byref(size), None, 0)
        if status == 0 and value.value:
            has.add(flag)
    return frozenset(has)
