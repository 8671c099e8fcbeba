"""headrace beside named peers: the same jobs, alternating in one run, medians and ratios.

python bench/side_by_side.py --peers FILE.toml --shape llama1b --match int8 decode prefill-512

The contestants of a match (matches.py) load the same random weights once and wait; then A B A B
... run each workload in turn, so that whatever slows the machine down slows all. The machine's
walls (walls.c) are probed before every round. `--turn` names a command that waits for the machine
(as `flock FILE`); without it one lock file keeps two timed runs from meeting. The peers file says
where the peers' environments and models are: see peers.example.toml. Nothing is fetched.
"""

import argparse
import contextlib
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from contest import HIGHER, MEASURES, Contestant, Engine, Job, Round, Server, Turn
from headrace.bench.arrivals import arrivals_s
from headrace.bench.datasets import Span, random_prompts
from headrace.bench.results import circumstances, write_result
from matches import BITS, ENVIRONMENT, HEADRACE, MATCHES, PEERS, SERVE, SERVERS, WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
LOCK = Path(tempfile.gettempdir()) / "headrace-bench.lock"
# After others had the machine: caches and clocks wake up.
WARM = Workload(sequences=1, input_tokens=(64, 64), output_tokens=(4, 4))
# Of the ids that make_checkpoint.py's tokenizers have learnt, none special: texts are text.
IDS = {"tiny": Span(low=300, high=1400), "full": Span(low=300, high=31000)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where this machine keeps the peers; never written to a result."""

    python: Mapping[str, str]
    environment: Mapping[str, Mapping[str, str]]
    binaries: str
    models: Mapping[str, Mapping[str, str]]
    """Shape -> form -> path."""

    @classmethod
    def read(cls, path: Path) -> "Places":
        found = tomllib.loads(path.read_text("utf-8"))
        return cls(
            python=found["python"],
            environment=found.get("environment", {}),
            binaries=found.get("binaries", ""),
            models=found["models"],
        )

    def model(self, shape: str, form: str) -> str:
        try:
            return self.models[shape][form]
        except KeyError:
            raise SystemExit(f"the peers file has no [models.{shape}] {form}") from None


def start(name: str, places: Places, *, shape: str, threads: int, log: Path) -> Contestant:
    """Load one contestant; returns when it waits for its first job."""
    common = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    ours = name.removesuffix(SERVE)
    if ours in HEADRACE:
        model = places.model(shape, "hf")
        sets = [word for item in HEADRACE[ours] for word in ("--set", item)]
        if name.endswith(SERVE):
            port = _free_port()
            command = [sys.executable, "-m", "headrace", *sets]
            command += ["--set", f"engine.threads={threads}", "serve", model, "--no-auth"]
            return Server(name, [*command, "--port", str(port)], common, log, port=port)
        command = [sys.executable, str(HERE / "peers" / "headrace_engine.py"), *sets]
        command += ["--model", model, "--threads", str(threads)]
        return Engine(name, command, common, log)
    if name in PEERS:
        peer = PEERS[name]
        script = str(HERE / "peers" / f"{peer.script}.py")
        command = [places.python[peer.python], script, *peer.flags]
        command += ["--model", places.model(shape, peer.model), "--threads", str(threads)]
        if peer.script == "llama_cpp_tool":
            command += ["--binary", f"{places.binaries}/llama-batched-bench"]
        environment = environment_of(peer.python, common, places, threads)
        return Engine(name, command, environment, log)
    if name in SERVERS:
        kind, form, words = SERVERS[name]
        port = _free_port()
        command = [
            word.format(
                python=places.python[kind],
                binaries=places.binaries,
                model=places.model(shape, form),
                port=port,
                threads=threads,
            )
            for word in words
        ]
        environment = environment_of(kind, common, places, threads)
        return Server(name, command, environment, log, port=port)
    raise SystemExit(f"no contestant {name!r}; known: {', '.join([*HEADRACE, *PEERS, *SERVERS])}")


def environment_of(
    kind: str, common: Mapping[str, str], places: Places, threads: int
) -> dict[str, str]:
    own = {k: v.format(last=threads - 1) for k, v in ENVIRONMENT.get(kind, {}).items()}
    shared = {} if kind == "vllm" else common
    return {**shared, **own, **places.environment.get(kind, {})}


def weight_bytes(name: str, places: Places, shape: str, config: Mapping[str, Any]) -> int:
    """What one step reads of the weights: all of them, in the form they are kept in."""
    ours = name.removesuffix(SERVE)
    if ours in HEADRACE:
        settings = dict(item.split("=") for item in HEADRACE[ours])
        bits = BITS[settings.get("model.quantization", "bf16")]
        return int(matrix_weights(config) * bits / 8)
    path = Path(places.model(shape, PEERS[name].model if name in PEERS else SERVERS[name][1]))
    kept = [path] if path.is_file() else path.iterdir()
    weights = (".safetensors", ".gguf", ".bin")
    return sum(file.stat().st_size for file in kept if file.suffix in weights)


def matrix_weights(config: Mapping[str, Any]) -> int:
    """Weights of all matrices, the tied head counted once."""
    D, F, H = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads = 2 * config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    layer = heads * H * D + 3 * F * D
    return config["num_hidden_layers"] * layer + config["vocab_size"] * D


def job_of(workload: Workload, *, ids: Span, seed: int) -> Job:
    """A round's prompts: the same for every contestant, never those of another round."""
    low, high = workload.input_tokens
    prompts = random_prompts(
        count=workload.sequences,
        input_tokens=Span(low=low, high=high),
        ids=ids,
        prefix_tokens=workload.prefix_tokens,
        prefixes=1,
        seed=seed,
    )
    low, high = workload.output_tokens
    lengths = np.random.default_rng([seed, 1]).integers(
        low, high, size=workload.sequences, endpoint=True
    )
    return Job(
        prompts=prompts,
        output_tokens=[int(length) for length in lengths],
        arrivals_s=arrivals_s(
            count=workload.sequences, rate=workload.rate, burstiness=1.0, seed=seed
        ),
        objectives_ms=workload.objectives_ms or {},
    )


def compare(
    contestants: Sequence[Contestant],
    workload: Workload,
    *,
    rounds: int,
    ids: Span,
    turn: Turn,
    walls: "Walls",
) -> dict[str, Any]:
    """One warm-up each, with short answers, then `rounds` rounds."""
    timed: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    probed: list[dict[str, Any]] = []
    warm_up = job_of(WARM, ids=ids, seed=10_000)
    short = (min(8, workload.output_tokens[0]),) * 2
    number = 0
    while number <= rounds:
        wanted = workload if number else replace(workload, output_tokens=short)
        job = job_of(wanted, ids=ids, seed=number)
        fresh = turn.renew()
        # The order moves on: nobody always runs on caches that the same other has just filled.
        first = number % len(contestants)
        order = [*contestants[first:], *contestants[:first]]
        for contestant in order if fresh and number else ():
            contestant.run(warm_up)
        wall = walls.probe()
        answers = {contestant.name: contestant.run(job) for contestant in order}
        if not turn.held:
            print(f"round {number} lost its turn: once more", file=sys.stderr)
            continue
        if number:
            probed.append(wall)
            for name, answer in answers.items():
                timed[name].append(answer)
        number += 1
    return {
        "workload": workload,
        "rounds": rounds,
        "walls": probed,
        "measures": measures_of(timed),
        # Random weights: ties and near-ties part two right engines sooner or later.
        "identical_leading_tokens": _agreements(timed),
    }


def measures_of(timed: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """Medians and all values; the first contestant's ratio to each other, above 1 = better."""
    names = list(timed)
    found: dict[str, Any] = {}
    for measure in MEASURES:
        values = {name: [getattr(answer, measure) for answer in timed[name]] for name in names}
        told = {name: all_ for name, all_ in values.items() if None not in all_}
        if not told:
            continue
        medians = {name: statistics.median(all_) for name, all_ in told.items()}
        found[measure] = {name: {"median": medians[name], "all": told[name]} for name in medians}
        if names[0] in medians:
            better = {
                name: medians[names[0]] / median if median else None
                for name, median in medians.items()
                if name != names[0]
            }
            higher = measure in HIGHER
            found[measure]["ratios"] = {
                name: ratio if higher or not ratio else 1 / ratio for name, ratio in better.items()
            }
    return found


class Walls:
    """walls.c, compiled once for this machine."""

    def __init__(self, directory: Path, threads: int) -> None:
        self._command = [str(directory / "walls"), str(threads)]
        source = str(HERE / "walls.c")
        options = ["-O3", "-march=native", "-pthread"]
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, *options, source, "-o", self._command[0]], check=True)

    def probe(self) -> dict[str, Any]:
        done = subprocess.run(self._command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)


@contextlib.contextmanager
def alone(prefix: Sequence[str]) -> Iterator[None]:
    """The machine's turn while something is loaded; not timed."""
    turn = Turn(prefix, longest_s=0.0)
    turn.take()
    try:
        yield
    finally:
        turn.give_back()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="+", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--peers", type=Path, required=True, help="TOML; see peers.example.toml")
    parser.add_argument("--shape", default="llama1b", help="of [models.SHAPE] in the peers file")
    parser.add_argument(
        "--match", required=True, help=", ".join(MATCHES) + ", or names with commas"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of sequences")
    parser.add_argument("--rate", type=float, help="requests per second, instead of the workload's")
    parser.add_argument(
        "--turn", default=f"flock {LOCK}", help="command that waits for the machine"
    )
    parser.add_argument("--load-turn", default="", help="the same, for loading [--turn]")
    parser.add_argument("--hold-s", type=float, default=400.0, help="longest turn, about")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--log", type=Path, help="what the contestants print [temporary]")
    parser.add_argument("--label", default="", help="ends the result's name")
    parser.add_argument("--try", action="store_true", dest="trying", help="keep no result")
    options = parser.parse_args()
    if options.rounds < 5 and not options.trying:
        parser.error("a kept result has five rounds or more")
    names = MATCHES.get(options.match) or tuple(options.match.split(","))
    places = Places.read(options.peers)
    config = json.loads((Path(places.model(options.shape, "hf")) / "config.json").read_text())
    turn = Turn(shlex.split(options.turn), longest_s=options.hold_s)
    contestants: list[Contestant] = []
    # The source that runs is that of the start: the file's own circumstances are the end's.
    result: dict[str, Any] = {"began": circumstances(), "shape": config, "workloads": {}}
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as ending:
        walls = Walls(Path(temporary), options.threads)
        log = options.log or Path(temporary) / "log"
        with alone(shlex.split(options.load_turn or options.turn)):
            for name in names:
                contestants.append(
                    start(name, places, shape=options.shape, threads=options.threads, log=log)
                )
                ending.callback(contestants[-1].close)
                print(f"{name}: {contestants[-1].about}", file=sys.stderr)
        ending.callback(turn.give_back)
        result["contestants"] = {
            contestant.name: {
                "settings": HEADRACE.get(contestant.name.removesuffix(SERVE), ()),
                "weight_bytes": weight_bytes(contestant.name, places, options.shape, config),
                **contestant.about,
            }
            for contestant in contestants
        }
        for name in options.workloads:
            workload = scaled(WORKLOADS[name], scale=options.scale, rate=options.rate)
            found = compare(
                contestants,
                workload,
                rounds=options.rounds,
                ids=IDS["tiny" if options.shape.startswith("tiny") else "full"],
                turn=turn,
                walls=walls,
            )
            result["workloads"][name] = found
            show(name, found)
    if options.trying:
        return
    label = f"-{options.label}" if options.label else ""
    stem = "-".join([options.match.replace(",", "+"), *options.workloads]) + label
    path = options.out / f"{circumstances().date[:10]}-{options.shape}-{stem}.json"
    arguments = {
        "shape": options.shape,
        "match": options.match,
        "workloads": options.workloads,
        "rounds": options.rounds,
        "threads": options.threads,
        "scale": options.scale,
        "rate": options.rate,
    }
    write_result(path, what="side by side", arguments=arguments, result=result)
    print(path)


def scaled(workload: Workload, *, scale: float, rate: float | None) -> Workload:
    sequences = max(1, round(workload.sequences * scale))
    if rate is None or workload.rate == float("inf"):
        return replace(workload, sequences=sequences)
    return replace(workload, sequences=sequences, rate=rate)


def show(name: str, found: Mapping[str, Any]) -> None:
    walls = [probe["read_gb_s"] for probe in found["walls"]]
    print(f"\n{name}: wall {min(walls):.1f}-{max(walls):.1f} GB/s")
    for measure, values in found["measures"].items():
        ratios = values.get("ratios", {})
        told = "  ".join(
            f"{who} {value['median']:.3f}" + (f" ({ratios[who]:.2f}x)" if ratios.get(who) else "")
            for who, value in values.items()
            if who != "ratios"
        )
        print(f"  {measure:>14}  {told}", flush=True)


def _agreements(timed: Mapping[str, Sequence[Round]]) -> dict[str, float]:
    ours, *others = timed
    return {
        other: statistics.median(
            _common(a, b)
            for mine, theirs in zip(timed[ours], timed[other], strict=True)
            for a, b in zip(mine.tokens, theirs.tokens, strict=True)
        )
        for other in others
        if timed[ours][0].tokens and timed[other][0].tokens
    }


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


if __name__ == "__main__":
    main()
