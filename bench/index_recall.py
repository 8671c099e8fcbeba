"""Recall of the vector index against all cosines, by how much a filter leaves, and its cost.

    python bench/index_recall.py --data DATA.npz --out bench/results/NAME.json

DATA.npz is made by bench/index_data.py: vectors of MiniLM grown to 200,000, held-out questions.
What a search does is done here without the database: lists and tail as bytes, then the 40 best
compared in float32. Recall at 10. `cpu_ms` is of the process, all its threads.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from headrace.bench.results import write_result
from headrace.kernels.scan import Bytes, to_bytes
from headrace.retrieval.stores.vectors import Matrix, make_lists
from index_data import grown


def matrix(rows: Any, fresh: int) -> Matrix:
    """All but the last `fresh` in lists."""
    rounded = to_bytes(rows)
    listed = len(rows) - fresh

    def made(lists: Any, part: slice) -> Matrix:
        return Matrix(
            generation=1,
            dimensions=rows.shape[1],
            owner=None,
            lists=lists,
            tail=Bytes(
                rows=rounded.rows[part], scales=rounded.scales[part], sums=rounded.sums[part]
            ),
            has=np.ones(len(rows) if lists is not None else listed, np.bool_),
            complete=True,
        )

    return made(make_lists(made(None, slice(0, listed))), slice(listed, len(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    data = np.load(given.data)
    rows = grown(data["base"], given.count, seed=1)
    queries = data["queries"][: given.queries]
    draws = np.random.default_rng(8)
    result: dict[str, Any] = {}
    for fresh in (0, given.count // 20):
        begun = time.process_time()
        held = matrix(rows, fresh)
        result[f"lists_cpu_s, {fresh} since"] = round(time.process_time() - begun, 2)
        for kept in (1.0, 0.5, 0.1, 0.01):
            allowed = draws.random(given.count) < kept
            places = np.flatnonzero(allowed)
            held.nearest(queries[0], allowed, 40)
            begun = time.process_time()
            found = [held.nearest(query, allowed, 40)[0].places for query in queries]
            cpu_ms = (time.process_time() - begun) / len(queries) * 1e3
            hits = 0
            for query, near in zip(queries, found, strict=True):
                best = near[np.argsort(-(rows[near] @ query))[:10]]
                true = places[np.argpartition(-(rows[places] @ query), 10)[:10]]
                hits += len({*best.tolist()} & {*true.tolist()})
            name = f"{kept:.0%} kept, {fresh} since"
            result[name] = {
                "recall": round(hits / (10 * len(queries)), 4),
                "cpu_ms": round(cpu_ms, 3),
            }
            print(name, result[name], flush=True)
    if given.out is not None:
        arguments = {"count": given.count, "queries": given.queries}
        write_result(given.out, what="index recall", arguments=arguments, result=result)


if __name__ == "__main__":
    main()
