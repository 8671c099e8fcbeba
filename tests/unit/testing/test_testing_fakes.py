"""The shipped fakes keep `Backend`'s invariants and know what was cancelled."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from headrace.errors import WorkerDied
from headrace.testing import FakeClock, Pause, ScriptedBackend, reply
from headrace.types import (
    CompletionRequest,
    Event,
    FinishReason,
    SamplingParams,
    Started,
    collect,
)

STARTED = Started(id="x", model="m", created_s=1, prompt_tokens=1)


def request(**sampling: Any) -> CompletionRequest:
    return CompletionRequest(model="m", prompt="p", sampling=SamplingParams(**sampling))


async def test_reply_is_a_whole_answer() -> None:
    backend = ScriptedBackend(reply)
    answer = await collect(backend.complete(request(n=2, logprobs=2, max_tokens=2)))
    assert [choice.text for choice in answer.choices] == ["Hello, "] * 2
    assert answer.choices[0].finish is FinishReason.LENGTH
    assert len(answer.choices[0].logprobs[0].top) == 2
    assert answer.usage.completion_tokens == 4
    assert not backend.cancelled


async def test_errors_and_cancels() -> None:
    backend = ScriptedBackend([STARTED, WorkerDied("gone")])
    with pytest.raises(WorkerDied):
        await collect(backend.complete(request()))
    assert not backend.cancelled
    backend = ScriptedBackend([STARTED, Pause(seconds=60)])
    task = asyncio.create_task(collect(backend.complete(request())))
    await asyncio.sleep(0.01)
    assert backend.running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(backend.cancelled) == 1
    events = cast("AsyncGenerator[Event]", backend.complete(request()))
    await anext(events)
    await events.aclose()
    assert (len(backend.cancelled), backend.running) == (2, 0)


async def test_clock() -> None:
    clock = FakeClock(now_s=5)
    clock.advance(1.5)
    await clock.sleep(0.5)
    assert clock() == 7
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
