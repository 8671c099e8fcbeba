"""How many commits of 20 documents a second an embedded index takes, words and vectors in each.

    python bench/index_commits.py --data DATA.npz --directory DIR --out bench/results/NAME.json

DATA.npz is made by bench/index_data.py. A document is one chunk of one sentence, or of three, with
a vector of 384. `full`: each commit is on the disk when `put` returns; `normal`: the last may be
lost when the machine dies, not when the process does. One client waits for each of its commits;
eight do so at once, and those that wait together are committed together, each told after that.
`fsync_ms` is what the disk itself takes for one, measured beside.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from headrace.bench.results import write_result
from headrace.retrieval.contracts import Entry, Generation
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.types import Chunk, SourceDocument
from index_data import grown, texts

ROWS = 20


def entries(count: int, pool: list[str], base: Any) -> list[list[Entry]]:
    rows = grown(base, max(count, len(base)), seed=3)[:count]
    made = [
        Entry(
            document=SourceDocument(id=str(i), text=text),
            chunks=(Chunk(document=str(i), ordinal=0, start=0, end=len(text), text=text),),
            vectors={1: row.tobytes()},
        )
        for i, (text, row) in enumerate(zip(pool, rows, strict=True))
    ]
    return [made[i : i + ROWS] for i in range(0, count, ROWS)]


async def rate(directory: Path, synchronous: str, clients: int, work: list[list[Entry]]) -> Any:
    shutil.rmtree(directory, ignore_errors=True)
    store = await SqliteStore.open(directory, synchronous=synchronous)
    await store.begin(Generation(number=1, embedder="", fingerprint="", dimensions=384))
    left = list(reversed(work))
    waits: list[float] = []

    async def client() -> None:
        while left:
            batch = left.pop()
            begun = time.perf_counter()
            await store.put(batch)
            waits.append(time.perf_counter() - begun)

    cpu, begun = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    wrong = await store.check()
    await store.close()
    shutil.rmtree(directory)
    assert not wrong, wrong
    return {
        "commits_per_s": round(len(work) / wall, 1),
        "cpu_ms": round(cpu / len(work) * 1e3, 3),
        "wait_p50_ms": round(statistics.median(waits) * 1e3, 2),
        "wait_p99_ms": round(float(np.quantile(waits, 0.99)) * 1e3, 2),
    }


def fsync_ms(directory: Path) -> float:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "fsync"
    taken: list[float] = []
    with path.open("wb", buffering=0) as file:
        for _ in range(60):
            file.write(b"x" * 65536)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begun)
    path.unlink()
    return round(statistics.median(taken) * 1e3, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    data = np.load(given.data)
    sentences = [str(s) for s in data["sentences"]]
    count = given.commits * ROWS
    one = (sentences * (count // len(sentences) + 1))[:count]
    work = {
        "one sentence": entries(count, one, data["base"]),
        "three sentences": entries(count, texts(sentences, count, seed=4), data["base"]),
    }
    found: dict[str, list[Any]] = {}
    disk = [fsync_ms(given.directory)]
    for _ in range(given.rounds):
        for length, batches in work.items():
            for synchronous in ("full", "normal"):
                for clients in (1, 8):
                    where = given.directory / "index"
                    taken = asyncio.run(rate(where, synchronous, clients, batches))
                    name = f"{length}, {synchronous}, {clients} client{'s' * (clients > 1)}"
                    found.setdefault(name, []).append(taken)
        disk.append(fsync_ms(given.directory))
    result: dict[str, Any] = {"fsync_ms": statistics.median(disk)}
    for name, runs in found.items():
        result[name] = {
            key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]
        }
        print(f"{name:36} {result[name]}")
    print("fsync_ms", result["fsync_ms"])
    if given.out is not None:
        arguments = {"commits": given.commits, "rounds": given.rounds}
        write_result(given.out, what="index commits", arguments=arguments, result=result)


if __name__ == "__main__":
    main()
