"""Requests and their moments become time stamps: an open loop of arrivals on one event loop.

Invariants: a request's clock starts when it is sent, after waiting for its turn under
`max_concurrency` (as vLLM's does); a failed request is a record with its error, not an exception; a
request is never sent twice.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import cast

from headrace.bench.datasets import BenchRequest
from headrace.bench.measures import RequestRecord
from headrace.errors import HeadraceError
from headrace.types import (
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

Send = Callable[[BenchRequest], AsyncIterator[Event]]
_FAILED = (FinishReason.ABORT, FinishReason.DEADLINE, FinishReason.ERROR)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    records: tuple[RequestRecord, ...]
    """In the order of the requests."""
    duration_s: float


async def run(
    requests: Sequence[BenchRequest],
    *,
    send: Send,
    arrivals_s: Sequence[float],
    max_concurrency: int = 0,
    on_done: Callable[[RequestRecord], None] = lambda record: None,
) -> Run:
    """Send every request at its moment and wait for all ends.

    Args:
        requests: What to send.
        send: How: `Backend.stream` or `CompletionBackend.complete`, by type.
        arrivals_s: As many moments as requests, rising.
        max_concurrency: In flight at once; those above wait. 0 = no limit.
        on_done: Called as each request ends.
    """
    turn = asyncio.Semaphore(max_concurrency) if max_concurrency else None
    began = time.perf_counter()

    async def one(request: BenchRequest) -> RequestRecord:
        waiting: AbstractAsyncContextManager[None] = turn if turn is not None else nullcontext()
        async with waiting:
            record = await _timed(request, send, began)
        on_done(record)
        return record

    tasks: list[asyncio.Task[RequestRecord]] = []
    async with asyncio.TaskGroup() as group:
        for request, moment in zip(requests, arrivals_s, strict=True):
            ahead_s = began + moment - time.perf_counter()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            tasks.append(group.create_task(one(request)))
    return Run(
        records=tuple(task.result() for task in tasks), duration_s=time.perf_counter() - began
    )


def by_type(
    stream: Callable[[ChatRequest], AsyncIterator[Event]],
    complete: Callable[..., AsyncIterator[Event]],
) -> Send:
    """Chat requests go to `stream`, completions to `complete`."""

    def send(request: BenchRequest) -> AsyncIterator[Event]:
        return stream(request) if isinstance(request, ChatRequest) else complete(request)

    return send


async def _timed(request: BenchRequest, send: Send, origin: float) -> RequestRecord:
    chunks: list[float] = []
    usage = Usage()
    error: str | None = None
    sent = time.perf_counter()
    try:
        # Backends are generators; closing one at once is part of `Backend`'s contract.
        async with aclosing(cast("AsyncGenerator[Event]", send(request))) as events:
            async for event in events:
                match event:
                    case TextDelta() | ReasoningDelta() | ToolCallDelta():
                        chunks.append(time.perf_counter() - origin)
                    case Finished():
                        usage = event.usage or usage
                        if event.reason in _FAILED:
                            error = f"finished: {event.reason.value}"
                    case _:
                        pass
    except HeadraceError as failure:
        error = f"{failure.code}: {failure.message}"
    return RequestRecord(
        began_s=sent - origin,
        ended_s=time.perf_counter() - origin,
        chunks_s=tuple(chunks),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        error=error,
    )
