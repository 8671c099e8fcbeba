"""How a contestant of `side_by_side.py` is driven: a JSON job a line in, a JSON answer a line out.

The process loads its model once, says {"ready": ...} and then waits without using the processor, so
several of them can stand side by side and run in turns. Standard library only: it runs in any
environment.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict


class Job(TypedDict):
    prompts: list[list[int]]
    output_tokens: list[int]
    """Wanted of each sequence; no end token ends it before."""


class Answer(TypedDict):
    """Seconds since the job began, when every prompt was there."""

    first_s: float
    """The first token of the slowest sequence."""
    total_s: float
    tokens: list[list[int]]
    """Of each sequence; empty where a tool does not tell."""
    times_s: list[list[float]]
    """When each of those tokens came; empty where a tool does not tell."""


class Book:
    """Notes what each sequence made, and when."""

    def __init__(self, sequences: int) -> None:
        self._tokens: list[list[int]] = [[] for _ in range(sequences)]
        self._times_s: list[list[float]] = [[] for _ in range(sequences)]
        self._began = time.perf_counter()

    def note(self, sequence: int, tokens: Iterable[int]) -> None:
        now = time.perf_counter() - self._began
        for token in tokens:
            self._tokens[sequence].append(token)
            self._times_s[sequence].append(now)

    def answer(self) -> Answer:
        """Call at the end of the job."""
        total = time.perf_counter() - self._began
        return {
            "first_s": max(times[0] for times in self._times_s),
            "total_s": total,
            "tokens": self._tokens,
            "times_s": self._times_s,
        }


def equal_lengths(job: Job) -> tuple[int, int]:
    """Prompt and output tokens of each sequence, for a peer that runs static batches only."""
    prompt, output = {len(prompt) for prompt in job["prompts"]}, set(job["output_tokens"])
    if len(prompt) != 1 or len(output) != 1:
        raise SystemExit("this peer runs batches of equal lengths only")
    return prompt.pop(), output.pop()


def serve(ready: dict[str, Any], run: Callable[[Job], Answer]) -> None:
    """Answer jobs until standard input ends."""
    # Libraries print; only answers may reach the pipe.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": ready}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


def versions(packages: Sequence[str]) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in packages}
