"""Every call of a real backend becomes one leg, however it ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from headrace.errors import UpstreamError, WorkerDied
from headrace.providers.metered import Metered, MeteredCompletions
from headrace.providers.resilience import Fallback, Retrying, RetryPolicy
from headrace.testing import Pause, ScriptedBackend, reply
from headrace.types import (
    ChatRequest,
    CompletionRequest,
    Event,
    Leg,
    Message,
    Role,
    Started,
    TextDelta,
    TextPart,
    Trail,
    Usage,
    collect,
)

ASKED = ChatRequest(
    model="m", messages=(Message(role=Role.USER, parts=(TextPart(text="hi"),)),), trace="t"
)
STARTED = Started(id="x", model="m", created_s=1, prompt_tokens=3)
DELTA = TextDelta(text="ab", token_ids=(7, 8))


def asked() -> ChatRequest:
    return replace(ASKED, trail=Trail())


def only(request: ChatRequest | CompletionRequest) -> Leg:
    [leg] = request.trail.legs
    return leg


async def test_a_whole_answer_is_a_leg_with_the_backends_own_usage() -> None:
    request = asked()
    found = await collect(Metered("acme", "big", ScriptedBackend(reply)).stream(request))
    leg = only(request)
    assert (leg.provider, leg.model, leg.outcome) == ("acme", "big", "stop")
    assert leg.usage == found.usage
    assert not leg.estimated


async def test_raw_prompts_are_metered_too() -> None:
    request = CompletionRequest(model="m", prompt="x")
    found = await collect(MeteredCompletions("", "m", ScriptedBackend(reply)).complete(request))
    assert only(request).usage == found.usage


async def test_a_stream_that_its_client_leaves_is_a_leg_of_what_came() -> None:
    request = asked()
    events = Metered("", "m", ScriptedBackend([STARTED, DELTA, Pause(seconds=60)])).stream(request)
    assert await anext(events) == STARTED
    assert await anext(events) == DELTA
    await _close(events)
    leg = only(request)
    assert leg.outcome == "abort"
    assert leg.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert leg.estimated


async def test_a_call_that_is_cancelled_while_it_waits_is_a_leg() -> None:
    request = asked()
    stream = Metered("", "m", ScriptedBackend([STARTED, Pause(seconds=60)])).stream(request)
    task = asyncio.create_task(collect(stream))
    await asyncio.sleep(0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert only(request).outcome == "abort"


async def test_an_error_is_a_leg_with_its_code_and_with_the_usage_that_it_tells() -> None:
    error = WorkerDied("gone")
    error.usage = Usage(prompt_tokens=3, completion_tokens=9)
    request = asked()
    with pytest.raises(WorkerDied):
        await collect(Metered("", "m", ScriptedBackend([STARTED, DELTA, error])).stream(request))
    leg = only(request)
    assert leg.outcome == "worker_died"
    assert leg.usage.completion_tokens == 9
    assert not leg.estimated


async def test_a_backend_that_never_began_used_nothing() -> None:
    request = asked()
    with pytest.raises(UpstreamError):
        await collect(Metered("a", "m", ScriptedBackend([UpstreamError("no")])).stream(request))
    leg = only(request)
    assert leg.outcome == "upstream_error"
    assert leg.usage == Usage()
    assert not leg.estimated


async def test_a_fallback_leaves_a_leg_of_each_and_a_retry_only_one() -> None:
    request = asked()
    failing = Retrying(
        ScriptedBackend([UpstreamError("no")]), RetryPolicy(attempts=3, first_pause_s=0)
    )
    both = [Metered("a", "x", failing), Metered("b", "y", ScriptedBackend(reply))]
    found = await collect(Fallback(both).stream(request))
    first, second = request.trail.legs
    assert (first.provider, first.outcome, first.usage) == ("a", "upstream_error", Usage())
    assert (second.provider, second.usage) == ("b", found.usage)


async def _close(events: object) -> None:
    assert isinstance(events, AsyncGenerator)
    stream: AsyncGenerator[Event, None] = events
    await stream.aclose()
