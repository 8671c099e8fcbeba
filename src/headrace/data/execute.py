"""How units are spread: over this process, this machine's cores, or a Ray cluster.

All three call the same function on the same units; what a unit leaves is in files and depends on
nothing else, so they end in the same bytes. On a cluster the output directory has to be one that
all machines see.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Protocol

from headrace.data.plan import Unit
from headrace.errors import DataError, MissingExtra

Work = Callable[[Unit], int]
"""Does a unit and returns its number; picklable."""


class Executor(Protocol):
    """Yields the number of each unit as it is done, in any order; raises what the work raised."""

    def __call__(self, work: Work, units: Sequence[Unit]) -> Iterator[int]: ...


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local(workers: int | None = None) -> Executor:
    """Processes on this machine; None = one a core, 1 = this process.

    Raises:
        DataError: Fewer than one.
    """
    count = cores() if workers is None else workers
    if count < 1:
        raise DataError(f"workers {count} do nothing; give at least 1")

    def run(work: Work, units: Sequence[Unit]) -> Iterator[int]:
        if min(count, len(units)) == 1:
            yield from map(work, units)
            return
        # Not fork: the tokenizer has threads.
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(min(count, len(units)), mp_context=context) as pool:
            waiting = [pool.submit(work, unit) for unit in units]
            try:
                for done in as_completed(waiting):
                    yield done.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    return run


def on_ray(address: str | None = None) -> Executor:
    """Ray Data tasks, one a unit, on the cluster at `address` or the one already joined.

    Raises:
        MissingExtra: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtra("--ray needs Ray: pip install 'headrace[ray]'") from None

    def run(work: Work, units: Sequence[Unit]) -> Iterator[int]:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False

        def row(item: dict[str, Unit]) -> dict[str, object]:
            # An error travels as a value: Ray would wrap it, and try the unit again.
            try:
                return {"number": work(item["item"]), "error": ""}
            except DataError as error:
                return {"number": -1, "error": error.message}

        dataset = ray.data.from_items(list(units), override_num_blocks=len(units)).map(row)
        for done in dataset.iter_rows():
            if done["error"]:
                raise DataError(done["error"])
            yield int(done["number"])

    return run
