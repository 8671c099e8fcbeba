"""What a step costs beside the model's arithmetic: every part of it, in microseconds.

    python bench/overhead.py                      # batch 1, 16, 64, 128; decode steps
    python bench/overhead.py --sampling chat      # real draws over 151,936 random logits
    python bench/overhead.py --cold               # caches as a model leaves them
    python bench/overhead.py --model PATH --quantization int8 --batch 16   # a real model
    python bench/overhead.py --out bench/results/NAME.json

The whole worker runs as it is (frames in, scheduler, runner, sampler, commit, frames out over a
socket that somebody reads), with a model that answers at once unless one is given. Parts are timed
by wrapping their functions, each without what it calls; the wrappers themselves cost about 0.3 us a
call, and the whole step is measured without them. A step of the 0.6B shape at batch 16 takes about
40 ms on two cores, so 3 % of it are 1,200 us.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.bench.results import write_result
from headrace.config import EngineSettings, ModelSettings
from headrace.engine import runner, worker
from headrace.engine.batch import Batch
from headrace.engine.core import EngineCore
from headrace.engine.loading import load_core
from headrace.engine.scheduler import Scheduler
from headrace.engine.threads import physical_cores
from headrace.engine.worker import Link, Worker
from headrace.kernels import sampling as kernels
from headrace.kernels.native import Pool, library
from headrace.kernels.native_decoder import NativeDecoder
from headrace.model.config import ModelConfig
from headrace.model.stack import Step
from headrace.types import SamplingParams
from headrace.wire.frames import Submit

VOCAB, PROMPT_TOKENS, BLOCK_TOKENS = 151_936, 128, 32
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "chat": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "top_p": {"temperature": 0.8, "top_p": 0.95},
    "logprobs": {"temperature": 0.0, "logprobs": 5},
}
READER = """
import socket, sys
stream = socket.socket(fileno=int(sys.argv[1]))
while stream.recv(1 << 20):
    pass
"""


class NoModel:
    """A `Stack` whose arithmetic takes no time; `cold` reads as much memory as weights are."""

    name = "nothing"
    device = torch.device("cpu")
    context_tokens = 40_960

    def __init__(self, batch: int, threads: int, *, cold: bool) -> None:
        self._weights = np.ones(32 << 20 if cold else 0, dtype=np.int64)
        self.pool = Pool(threads) if library() else None
        self.config = ModelConfig(
            family="qwen3",
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=self.context_tokens,
        )
        self._hidden_TD = torch.zeros(8192, 16)
        generator = torch.Generator().manual_seed(0)
        self._logits_RV = 2.5 * torch.randn(batch, VOCAB, generator=generator)

    def hidden(self, step: Step) -> torch.Tensor:
        self._weights.sum()
        return self._hidden_TD[: len(step.ids_T)]

    def logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        return self._logits_RV[: len(hidden_RD)]


class Stopwatch:
    """Time of functions, each less what it calls of the others."""

    def __init__(self) -> None:
        self.laps_s: dict[str, list[float]] = defaultdict(list)
        self._spent_s: dict[str, float] = defaultdict(float)
        self._inner: list[float] = [0.0]
        self._undo: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, name: str, part: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)
        inner, spent, now = self._inner, self._spent_s, time.perf_counter

        def timed(*args: Any, **kwargs: Any) -> Any:
            inner.append(0.0)
            began = now()
            try:
                return function(*args, **kwargs)
            finally:
                took = now() - began
                spent[part] += took - inner.pop()
                inner[-1] += took

        self._undo.append((owner, name, function))
        setattr(owner, name, timed)

    def lap(self) -> None:
        """End of a step."""
        for part, spent in self._spent_s.items():
            self.laps_s[part].append(spent)
        self._spent_s.clear()

    def unwrap(self) -> None:
        for owner, name, function in reversed(self._undo):
            setattr(owner, name, function)


def parts(watch: Stopwatch) -> None:
    """Wrap everything a step passes through."""
    for owner, name, part in (
        (Worker, "_report", "worker: report"),
        (Link, "receive", "worker: poll the socket"),
        (Link, "send", "worker: send a frame"),
        (worker, "encode", "frames: encode"),
        (EngineCore, "step", "core: glue"),
        (Scheduler, "expire", "scheduler: deadlines"),
        (Scheduler, "plan", "scheduler: plan"),
        (Scheduler, "commit", "scheduler: commit"),
        (runner.Runner, "execute", "runner: glue"),
        (Batch, "lay_out", "runner: row layout"),
        (runner.Runner, "_sample", "sampler: rows"),
        (runner, "sample_by", "sampler: glue"),
        (kernels, "sample", "sampler: tokens (kernel)"),
        (kernels, "logprobs", "sampler: log-probabilities (kernel)"),
        (NoModel, "hidden", "model (kernel)"),
        (NoModel, "logits", "model (kernel)"),
        (NativeDecoder, "hidden", "model (kernel)"),
        (NativeDecoder, "logits", "model (kernel)"),
    ):
        watch.wrap(owner, name, part)


def make_core(batch: int, steps: int, model: ModelSettings | None, *, cold: bool) -> EngineCore:
    settings = EngineSettings(block_tokens=BLOCK_TOKENS, max_batch_tokens=4096, prefix_cache=False)
    if model is not None:
        return load_core(Path(model.path), model, settings).core
    blocks = batch * (-(-(PROMPT_TOKENS + steps + 64) // BLOCK_TOKENS) + 1)
    return EngineCore(NoModel(batch, physical_cores(), cold=cold), settings, blocks=blocks)


def drive(
    core: EngineCore, batch: int, sampling: str, steps: int
) -> tuple[Worker, "subprocess.Popen[bytes]"]:
    """A worker to which `batch` requests were sent, and a process that reads its frames."""
    ours, theirs = socket.socketpair()
    engine = Worker(core, Link(theirs), drain_s=0.0, eos_ids=())
    for at in range(batch):
        ids = np.random.default_rng(at).integers(0, core.vocab_size, PROMPT_TOKENS)
        params = SamplingParams(
            seed=at, max_tokens=steps + 40, ignore_eos=True, **SAMPLING[sampling]
        )
        engine._take(Submit(id=f"request-{at}#{at}", prompt=tuple(ids.tolist()), sampling=params))
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(ours.fileno())], pass_fds=[ours.fileno()]
    )
    ours.close()
    return engine, reader


def turn(engine: Worker) -> None:
    """One turn of `Worker.run`."""
    for frame in engine._link.receive(engine._patience_s()):
        engine._take(frame)
    if engine._core.has_work:
        engine._report(engine._core.step())


def measure(core: EngineCore, batch: int, sampling: str, steps: int) -> dict[str, Any]:
    """Medians over steps: bare ones, then ones whose parts are timed."""
    engine, reader = drive(core, batch, sampling, 3 * steps)
    while core.stats().running < batch:
        turn(engine)
    for _ in range(8):
        turn(engine)
    bare: list[float] = []
    for _ in range(2 * steps):
        began = time.perf_counter()
        turn(engine)
        bare.append(time.perf_counter() - began)
    watch = Stopwatch()
    parts(watch)
    for _ in range(steps):
        turn(engine)
        watch.lap()
    watch.unwrap()
    while core.has_work:
        turn(engine)
    engine._link.close()
    reader.wait(10)
    found = {part: statistics.median(laps) * 1e6 for part, laps in watch.laps_s.items()}
    kernel = sum(us for part, us in found.items() if "(kernel)" in part)
    return {
        "batch": batch,
        "sampling": sampling,
        "model": core.kernels,
        "step_us": statistics.median(bare) * 1e6,
        "step_p90_us": statistics.quantiles(bare, n=10)[8] * 1e6,
        "of_it_kernels_us": kernel,
        "overhead_us": sum(found.values()) - kernel,
        "overhead_share": 1 - kernel / sum(found.values()),
        "parts_us": dict(sorted(found.items(), key=lambda item: -item[1])),
    }


def show(result: dict[str, Any]) -> None:
    print(
        f"\nbatch {result['batch']}, {result['sampling']}, {result['model']}: "
        f"{result['step_us']:.0f} us a step (p90 {result['step_p90_us']:.0f}); timed: kernels "
        f"{result['of_it_kernels_us']:.0f}, the rest {result['overhead_us']:.0f} "
        f"({100 * result['overhead_share']:.1f} %)"
    )
    for part, us in result["parts_us"].items():
        print(f"  {us:8.1f}  {part}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16, 64, 128])
    parser.add_argument("--sampling", choices=SAMPLING, nargs="*", default=["greedy", "chat"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cold", action="store_true", help="256 MiB are read between the parts")
    parser.add_argument("--model", help="a checkpoint, in place of no arithmetic at all")
    parser.add_argument("--quantization", default="none", help="of the model's weights")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as beside native kernels
    model = None
    if options.model:
        model = ModelSettings(path=options.model, quantization=options.quantization)
    core = make_core(max(options.batch), 3 * options.steps, model, cold=options.cold)
    results: list[dict[str, Any]] = []
    for sampling in options.sampling:
        for batch in options.batch:
            results.append(measure(core, batch, sampling, options.steps))
            show(results[-1])
    if options.out is not None:
        arguments = {
            "steps": options.steps,
            "cores": len(os.sched_getaffinity(0)),
            "model": options.model and Path(options.model).name,
            "quantization": options.quantization,
            "cold": options.cold,
        }
        write_result(options.out, what="engine overhead", arguments=arguments, result=results)
    print(f"\npython {sys.version.split()[0]}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
