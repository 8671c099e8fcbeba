"""How a contestant of `side_by_side.py` is driven: a JSON job a line in, a JSON answer a line out.

The process loads its model once, says {"ready": ...} and then waits without using the processor, so
two of them can stand side by side and run in turns. Standard library only: it runs in any
environment. Answers: seconds to the first token of the slowest sequence, seconds to the end, ids.
"""

import json
import sys
from collections.abc import Callable
from typing import Any, TypedDict


class Job(TypedDict):
    prompts: list[list[int]]
    output_tokens: int


class Answer(TypedDict):
    first_s: float
    total_s: float
    tokens: list[list[int]]


def serve(ready: dict[str, Any], run: Callable[[Job], Answer]) -> None:
    """Answer jobs until standard input ends."""
    # Libraries print; only answers may reach the pipe.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": ready}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)
