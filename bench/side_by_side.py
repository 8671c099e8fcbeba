"""headrace's engine beside a named peer: the same jobs, alternating in one run, medians and ratios.

python bench/side_by_side.py --peer-python /path/to/peer/venv/bin/python

Both load the same random checkpoint once and wait; then A B A B ... run each scenario in turn, so
that whatever slows the machine down slows both. One lock file, shared by all timed runs on the
machine, keeps two from running at once. Raw times of every round go to bench/results/.
"""

import argparse
import fcntl
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.bench.results import circumstances, write_result

HERE = Path(__file__).resolve().parent
LOCK = Path(tempfile.gettempdir()) / "headrace-bench.lock"
PEER_SCRIPT = HERE / "peers" / "transformers_generate.py"
OUR_SCRIPT = HERE / "peers" / "headrace_engine.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    name: str
    batch: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One contestant's answer to one job."""

    first_s: float
    total_s: float
    decode_tok_s: float
    """Tokens after each sequence's first over the time after the last first token."""
    tokens: list[list[int]]


class Contestant:
    """A process that answers jobs, one at a time."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.about: dict[str, Any] = self._read()["ready"]

    def run(self, prompts: list[list[int]], output_tokens: int) -> Round:
        assert self._process.stdin is not None
        job = {"prompts": prompts, "output_tokens": output_tokens}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        made = [len(tokens) for tokens in answer["tokens"]]
        if made != [output_tokens] * len(prompts):
            raise SystemExit(f"{self.name} made {made} tokens of {output_tokens} each")
        after_s = answer["total_s"] - answer["first_s"]
        return Round(
            first_s=answer["first_s"],
            total_s=answer["total_s"],
            decode_tok_s=len(prompts) * (output_tokens - 1) / after_s,
            tokens=answer["tokens"],
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self._process.wait()}; see its words above")
        return json.loads(line)


@contextmanager
def only_timed_run() -> Iterator[None]:
    """Wait until no other timed run is on this machine."""
    with LOCK.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another timed run holds {LOCK}; waiting", file=sys.stderr)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def compare(
    ours: Contestant, peer: Contestant, scenario: Scenario, *, rounds: int, ids: int
) -> dict[str, Any]:
    """One warm-up each, then `rounds` rounds; fresh prompts each round, the same for both."""
    randomness = random.Random(0)
    timed: dict[str, list[Round]] = {ours.name: [], peer.name: []}
    for number in range(rounds + 1):
        prompts = [
            [randomness.randrange(3, ids) for _ in range(scenario.input_tokens)]
            for _ in range(scenario.batch)
        ]
        # The order alternates too: neither always runs on caches that the other has just filled.
        order = (ours, peer) if number % 2 else (peer, ours)
        for contestant in order:
            answer = contestant.run(prompts, scenario.output_tokens)
            if number:
                timed[contestant.name].append(answer)
    measures: dict[str, Any] = {}
    for measure, better in (("first_s", "lower"), ("total_s", "lower"), ("decode_tok_s", "higher")):
        a, b = ([getattr(r, measure) for r in timed[c.name]] for c in (ours, peer))
        ratio = statistics.median(a) / statistics.median(b)
        measures[measure] = {
            ours.name: {"median": statistics.median(a), "all": a},
            peer.name: {"median": statistics.median(b), "all": b},
            "ratio": ratio if better == "higher" else 1 / ratio,
            "ratio_means": f"{ours.name} is this many times as good; {better} is better",
        }
        print(
            f"{scenario.name:>16}  {measure:>12}  {ours.name} {statistics.median(a):9.3f}  "
            f"{peer.name} {statistics.median(b):9.3f}  ratio {measures[measure]['ratio']:.2f}"
        )
    agree = [
        _common(x, y)
        for r, s in zip(timed[ours.name], timed[peer.name], strict=True)
        for x, y in zip(r.tokens, s.tokens, strict=True)
    ]
    return {
        "batch": scenario.batch,
        "input_tokens": scenario.input_tokens,
        "output_tokens": scenario.output_tokens,
        "rounds": rounds,
        "measures": measures,
        # bfloat16 and random weights: ties and near-ties part the two sooner or later.
        "identical_leading_tokens": {"median": statistics.median(agree), "all": agree},
    }


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True, help="of an environment with transformers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--checkpoint", type=Path, help="kept for the next run; default: temporary")
    parser.add_argument("--tiny", action="store_true", help="a toy shape: tries the script out")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="for headrace")
    options = parser.parse_args()
    if options.rounds < 5 and not options.tiny:
        parser.error("a kept result has five rounds or more")
    shape = "tiny" if options.tiny else "llama-3.2-1b-shape-bf16"
    scenarios = (
        Scenario(name="batch-1", batch=1, input_tokens=128, output_tokens=64),
        Scenario(name="8-concurrent", batch=8, input_tokens=128, output_tokens=64),
    )
    environment = {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    with only_timed_run(), tempfile.TemporaryDirectory() as temporary:
        model = options.checkpoint or Path(temporary) / shape
        if not (model / "config.json").is_file():
            making = [options.peer_python, str(PEER_SCRIPT), "--make", str(model)]
            subprocess.run(making + ["--tiny"] * options.tiny, check=True)
        ids = json.loads((model / "config.json").read_text())["vocab_size"]
        common = ["--model", str(model), "--threads", str(options.threads)]
        sets = [word for item in options.sets for word in ("--set", item)]
        contestants: list[Contestant] = []
        try:
            ours = [sys.executable, str(OUR_SCRIPT), *common, *sets]
            contestants.append(Contestant("headrace", ours, environment))
            theirs = [options.peer_python, str(PEER_SCRIPT), *common]
            contestants.append(Contestant("transformers", theirs, environment))
            result: dict[str, Any] = {
                "peer": contestants[1].about,
                "scenarios": {
                    scenario.name: compare(
                        contestants[0], contestants[1], scenario, rounds=options.rounds, ids=ids
                    )
                    for scenario in scenarios
                },
            }
        finally:
            for contestant in contestants:
                contestant.close()
    path = options.out / f"{circumstances().date[:10]}-spine-transformers-{shape}.json"
    arguments = {"shape": shape, "threads": options.threads, "sets": options.sets}
    write_result(
        path, what="engine beside transformers generate", arguments=arguments, result=result
    )
    print(path)


if __name__ == "__main__":
    main()
