"""Asking again, not asking, asking another: on scripts and a clock of the test's own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    InvalidParameter,
    NotReady,
    Overloaded,
    Unauthorized,
    UpstreamError,
    UpstreamTimeout,
)
from headrace.providers.resilience import (
    Breaker,
    BreakerPolicy,
    Fallback,
    Named,
    Retrying,
    RetryPolicy,
)
from headrace.testing import FakeClock, Pause, ScriptedBackend, Step, reply
from headrace.types import (
    ChatRequest,
    Collected,
    Event,
    Message,
    Role,
    Started,
    TextDelta,
    TextPart,
    collect,
)

ASKED = ChatRequest(
    model="m", messages=(Message(role=Role.USER, parts=(TextPart(text="hi"),)),), trace="t"
)
STARTED = Started(id="x", model="m", created_s=1, prompt_tokens=3)


class InTurn:
    """A backend that plays one script after the other, the last again and again."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self._scripts = scripts
        self.asked = 0

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        script = self._scripts[min(self.asked, len(self._scripts) - 1)]
        self.asked += 1
        return ScriptedBackend(script).stream(request)


def good(text: str = "Hello") -> list[Step]:
    return list(reply(ASKED, [text]))


def text_of(collected: Collected) -> str:
    return collected.choices[0].text


class Sleeps:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


async def test_a_retryable_error_is_asked_again_with_growing_jittered_pauses() -> None:
    backend, sleeps = InTurn([UpstreamError("a")], [NotReady("b")], good()), Sleeps()
    again = Retrying(backend, RetryPolicy(), sleep=sleeps, chance=lambda: 0.5)
    assert text_of(await collect(again.stream(ASKED))) == "Hello"
    assert sleeps.slept == [0.375, 0.75]
    assert backend.asked == 3


async def test_retry_after_is_obeyed_or_the_error_goes_up() -> None:
    backend, sleeps = InTurn([Overloaded("full", retry_after_s=7)], good()), Sleeps()
    again = Retrying(backend, RetryPolicy(), sleep=sleeps, chance=lambda: 0.0)
    assert text_of(await collect(again.stream(ASKED))) == "Hello"
    assert sleeps.slept == [7.0]
    backend = InTurn([Overloaded("full", retry_after_s=100)], good())
    with pytest.raises(Overloaded):
        await collect(Retrying(backend, RetryPolicy(), sleep=sleeps).stream(ASKED))
    assert backend.asked == 1


def begun() -> UpstreamError:
    error = UpstreamError("broke")
    error.begun = True
    return error


@pytest.mark.parametrize(
    "script",
    [
        [STARTED, TextDelta(text="Hel"), UpstreamError("broke")],
        [STARTED, UpstreamError("broke")],
        [begun()],
        [InvalidParameter("wrong")],
        [DeadlineExceeded("late")],
    ],
)
async def test_nothing_is_asked_again_after_the_first_byte_or_for_the_callers_error(
    script: list[Step],
) -> None:
    backend = InTurn(script, good())
    with pytest.raises(HeadraceError):
        await collect(Retrying(backend, RetryPolicy(), sleep=Sleeps()).stream(ASKED))
    assert backend.asked == 1


async def test_attempts_are_bounded() -> None:
    backend = InTurn([UpstreamError("down")])
    with pytest.raises(UpstreamError, match="down"):
        await collect(Retrying(backend, RetryPolicy(attempts=4), sleep=Sleeps()).stream(ASKED))
    assert backend.asked == 4


async def ask(backend: Any) -> str:
    try:
        return text_of(await collect(backend.stream(ASKED)))
    except HeadraceError as error:
        return type(error).__name__


async def test_the_breaker_opens_and_closes_on_its_schedule() -> None:
    clock = FakeClock()
    down: list[Step] = [UpstreamError("down")]
    backend = InTurn(down, down, down, down, down, good())
    breaker = Breaker("p", backend, BreakerPolicy(failures=3, open_s=10), clock=clock)
    assert [await ask(breaker) for _ in range(3)] == ["UpstreamError"] * 3
    assert breaker.state == "open"
    clock.advance(9.9)
    with pytest.raises(NotReady, match="3 failures in a row; the last: down") as refused:
        await collect(breaker.stream(ASKED))
    assert refused.value.retry_after_s == 1
    assert backend.asked == 3
    clock.advance(0.2)
    assert breaker.state == "half-open"
    assert await ask(breaker) == "UpstreamError"  # the trial fails: 20 s now
    clock.advance(19)
    assert await ask(breaker) == "NotReady"
    clock.advance(2)
    assert await ask(breaker) == "UpstreamError"  # 40 s
    clock.advance(41)
    assert await ask(breaker) == "Hello"
    assert breaker.state == "closed"
    assert backend.asked == 6


async def test_one_trial_at_a_time_and_one_that_is_left_decides_nothing() -> None:
    clock = FakeClock()
    slow: list[Step] = [Pause(seconds=30), *good()]
    backend = InTurn([UpstreamError("down")], slow, good())
    breaker = Breaker("p", backend, BreakerPolicy(failures=1, open_s=10), clock=clock)
    assert await ask(breaker) == "UpstreamError"
    clock.advance(11)
    trial = asyncio.create_task(collect(breaker.stream(ASKED)))
    await asyncio.sleep(0.01)
    assert await ask(breaker) == "NotReady"
    trial.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await trial
    assert breaker.state == "half-open"
    assert await ask(breaker) == "Hello"
    assert breaker.state == "closed"


async def test_successes_between_failures_keep_it_closed() -> None:
    down: list[Step] = [UpstreamError("down")]
    backend = InTurn(down, good(), down, good(), down, good())
    breaker = Breaker("p", backend, BreakerPolicy(failures=2))
    for _ in range(6):
        await ask(breaker)
    assert breaker.state == "closed"
    users = Breaker("p", InTurn([InvalidParameter("w")]), BreakerPolicy(failures=1))
    assert [await ask(users) for _ in range(3)] == ["InvalidParameter"] * 3


@pytest.mark.parametrize(
    "script",
    [
        [UpstreamError("HTTP 500")],
        [Overloaded("full")],
        [UpstreamTimeout("hangs")],
        [STARTED, UpstreamError("broke before a word")],
        [NotReady("the breaker is open")],
    ],
)
async def test_fallback_before_the_first_word(script: list[Step]) -> None:
    collected = await collect(Fallback([InTurn(script), InTurn(good("second"))]).stream(ASKED))
    assert text_of(collected) == "second"
    assert collected.started.id == "t"


async def test_fallback_never_splices() -> None:
    second = InTurn(good("second"))
    broken = InTurn([STARTED, TextDelta(text="Hel"), UpstreamError("it broke")])
    seen: list[Event] = []

    async def listen() -> None:
        async for event in Fallback([broken, second]).stream(ASKED):
            seen.append(event)

    with pytest.raises(UpstreamError, match="it broke"):
        await listen()
    assert seen == [STARTED, TextDelta(text="Hel")]
    assert second.asked == 0


async def test_fallback_tells_of_all_failures_and_not_for_the_callers_error() -> None:
    both = Fallback([InTurn([UpstreamError("a is down")]), InTurn([Overloaded("b is full")])])
    with pytest.raises(Overloaded, match="a is down; then b is full") as caught:
        await collect(both.stream(ASKED))
    assert str(caught.value.message) == "a is down; then b is full"
    second = InTurn(good())
    for error in (InvalidParameter("wrong"), DeadlineExceeded("late")):
        with pytest.raises(type(error)):
            await collect(Fallback([InTurn([error]), second]).stream(ASKED))
    assert second.asked == 0


async def test_an_operators_error_is_not_the_clients() -> None:
    named = Named("p", InTurn([Unauthorized("the server said: bad key sk-123")]))
    with pytest.raises(UpstreamError, match="its operator must mend it") as caught:
        await collect(named.stream(ASKED))
    assert "sk-123" not in caught.value.message


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "cannot reach http://10.0.0.7:8000/v1/chat/completions: refused; is it running?",
            "provider p: cannot reach its server: refused; is it running?",
        ),
        (
            "https://a.internal/v1: no connection in time",
            "provider p: its server: no connection in",
        ),
        ("it answered 500", "provider p: it answered 500"),
    ],
)
async def test_a_client_is_not_told_where_a_provider_lives(
    message: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UpstreamError) as caught:
        await collect(Named("p", InTurn([UpstreamError(message)])).stream(ASKED))
    assert caught.value.message.startswith(told)
    assert "://" not in caught.value.message
    assert (message in caplog.text) == ("://" in message)


@pytest.mark.parametrize("leave", ["close", "cancel"])
async def test_leaving_reaches_the_bottom_at_once(leave: str) -> None:
    bottom = ScriptedBackend([STARTED, TextDelta(text="a"), Pause(seconds=60)])
    stack = Fallback(
        [
            Breaker("p", Named("p", Retrying(bottom, RetryPolicy())), BreakerPolicy()),
            InTurn(good()),
        ]
    )
    events = stack.stream(ASKED)
    assert await anext(events) == STARTED
    assert await anext(events) == TextDelta(text="a")
    if leave == "close":
        await events.aclose()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    else:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    assert bottom.running == 0
    assert bottom.cancelled
