"""An estimate and the memory at hand -> a go-ahead, or an error that says what to set instead.

Every remedy that is named was estimated itself, so that what is promised to fit does.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from headrace.errors import ConfigError
from headrace.model.inspect import available_memory_bytes
from headrace.training.memory import Estimate, Workload, estimate

_GIB = 1 << 30
_CGROUP = Path("/sys/fs/cgroup")


def check(work: Workload, *, row_tokens: int, available: int | None = None) -> Estimate:
    """What a run will need.

    Args:
        work: Its steps.
        row_tokens: The longest row, below which a batch cannot be cut.
        available: Bytes at hand; None = what this machine has now.

    Raises:
        ConfigError: It will not fit; the settings that would make it, with what they need.
    """
    there = available_bytes(work.device) if available is None else available
    needed = estimate(work)
    # What the process occupies already is not taken from what is free.
    if needed.peak_bytes - needed.parts["process"] <= there:
        return needed
    fitting: list[str] = []
    least = (needed.peak_bytes, "")
    for name, other in _remedies(work, row_tokens):
        found = estimate(other)
        own = found.peak_bytes - found.parts["process"]
        least = min(least, (own, name))
        if own <= there:
            fitting.append(f"{name} ({_gib(own)})")
    parts = ", ".join(
        f"{name} {_gib(size)}" for name, size in needed.parts.items() if size and name != "process"
    )
    where = "of memory" if work.device == "cpu" else "on the GPU"
    said = (
        f"a step needs about {_gib(needed.peak_bytes - needed.parts['process'])} ({parts}) and "
        f"{_gib(there)} {where} are free"
    )
    if fitting:
        raise ConfigError(f"{said}; what would fit: {', '.join(fitting)}")
    raise ConfigError(
        f"{said}; nothing fits here: the least is {least[1] or 'this'}, {_gib(least[0])}; take a "
        "smaller model or more memory"
    )


def available_bytes(device: str) -> int:
    """Memory that can be had now: of a GPU, or of this machine within its control group."""
    if device != "cpu":
        return torch.cuda.mem_get_info()[0]
    return min(available_memory_bytes(), _left_in_group())


def _left_in_group() -> int:
    """Bytes up to the control group's limit, its file cache counted as free; huge without one."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return 1 << 62
    if limit == "max":
        return 1 << 62
    cache = next((int(x.split()[1]) for x in lines if x.startswith("inactive_file ")), 0)
    return max(0, int(limit) - used + cache)


def _remedies(work: Workload, row_tokens: int) -> Iterator[tuple[str, Workload]]:
    """Settings that take less, each alone, then together; the mildest first."""
    least_tokens = min(work.batch_tokens, row_tokens)
    if not work.checkpoint_activations:
        yield (
            "--set compute.checkpoint_activations=true",
            replace(work, checkpoint_activations=True),
        )
    tokens = work.batch_tokens // 2
    while tokens >= least_tokens:
        yield f"--set rows.batch_tokens={tokens}", replace(work, batch_tokens=tokens, passes=2)
        tokens //= 2
    methods = {"none": ("lora", "qlora"), "qlora": ()}.get(work.adapter.method, ("qlora",))
    for method in methods:
        adapter = replace(work.adapter, method=method)
        yield f"--adapter {method}", replace(work, adapter=adapter)
    thrifty = replace(work, checkpoint_activations=True, batch_tokens=least_tokens, passes=2)
    both = f"--set compute.checkpoint_activations=true --set rows.batch_tokens={least_tokens}"
    yield both, thrifty
    for method in methods:
        adapter = replace(work.adapter, method=method)
        yield f"--adapter {method} {both}", replace(thrifty, adapter=adapter)


def _gib(size: int) -> str:
    return f"{size / _GIB:.3g} GiB"
