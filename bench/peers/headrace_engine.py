"""headrace's engine core in this process, as a contestant (see jobs.py).

python headrace_engine.py --model DIR --threads N [--set key=value ...]
"""

import time

_STARTED = time.perf_counter()

import argparse  # noqa: E402 - the clock starts before the imports
import itertools  # noqa: E402
import platform  # noqa: E402

import torch  # noqa: E402
from jobs import Answer, Book, Job, serve  # noqa: E402

from headrace import app  # noqa: E402
from headrace.config import load  # noqa: E402
from headrace.types import SamplingParams  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    options = parser.parse_args()
    own = [f"model.path={options.model}", f"engine.threads={options.threads}"]
    imported = time.perf_counter()
    engine = app.offline_engine(load(sets=[*own, *options.sets]))
    loaded = time.perf_counter()
    numbers = itertools.count()

    def run(job: Job) -> Answer:
        at = {f"job-{next(numbers)}": sequence for sequence in range(len(job["prompts"]))}
        book = Book(len(at))
        for id, sequence in at.items():
            length = job["output_tokens"][sequence]
            sampling = SamplingParams(
                temperature=0.0, seed=0, max_tokens=length, min_tokens=length, ignore_eos=True
            )
            engine.submit(id, job["prompts"][sequence], sampling)
        while engine.has_work:
            for id, event in engine.step():
                book.note(at[id], event.tokens)
        return book.answer()

    warm: Job = {"prompts": [[300, 301, 302, 303]], "output_tokens": [1]}
    first = run(warm)["first_s"]
    ready = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "imports_s": imported - _STARTED,
        "load_s": loaded - imported,
        "first_token_s": first,
    }
    serve(ready, run)


if __name__ == "__main__":
    main()
