"""Sampling over a large vocabulary: the native kernels beside the torch reference, in one run.

    python bench/sampler.py                                # 1, 16 and 64 rows of 151,936 logits
    python bench/sampler.py --out bench/results/NAME.json

Both through `engine.sampler`, so with everything that a step pays for: packing rules, outcomes. The
two alternate; medians over rounds of the best of a few calls.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headrace.bench.results import write_result
from headrace.engine.sampler import Arithmetic, History, SampleRow, sample_by
from headrace.engine.sampler_native import NativeSampling
from headrace.engine.sampler_torch import TorchSampling
from headrace.kernels.native import Pool, library, why_not
from headrace.types import SamplingParams

VOCAB = 151_936
WARM_S = 0.05
KINDS = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature": SamplingParams(temperature=0.8),
    "temperature, top_k 20, top_p": SamplingParams(temperature=0.6, top_k=20, top_p=0.95),
    "temperature, top_p": SamplingParams(temperature=0.8, top_p=0.95),
    "greedy, 5 logprobs": SamplingParams(temperature=0.0, logprobs=5),
    "greedy, penalty": SamplingParams(temperature=0.0, frequency_penalty=0.5),
}
LOGITS = ("peaked", "flat")


def make_logits(shape: str, rows: int) -> torch.Tensor:
    """Peaked: as a trained model's, a few far above a wide rest. Flat: as random weights'."""
    generator = torch.Generator().manual_seed(rows)
    x_RV = torch.randn(rows, VOCAB, generator=generator)
    if shape == "flat":
        return x_RV
    x_RV *= 2.5
    best_RK = torch.randint(0, VOCAB, (rows, 12), generator=generator)
    lead = torch.linspace(19.0, 12.0, 12).expand(rows, -1)
    return x_RV.scatter_(1, best_RK, lead)


def best_ms(call: Callable[[], object], calls: int) -> float:
    # As in an engine, whose threads have just run a model: awake, each on a core of its own.
    until = time.perf_counter() + WARM_S
    while time.perf_counter() < until:
        call()
    took: list[float] = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took) * 1e3


def compare(
    ways: dict[str, Arithmetic], logits_RV: torch.Tensor, rows: list[SampleRow], rounds: int
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            # The other way's threads spin for a while after its last call: let them go to sleep.
            time.sleep(0.05)
            calls = 1 if name == "torch" else 9
            times[name].append(best_ms(lambda way=way: sample_by(way, logits_RV, rows), calls))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = library()
    if found is None:
        parser.error(str(why_not()))
    torch.set_num_threads(options.threads)
    ways: dict[str, Arithmetic] = {
        "native": NativeSampling(found, Pool(options.threads)),
        "native, 1 thread": NativeSampling(found, None),
        "torch": TorchSampling(),
    }
    results: list[dict[str, Any]] = []
    for count in options.rows:
        for shape in LOGITS:
            logits_RV = make_logits(shape, count)
            for kind, params in KINDS.items():
                rows = [
                    SampleRow(sampling=params, seed=r, choice=0, position=r, history=History())
                    for r in range(count)
                ]
                ms = compare(ways, logits_RV, rows, options.rounds)
                ratio = ms["torch"] / ms["native"]
                results.append(
                    {"rows": count, "logits": shape, "kind": kind, "ms": ms, "ratio": ratio}
                )
                print(
                    f"{count:3} rows {shape:6}  {kind:30} native {ms['native']:8.3f} ms "
                    f"(1 thread {ms['native, 1 thread']:8.3f})  torch {ms['torch']:8.2f} "
                    f" x{ratio:.0f}",
                    flush=True,
                )
    if options.out is not None:
        arguments = {"vocab": VOCAB, "rounds": options.rounds, "threads": options.threads}
        write_result(options.out, what="sampling", arguments=arguments, result=results)


if __name__ == "__main__":
    main()
