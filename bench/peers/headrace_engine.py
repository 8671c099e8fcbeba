"""headrace's engine core in this process, as a contestant (see jobs.py).

python headrace_engine.py --model DIR --threads N [--set key=value ...]
"""

import argparse
import itertools
import platform
import time

from jobs import Answer, Job, serve

from headrace import app
from headrace.config import load
from headrace.types import SamplingParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    options = parser.parse_args()
    own = [f"model.path={options.model}", f"engine.threads={options.threads}"]
    settings = load(sets=[*own, *options.sets])
    engine = app.offline_engine(settings)
    numbers = itertools.count()

    def run(job: Job) -> Answer:
        length = job["output_tokens"]
        ids = [f"job-{next(numbers)}" for _ in job["prompts"]]
        tokens: dict[str, list[int]] = {id: [] for id in ids}
        first: dict[str, float] = {}
        sampling = SamplingParams(
            temperature=0.0, seed=0, max_tokens=length, min_tokens=length, ignore_eos=True
        )
        began = time.perf_counter()
        for id, prompt in zip(ids, job["prompts"], strict=True):
            engine.submit(id, prompt, sampling)
        while engine.has_work:
            for id, event in engine.step():
                if event.tokens:
                    first.setdefault(id, time.perf_counter() - began)
                    tokens[id] += event.tokens
        total = time.perf_counter() - began
        return {
            "first_s": max(first.values()),
            "total_s": total,
            "tokens": [tokens[id] for id in ids],
        }

    serve({"python": platform.python_version()}, run)


if __name__ == "__main__":
    main()
