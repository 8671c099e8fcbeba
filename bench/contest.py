"""Contestants answer the same jobs in turns; stamps of tokens become the numbers compared.

A contestant is a process that keeps its model loaded (`Engine`, spoken to as in peers/jobs.py) or a
server that it keeps up (`Server`, spoken to over HTTP as any client would). Invariant: every one
gets the same prompts in the same round, and makes exactly the tokens asked for.
"""

import asyncio
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from headrace.bench.load import by_type
from headrace.bench.load import run as load_run
from headrace.bench.measures import Measure, RequestRecord, summarize
from headrace.errors import HeadraceError
from headrace.providers.openai_compatible import OpenAICompatible
from headrace.types import CompletionRequest, SamplingParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    prompts: Sequence[Sequence[int]]
    output_tokens: Sequence[int]
    arrivals_s: Sequence[float]
    """Zeros = all at once; only servers take others."""
    objectives_ms: Mapping[Measure, float] = field(default_factory=dict[Measure, float])


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One contestant's answer to one job; None = its tool does not tell."""

    first_s: float
    """Until the slowest sequence's first token."""
    total_s: float
    input_tok_s: float
    """Prompt tokens over `first_s`: the prefill's speed where all come at once."""
    output_tok_s: float
    """All tokens made over `total_s`."""
    decode_tok_s: float | None
    """Tokens after the last first token, over the time after it: nobody prefills any more."""
    ttft_min_s: float | None = None
    ttft_median_s: float | None = None
    ttft_max_s: float | None = None
    gap_median_s: float | None = None
    gap_max_s: float | None = None
    """Longest wait between two tokens of one sequence."""
    goodput_req_s: float | None = None
    tokens: Sequence[Sequence[int]] = ()
    """Not among the measures: kept to compare what was said."""


HIGHER = ("input_tok_s", "output_tok_s", "decode_tok_s", "goodput_req_s")
MEASURES = tuple(item.name for item in dataclasses.fields(Round) if item.name != "tokens")


class Contestant(Protocol):
    name: str
    about: dict[str, Any]

    def run(self, job: Job) -> Round: ...

    def close(self) -> None: ...


class Engine:
    """A process that answers jobs, one at a time."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as words:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                env={**os.environ, **environment},
            )
        self.about: dict[str, Any] = self._read()["ready"]

    def run(self, job: Job) -> Round:
        if any(job.arrivals_s):
            raise SystemExit(f"{self.name} is no server: it takes no arrivals over time")
        assert self._process.stdin is not None
        asked = {"prompts": list(job.prompts), "output_tokens": list(job.output_tokens)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if answer["tokens"]:
            _check(self.name, [len(tokens) for tokens in answer["tokens"]], job)
        return round_from_stamps(
            job,
            began_s=[0.0] * len(job.prompts),
            times_s=answer["times_s"],
            first_s=answer["first_s"],
            total_s=answer["total_s"],
            tokens=answer["tokens"],
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        _end(self._process)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # Libraries print where they like: only an object is an answer.
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        code = self._process.wait()
        raise SystemExit(f"{self.name} ended with {code}; its words are in {self._log}")


class Server:
    """An OpenAI-compatible server on this machine, and a streaming client of it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        port: int,
        timeout_s: float = 900.0,
    ) -> None:
        self.name = name
        self._url = f"http://127.0.0.1:{port}"
        self._log = log
        began = time.perf_counter()
        with log.open("ab") as words:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env={**os.environ, **environment},
            )
        self._model = ""
        try:
            while not (self._model and self._answers()):
                if self._process.poll() is not None:
                    raise SystemExit(f"{name} ended with {self._process.returncode}; see {log}")
                if time.perf_counter() - began > timeout_s:
                    raise SystemExit(f"{name} is not up after {timeout_s:g} s; see {log}")
                time.sleep(0.2)
                self._model = self._only_model()
        except BaseException:
            self.close()
            raise
        self.about: dict[str, Any] = {"first_token_after_start_s": time.perf_counter() - began}

    def run(self, job: Job) -> Round:
        requests = [
            CompletionRequest(
                model=self._model,
                prompt=tuple(prompt),
                sampling=SamplingParams(
                    temperature=0.0,
                    max_tokens=length,
                    min_tokens=length,
                    ignore_eos=True,
                    given=frozenset({"temperature"}),
                ),
            )
            for prompt, length in zip(job.prompts, job.output_tokens, strict=True)
        ]

        async def send_all() -> Any:
            async with OpenAICompatible(url=self._url) as client:
                send = by_type(client.stream, client.complete)
                return await load_run(requests, send=send, arrivals_s=job.arrivals_s)

        found = asyncio.run(send_all())
        records: Sequence[RequestRecord] = found.records
        if failed := [record.error for record in records if record.error]:
            raise SystemExit(f"{self.name}: {len(failed)} requests failed, first: {failed[0]}")
        _check(self.name, [record.output_tokens for record in records], job)
        summary = summarize(records, duration_s=found.duration_s, objectives_ms=job.objectives_ms)
        # Random weights may say nothing but halves of characters: then the end is all one sees.
        times_s = [record.chunks_s or (record.ended_s,) for record in records]
        made = round_from_stamps(
            job,
            began_s=[record.began_s for record in records],
            times_s=times_s,
            first_s=max(times[0] for times in times_s),
            total_s=found.duration_s,
            tokens=(),
        )
        return dataclasses.replace(made, goodput_req_s=summary.request_goodput)

    def close(self) -> None:
        self._process.terminate()
        _end(self._process)

    def _only_model(self) -> str:
        async def ask() -> str:
            async with OpenAICompatible(url=self._url) as client:
                return (await client.models())[0].name

        try:
            return asyncio.run(ask())
        except (HeadraceError, OSError, IndexError):
            return ""

    def _answers(self) -> bool:
        try:
            self.run(Job(prompts=[[300, 301, 302]], output_tokens=[2], arrivals_s=[0.0]))
        except SystemExit:
            return False
        return True


class Turn:
    """This machine's turn for a timed run, taken and given back.

    Args:
        prefix: A command that runs its arguments once nothing else is timed, as in `flock FILE`.
        longest_s: Held for at most this long when asked to `renew`.
    """

    def __init__(self, prefix: Sequence[str], *, longest_s: float) -> None:
        self._prefix = prefix
        self._longest_s = longest_s
        self._holder: subprocess.Popen[bytes] | None = None
        self._since = 0.0

    def take(self) -> None:
        wait = "import sys; print(flush=True); sys.stdin.read()"
        self._holder = subprocess.Popen(
            [*self._prefix, sys.executable, "-c", wait],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self._since = time.perf_counter()

    @property
    def held(self) -> bool:
        """False where the command was ended meanwhile: others may have run beside."""
        return self._holder is not None and self._holder.poll() is None

    def renew(self) -> bool:
        """Take the turn, or let others have theirs where it was long; True where it is new."""
        if self._holder is not None:
            if self.held and time.perf_counter() - self._since < self._longest_s:
                return False
            self.give_back()
        self.take()
        return True

    def give_back(self) -> None:
        if self._holder is not None:
            stream: IO[bytes] | None = self._holder.stdin
            assert stream is not None
            stream.close()
            self._holder.wait()
            self._holder = None


def round_from_stamps(
    job: Job,
    *,
    began_s: Sequence[float],
    times_s: Sequence[Sequence[float]],
    first_s: float,
    total_s: float,
    tokens: Sequence[Sequence[int]],
) -> Round:
    made, sequences = sum(job.output_tokens), len(job.prompts)
    later = made - sequences
    common = {
        "first_s": first_s,
        "total_s": total_s,
        "input_tok_s": sum(map(len, job.prompts)) / first_s,
        "output_tok_s": made / total_s,
        "tokens": tokens,
    }
    if not times_s:
        return Round(**common, decode_tok_s=later / (total_s - first_s) if later else None)
    end_s = max(times[-1] for times in times_s)
    # A chunk may carry several tokens: stamps say when, the request says how many.
    after = [
        length * sum(at > first_s for at in times) / len(times)
        for times, length in zip(times_s, job.output_tokens, strict=True)
    ]
    ttft = [times[0] - began for times, began in zip(times_s, began_s, strict=True)]
    gaps = [b - a for times in times_s for a, b in itertools.pairwise(times)]
    return Round(
        **common,
        decode_tok_s=sum(after) / (end_s - first_s) if end_s > first_s else None,
        ttft_min_s=min(ttft),
        ttft_median_s=statistics.median(ttft),
        ttft_max_s=max(ttft),
        gap_median_s=statistics.median(gaps) if gaps else None,
        gap_max_s=max(gaps, default=None),
    )


def _check(name: str, made: Sequence[int], job: Job) -> None:
    if list(made) != list(job.output_tokens):
        raise SystemExit(f"{name} made {list(made)} tokens, not {list(job.output_tokens)}")


def _end(process: "subprocess.Popen[Any]") -> None:
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
