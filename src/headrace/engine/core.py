"""The engine in one thread: requests in, a step at a time, token events out.

    core = EngineCore(stack, settings.engine, blocks=blocks, fingerprint=checkpoint.fingerprint)
    core.submit(request)
    while core.has_work:
        for output in core.step(): ...

Invariant: every request that `submit` accepted ends with exactly one event that carries its usage,
whatever happens to it: an exception in a step ends the requests of that step and no other.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from headrace.config import EngineSettings
from headrace.engine.blocks import BlockManager
from headrace.engine.counters import Counters
from headrace.engine.request import EngineRequest, StopPush
from headrace.engine.runner import Runner
from headrace.engine.sampler import check_sampling
from headrace.engine.scheduler import Events, Scheduler
from headrace.engine.stops import StopWatch
from headrace.errors import HeadraceError, InvalidParameter
from headrace.model.stack import Stack, Step
from headrace.tokens import Tokenizer
from headrace.types import FinishReason, SamplingParams, TokenEvent, TokenLogprob, Usage

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One event of one request."""

    id: str
    event: TokenEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """The engine at one moment."""

    counters: Counters
    blocks_total: int
    blocks_used: int
    """Held by running sequences."""
    blocks_cached: int
    """Free, with a prefix that can still be hit."""
    blocks_free: int
    """Can be allocated; includes `blocks_cached`."""
    running: int
    """Sequences that hold blocks."""
    waiting: int
    """Sequences that wait for a place."""
    queued_tokens: int
    """Prompt tokens of requests that have not begun."""


class EngineCore:
    """Scheduler, blocks, runner and sampler joined.

    Args:
        stack: The model over its KV pool.
        settings: Sizes and limits.
        blocks: KV blocks of the pool.
        fingerprint: Of the weights; separates prefix caches.
        adapter: Name of the adapter in the weights; separates prefix caches.
        context_tokens: Longest sequence; None = the stack's.
        tokenizer: For stop strings; without it such requests are refused.
        clock: Seconds; `EngineRequest.deadline_s` is on it.
        block_bytes: Of a KV block, for what requests use of the memory; 0 = not counted.
    """

    def __init__(
        self,
        stack: Stack,
        settings: EngineSettings,
        *,
        blocks: int,
        fingerprint: str = "",
        adapter: str = "",
        context_tokens: int | None = None,
        tokenizer: Tokenizer | None = None,
        clock: Callable[[], float] = time.monotonic,
        block_bytes: int = 0,
    ) -> None:
        self.context_tokens = context_tokens or stack.context_tokens
        self.vocab_size = stack.config.vocab_size
        self.kernels = stack.name
        self._settings = settings
        self._stack = stack
        self._runner = Runner(stack)
        self._block_bytes = block_bytes

        def watch_stops(sampling: SamplingParams) -> StopPush:
            assert tokenizer is not None
            return StopWatch(tokenizer, sampling).push

        self._scheduler = Scheduler(
            BlockManager(blocks=blocks, block_tokens=settings.block_tokens),
            settings=settings,
            context_tokens=self.context_tokens,
            domain=(fingerprint, adapter),
            watch_stops=None if tokenizer is None else watch_stops,
            clock=clock,
        )

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def submit(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            InvalidParameter: Something that this model or engine cannot do, by name.
            ContextLengthExceeded: It cannot fit, with the counts.
            Overloaded: The queue is full.
        """
        try:
            self._check(request)
        except HeadraceError:
            self._scheduler.refuse()
            raise
        self._scheduler.submit(request)

    def cancel(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> list[Output]:
        """End a request now; its blocks are free when this returns. Unknown ids are no error."""
        return _outputs(self._scheduler.cancel(request_id, reason))

    def step(self) -> list[Output]:
        """Run one step: at most `max_batch_tokens` rows. Ends what is past its deadline first."""
        scheduler = self._scheduler
        events = scheduler.expire()
        plan = scheduler.plan(self._settings.max_batch_tokens)
        if not plan.rows:
            return _outputs(events)
        began_ns = time.perf_counter_ns()
        try:
            results = self._runner.execute(plan)
        except Exception as error:  # noqa: BLE001 - whatever is raised ends this step's requests
            _LOG.exception("a step of %d rows failed", plan.total)
            text = f"the engine failed in a step that ran this request ({type(error).__name__})"
            return _outputs(events + scheduler.fail(plan, text))
        step_us = (time.perf_counter_ns() - began_ns) // 1000
        scheduler.attribute(plan, step_us, block_bytes=self._block_bytes)
        return _outputs(events + scheduler.commit(plan, results))

    def warm_up(self) -> None:
        """Run one token: the first call of an operation pays for its set-up. Nothing may be
        running; what it leaves in block 0 is never read."""
        assert not self.has_work
        zero_1 = np.zeros(1, dtype=np.int32)
        one_1 = np.ones(1, dtype=np.int32)
        step = Step(
            ids_T=zero_1,
            pos_T=zero_1,
            row_start_S1=np.array([0, 1], dtype=np.int32),
            context_S=one_1,
            blocks_SB=np.zeros((1, 1), dtype=np.int32),
        )
        with torch.inference_mode():
            self._stack.logits(self._stack.hidden(step))

    def stats(self) -> EngineStats:
        """A snapshot."""
        scheduler, blocks = self._scheduler, self._scheduler.blocks
        return EngineStats(
            counters=scheduler.counters(),
            blocks_total=blocks.total,
            blocks_used=blocks.used,
            blocks_cached=blocks.cached,
            blocks_free=blocks.free,
            running=scheduler.running,
            waiting=scheduler.waiting,
            queued_tokens=scheduler.queued_tokens,
        )

    def check_integrity(self) -> None:
        """Check every invariant of blocks, lists and counters.

        Raises: HeadraceError: One is broken, which is a bug.
        """
        self._scheduler.check_integrity()

    def _check(self, request: EngineRequest) -> None:
        for at, token in enumerate(request.prompt):
            if not 0 <= token < self.vocab_size:
                raise InvalidParameter(
                    f"prompt token {at} is {token}, but this model's ids are 0 to "
                    f"{self.vocab_size - 1}",
                    param=f"prompt[{at}]",
                )
        check_sampling(request.sampling, vocab_size=self.vocab_size)
        if request.sampling.seed is None:
            raise InvalidParameter("`seed` is None; resolve it before submitting", param="seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedChoice:
    """One choice, collected."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish: FinishReason
    stop: str | int | None
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """One request's answers, collected."""

    choices: tuple[GeneratedChoice, ...]
    usage: Usage
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None


def generate_all(core: EngineCore, requests: Iterable[EngineRequest]) -> dict[str, Generated]:
    """Submit all, run until the engine is idle, collect by request id.

    For roll-outs, benches and tests: one thread, nothing else may use the core meanwhile.
    """
    events: dict[str, list[TokenEvent]] = {}
    for request in requests:
        core.submit(request)
        events[request.id] = []
    while core.has_work:
        for output in core.step():
            events[output.id].append(output.event)
    return {request_id: gather(found) for request_id, found in events.items()}


def gather(events: Iterable[TokenEvent]) -> Generated:
    """The events of one request, complete, as its answers."""
    pieces: dict[int, list[TokenEvent]] = {}
    usage: Usage | None = None
    scored: tuple[TokenLogprob | None, ...] | None = None
    for event in events:
        pieces.setdefault(event.index, []).append(event)
        usage = event.usage or usage
        scored = event.prompt_logprobs or scored
    if usage is None:
        raise HeadraceError("a request's events end without usage")
    return Generated(
        choices=tuple(_choice(pieces[index]) for index in sorted(pieces)),
        usage=usage,
        prompt_logprobs=scored,
    )


def _choice(events: list[TokenEvent]) -> GeneratedChoice:
    last = events[-1]
    if last.finish is None:
        raise HeadraceError(f"choice {last.index} never finished")
    return GeneratedChoice(
        tokens=tuple(token for event in events for token in event.tokens),
        logprobs=tuple(logprob for event in events for logprob in event.logprobs),
        finish=last.finish,
        stop=last.stop,
        error=last.error,
    )


def _outputs(events: Events) -> list[Output]:
    return [Output(id=request_id, event=event) for request_id, event in events]
