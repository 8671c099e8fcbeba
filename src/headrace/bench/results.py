"""A measurement becomes a file that says where it came from: machine, commit, versions, date.

Invariant: a result without its circumstances is never written; what cannot be known is null.
"""

import dataclasses
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What decides how fast products of bytes and of bfloat16 pairs are.
_INSTRUCTIONS = frozenset(
    [
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "amx_int8",
        "amx_bf16",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
    ]
)
_PACKAGES = ("headrace", "torch", "numpy", "safetensors", "tokenizers", "aiohttp", "uvicorn")


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    date: str
    """UTC, ISO 8601."""
    cpu: str
    instructions: Sequence[str]
    """Those of its vector instruction sets that speed depends on; empty where unknown."""
    cores: int
    """That this process may run on."""
    memory_bytes: int
    system: str
    commit: str | None
    """Of the checkout that headrace runs from, `+dirty` where its source differs."""
    python: str
    versions: Mapping[str, str]


def circumstances() -> Circumstances:
    """Those of this process, now."""
    return Circumstances(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cpu=_cpu(),
        instructions=sorted(_INSTRUCTIONS.intersection(_cpuinfo("flags", "Features").split())),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        commit=_commit(Path(__file__).parents[1]),
        python=platform.python_version(),
        versions={name: found for name in _PACKAGES if (found := _version(name))},
    )


def write_result(path: Path, *, what: str, arguments: Mapping[str, Any], result: object) -> None:
    """Write one JSON document; an existing file is not overwritten but an error.

    Args:
        path: Its folders are made.
        what: Name of the measurement.
        arguments: All that one needs to repeat it.
        result: A dataclass or plain values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "what": what,
        "arguments": dict(arguments),
        "circumstances": circumstances(),
        "result": result,
    }
    with path.open("x", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1, ensure_ascii=False, default=_plain)
        stream.write("\n")


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _cpu() -> str:
    return _cpuinfo("model name") or platform.processor()


def _cpuinfo(*names: str) -> str:
    """The first processor's line of one of these names; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def _commit(directory: Path) -> str | None:
    head = _git(directory, "rev-parse", "HEAD")
    if not head:
        return None
    return f"{head}+dirty" if _git(directory, "status", "--porcelain", "--", ".") else head


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
