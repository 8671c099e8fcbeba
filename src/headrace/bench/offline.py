"""An engine in this process, without HTTP, becomes latency and throughput of the engine alone.

Invariants: the engine is stepped in the caller's thread, so a time stamp is the end of a step;
prompts are fresh random ids each time, so the prefix cache never answers; every sequence makes
exactly the tokens asked for. The throughput defaults are nano-vllm's `bench.py` in shape: many
sequences of uniformly random lengths, all there at the start.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from headrace.bench.datasets import Span, random_prompts
from headrace.bench.measures import Distribution
from headrace.errors import InvalidParameter, ServiceError
from headrace.types import FinishReason, SamplingParams, TokenEvent


class OfflineEngine(Protocol):
    """An engine core, stepped by hand."""

    @property
    def vocab_size(self) -> int: ...

    def submit(self, request_id: str, prompt: Sequence[int], sampling: SamplingParams) -> None:
        """Queue a request; `sampling.seed` is set."""
        ...

    def step(self) -> Sequence[tuple[str, TokenEvent]]:
        """Run one step of the model and tell, by request id, what it made."""
        ...

    @property
    def has_work(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """How one set of sequences, submitted at once, ran to its end; seconds since the submission."""

    first_s: tuple[float, ...]
    """Each sequence's first token."""
    last_s: tuple[float, ...]
    tokens: tuple[int, ...]
    """Made by each sequence."""
    input_tokens: int
    seconds: float

    @property
    def output_tokens(self) -> int:
        return sum(self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencySummary:
    """Batches one after the other."""

    batch: int
    input_tokens: int
    output_tokens: int
    iterations: int
    latency: Distribution
    """Of a whole batch, submission to last token: what `vllm bench latency` reports."""
    ttft: Distribution
    tpot: Distribution | None
    """None for one output token."""
    decode_throughput: float
    """Median over the batches: tokens after each sequence's first, per second after the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThroughputSummary:
    sequences: int
    total_input_tokens: int
    total_output_tokens: int
    duration_s: float
    request_throughput: float
    output_throughput: float
    total_token_throughput: float


def measure_latency(
    engine: OfflineEngine,
    *,
    batch: int,
    input_tokens: int,
    output_tokens: int,
    iterations: int,
    warmup: int,
    seed: int = 0,
    on_batch: Callable[[], None] = lambda: None,
) -> LatencySummary:
    """Run `warmup` batches that do not count and `iterations` that do."""
    runs: list[Batch] = []
    length = Span(low=input_tokens, high=input_tokens)
    for number in range(warmup + iterations):
        prompts = _prompts(engine, batch, length, seed=seed + number)
        run = run_batch(engine, prompts, [output_tokens] * batch, name=f"latency-{number}")
        if number >= warmup:
            runs.append(run)
        on_batch()
    latency = Distribution.of([run.seconds for run in runs])
    ttft = Distribution.of([first for run in runs for first in run.first_s])
    if latency is None or ttft is None:
        raise InvalidParameter("`iterations` 0 measures nothing; use 1 or more", param="iterations")
    return LatencySummary(
        batch=batch,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        iterations=iterations,
        latency=latency,
        ttft=ttft,
        tpot=Distribution.of(
            [
                (last - first) / (tokens - 1)
                for run in runs
                for first, last, tokens in zip(run.first_s, run.last_s, run.tokens, strict=True)
                if tokens > 1
            ]
        ),
        decode_throughput=statistics.median(decode_throughput(run) for run in runs),
    )


def measure_throughput(
    engine: OfflineEngine,
    *,
    sequences: int,
    input_tokens: Span,
    output_tokens: Span,
    seed: int = 0,
    on_finished: Callable[[], None] = lambda: None,
) -> ThroughputSummary:
    """All sequences at once, after one short batch that warms the engine up."""
    warm = Span(low=input_tokens.low, high=input_tokens.low)
    run_batch(engine, _prompts(engine, 1, warm, seed=seed + 1), [2], name="warmup")
    prompts = _prompts(engine, sequences, input_tokens, seed=seed)
    lengths = output_tokens.draw(np.random.default_rng([seed, 1]), sequences).tolist()
    run = run_batch(engine, prompts, lengths, name="throughput", on_finished=on_finished)
    return ThroughputSummary(
        sequences=sequences,
        total_input_tokens=run.input_tokens,
        total_output_tokens=run.output_tokens,
        duration_s=run.seconds,
        request_throughput=sequences / run.seconds,
        output_throughput=run.output_tokens / run.seconds,
        total_token_throughput=(run.input_tokens + run.output_tokens) / run.seconds,
    )


def run_batch(
    engine: OfflineEngine,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    *,
    name: str,
    on_finished: Callable[[], None] = lambda: None,
) -> Batch:
    """Submit all prompts and step until every one has made its tokens, greedily.

    Raises: ServiceError where a sequence ends in any other way.
    """
    numbers = {f"{name}-{at}": at for at in range(len(prompts))}
    first = [0.0] * len(prompts)
    last = [0.0] * len(prompts)
    tokens = [0] * len(prompts)
    began = time.perf_counter()
    for id, at in numbers.items():
        length = lengths[at]
        sampling = SamplingParams(
            temperature=0.0, seed=at, max_tokens=length, min_tokens=length, ignore_eos=True
        )
        engine.submit(id, prompts[at], sampling)
    while engine.has_work:
        events = engine.step()
        now = time.perf_counter() - began
        for id, event in events:
            at = numbers[id]
            if event.tokens:
                first[at] = first[at] or now
                last[at] = now
                tokens[at] += len(event.tokens)
            if event.finish is not None:
                on_finished()
                if event.finish is not FinishReason.LENGTH:
                    raise ServiceError(
                        f"sequence {id} ended with {event.finish.value} after {tokens[at]} tokens"
                    )
    seconds = time.perf_counter() - began
    if tokens != list(lengths):
        raise ServiceError(f"the engine made {sum(tokens)} tokens of {sum(lengths)} asked for")
    return Batch(
        first_s=tuple(first),
        last_s=tuple(last),
        tokens=tuple(tokens),
        input_tokens=sum(len(prompt) for prompt in prompts),
        seconds=seconds,
    )


def decode_throughput(run: Batch) -> float:
    """Tokens per second once every sequence has its first; 0 where nothing came after it."""
    later = run.output_tokens - len(run.tokens)
    span_s = max(run.last_s) - max(run.first_s)
    return later / span_s if later and span_s > 0 else 0.0


def _prompts(
    engine: OfflineEngine, count: int, length: Span, *, seed: int
) -> list[tuple[int, ...]]:
    ids = Span(low=0, high=engine.vocab_size - 1)
    return random_prompts(
        count=count, input_tokens=length, ids=ids, prefix_tokens=0, prefixes=1, seed=seed
    )
