"""The driver on scripted backends: clocks, turns, failures."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from headrace.bench.datasets import BenchRequest
from headrace.bench.load import by_type, run
from headrace.bench.measures import RequestRecord
from headrace.errors import Overloaded
from headrace.types import (
    ChatRequest,
    CompletionRequest,
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    Usage,
)


class Scripted:
    """Three chunks 20 ms apart; prompts begin with what should go wrong."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.order: list[str] = []

    async def send(self, request: BenchRequest) -> AsyncGenerator[Event]:
        assert isinstance(request, CompletionRequest)
        prompt = str(request.prompt)
        self.order.append(prompt)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            yield Started(id="1", model="m", created_s=0, prompt_tokens=2)
            if prompt.startswith("full"):
                raise Overloaded("queue full")
            for _ in range(3):
                await asyncio.sleep(0.02)
                yield TextDelta(text="")
            if prompt.startswith("bug"):
                raise ZeroDivisionError
            late = prompt.startswith("late")
            yield Finished(
                reason=FinishReason.DEADLINE if late else FinishReason.STOP,
                usage=Usage(prompt_tokens=2, cached_tokens=1, completion_tokens=5),
            )
        finally:
            self.now -= 1


def requests(*prompts: str) -> list[BenchRequest]:
    return [CompletionRequest(model="m", prompt=prompt) for prompt in prompts]


async def test_records() -> None:
    scripted, seen = Scripted(), list[RequestRecord]()
    found = await run(
        requests("a", "full", "late"),
        send=scripted.send,
        arrivals_s=[0.0, 0.0, 0.01],
        on_done=seen.append,
    )
    a, full, late = found.records
    assert len(seen) == 3
    assert (a.prompt_tokens, a.cached_tokens, a.output_tokens, a.error) == (2, 1, 5, None)
    assert len(a.chunks_s) == 3
    assert a.began_s < a.began_s + 0.02 <= a.chunks_s[0] < a.chunks_s[1] < a.ended_s
    assert full.error == "overloaded: queue full"
    assert late.error == "finished: deadline"
    assert late.began_s >= 0.01
    assert found.duration_s >= max(record.ended_s for record in found.records)


@pytest.mark.parametrize(("limit", "most"), [(0, 6), (2, 2), (1, 1)])
async def test_concurrency(limit: int, most: int) -> None:
    scripted = Scripted()
    found = await run(
        requests(*"abcdef"), send=scripted.send, arrivals_s=[0.0] * 6, max_concurrency=limit
    )
    assert scripted.most == most
    assert scripted.order == list("abcdef")
    # Waiting for a turn is not latency.
    assert all(record.e2el_s < 0.06 + 0.2 for record in found.records)


async def test_a_bug_is_not_a_measurement() -> None:
    began = time.perf_counter()
    with pytest.raises(ExceptionGroup):
        await run(requests("bug", "a"), send=Scripted().send, arrivals_s=[0.0, 5.0])
    assert time.perf_counter() - began < 4


async def test_by_type() -> None:
    async def chat(request: ChatRequest) -> AsyncGenerator[Event]:
        yield TextDelta(text="chat")

    async def complete(request: CompletionRequest) -> AsyncGenerator[Event]:
        yield TextDelta(text="complete")

    send = by_type(chat, complete)
    for request in (ChatRequest(model="m", messages=()), CompletionRequest(model="m", prompt="")):
        wanted = "chat" if isinstance(request, ChatRequest) else "complete"
        assert [e.text async for e in send(request) if isinstance(e, TextDelta)] == [wanted]
