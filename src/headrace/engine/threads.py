"""How many threads may compute here."""

import os
from pathlib import Path


def physical_cores() -> int:
    """Cores this process may use, hyper-threads of one core counted once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores: set[str] = set()
    for cpu in os.sched_getaffinity(0):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(path.read_text())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))
