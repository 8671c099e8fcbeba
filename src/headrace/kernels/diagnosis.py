"""What computes on this machine and how fast it could: the findings of `headrace doctor`.

Nothing is assumed that can be looked at: libraries are opened, walls measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headrace.kernels.library import candidates, library, why_not
from headrace.kernels.native import Pool
from headrace.kernels.probe import Probe, Walls

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

BYTES_PER_WEIGHT = {"bfloat16": 2.0, "int8 g32": 1.0625, "int4 g32": 0.5625}
"""What decoding one token reads of each weight: with quantized formats, its share of a scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """The kernels of one instruction set."""

    isa: str
    runs: bool
    """These are the ones in use."""
    why_not: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """All findings; `advice` has what its reader can do about them."""

    builds: Sequence[Build]
    threads: int
    huge_pages: str
    """always | madvise | never | unknown."""
    walls: Walls | None
    """None without native kernels."""
    tokens_s: dict[str, float]
    """By weight format: the memory wall for one request to a model of 1e9 weights."""
    gpus: Sequence[Gpu]
    torch: str
    advice: Sequence[str]

    @property
    def fast(self) -> bool:
        """Native kernels run, or there is a GPU."""
        return self.walls is not None or bool(self.gpus)


def diagnose(threads: int) -> Diagnosis:
    """Look and measure; takes a few seconds and up to 1 GiB of memory."""
    walls = Probe(Pool(threads)).walls() if library() else None
    huge_pages = _huge_pages()
    tokens_s = {
        name: walls.read_gb_s / size for name, size in BYTES_PER_WEIGHT.items() if walls is not None
    }
    return Diagnosis(
        builds=_builds(),
        threads=threads,
        huge_pages=huge_pages,
        walls=walls,
        tokens_s=tokens_s,
        gpus=_gpus(),
        torch=torch.__version__,
        advice=_advice(huge_pages, walls),
    )


def _builds() -> list[Build]:
    chosen = library()
    found: list[Build] = []
    for candidate in candidates():
        name, why = candidate.isa.name, candidate.obstacle
        runs = chosen is not None and chosen.isa == name
        if why is None and not runs:
            why = f"{chosen.isa} is faster" if chosen is not None else why_not()
        found.append(Build(isa=name, runs=runs, why_not=why))
    return found


def _huge_pages() -> str:
    try:
        setting = HUGE_PAGES.read_text()
    except OSError:
        return "unknown"
    return setting.partition("[")[2].partition("]")[0] or "unknown"


def _gpus() -> list[Gpu]:
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return [Gpu(name=one.name, memory_bytes=one.total_memory) for one in found]


def _advice(huge_pages: str, walls: Walls | None) -> list[str]:
    advice: list[str] = []
    if walls is None:
        return [
            f"{why_not()}; plain torch runs, some four times slower: install a C++20 compiler and "
            "then headrace again (pip install --force-reinstall --no-deps headrace)"
        ]
    if huge_pages == "never":
        advice.append(
            "huge pages are off, which can halve the reading of memory: "
            f"echo madvise > {HUGE_PAGES}"
        )
    advice.append(
        "one request is as fast as its weights are small: headrace quantize MODEL --to int8 "
        "(or int4) measures what that costs; bfloat16 is the exact choice"
    )
    if walls.bf16_gflop_s < walls.int8_gop_s / 4:
        advice.append(
            "this processor has no bfloat16 arithmetic: long prompts are far faster with int8"
        )
    return advice
