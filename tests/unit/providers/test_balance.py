"""Pools: who is asked, in which order, and who stands in."""

import asyncio
from collections import Counter
from itertools import cycle

import pytest

from headrace.errors import Overloaded, UpstreamError, UserError
from headrace.providers.balance import Member, Pool, prefix
from headrace.providers.load import Load, Tracked
from headrace.testing import FakeClock
from routed import answer, asked, fails, notes, says


def member(name: str, *, weight: float = 1.0, running: int = 0, latency: float = 0.0) -> Member:
    load = Load(clock=FakeClock())
    load.running = running
    if latency:
        load.observe(latency)
    return Member(name=name, backend=says(name), load=load, weight=weight)


async def test_weights_are_shares() -> None:
    pool = Pool("p", [member("a", weight=9), member("b", weight=1)], "weighted")
    firsts = Counter(pool.order(asked())[0].name for _ in range(4000))
    assert 0.86 < firsts["a"] / 4000 < 0.94


async def test_least_busy_asks_the_one_with_the_fewest_running() -> None:
    pool = Pool("p", [member("a", running=3), member("b", running=1)], "least-busy")
    request = asked()
    assert await answer(pool.stream(request)) == "b"
    assert notes(request, "balance") == [
        "p: least-busy of a (3 running), b (1 running) puts b first"
    ]


async def test_a_heavier_member_may_run_more() -> None:
    pool = Pool("p", [member("a", running=3, weight=4), member("b", running=1)], "least-busy")
    assert pool.order(asked())[0].name == "a"


async def test_latency_counts_what_runs_and_tries_what_is_unknown_first() -> None:
    slow, fast, new = member("slow", latency=2.0), member("fast", latency=0.5), member("new")
    assert [m.name for m in Pool("p", [slow, fast, new], "latency").order(asked())] == [
        "new",
        "fast",
        "slow",
    ]
    fast.load.running = 9
    assert Pool("p", [slow, fast], "latency").order(asked())[0].name == "slow"


async def test_an_error_sends_the_request_to_the_next_and_says_so() -> None:
    first = Member(name="a", backend=fails(UpstreamError("gone")), load=Load(), weight=1)
    pool = Pool("p", [first, member("b", running=5)], "least-busy")
    request = asked()
    assert await answer(pool.stream(request)) == "b"
    assert notes(request, "fallback") == ["a did not answer (gone); b is asked"]


async def test_a_callers_own_error_goes_to_nobody_else() -> None:
    first = Member(name="a", backend=fails(UserError("bad")), load=Load(), weight=1)
    second = says("b")
    other = Member(name="b", backend=second, load=member("x", running=1).load)
    with pytest.raises(UserError, match="bad"):
        await answer(Pool("p", [first, other], "least-busy").stream(asked()))
    assert not second.requests


def test_a_conversation_keeps_its_prefix_and_instructions_alone_do_not_decide() -> None:
    one = prefix(asked("first question", system="You help."))
    assert one == prefix(asked("first question", system="You help."))
    assert one != prefix(asked("another question", system="You help."))


async def test_a_target_over_its_limit_refuses_and_the_next_is_asked() -> None:
    held = says("a", pause_s=30)
    limited = Tracked("a", held, max_running=1)
    pool = Pool(
        "p",
        [
            Member(name="a", backend=limited, load=limited.load, weight=100),
            member("b", running=50),
        ],
        "least-busy",
    )
    first = asyncio.create_task(answer(pool.stream(asked())))
    await asyncio.sleep(0.02)
    assert len(held.requests) == 1
    request = asked()
    assert await answer(pool.stream(request)) == "b"
    assert "limit of 1 requests" in notes(request, "fallback")[0]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert limited.load.running == 0
    assert len(held.cancelled) == 1


async def test_a_slow_first_is_given_up_for_the_next() -> None:
    slow = says("a", pause_s=30)
    pool = Pool(
        "p",
        [Member(name="a", backend=slow, load=Load()), member("b", running=1)],
        "least-busy",
        slow_after_s=0.02,
    )
    request = asked()
    assert await answer(pool.stream(request)) == "b"
    assert len(slow.cancelled) == 1
    assert "no content within 0.02 s" in notes(request, "fallback")[0]


async def test_the_last_may_be_as_slow_as_it_likes() -> None:
    pool = Pool(
        "p",
        [
            Member(name="a", backend=fails(UpstreamError("gone")), load=Load()),
            Member(name="b", backend=says("b", pause_s=0.05), load=Load()),
        ],
        "weighted",
        slow_after_s=0.01,
        chance=cycle((0.9, 0.1)).__next__,
    )
    assert await answer(pool.stream(asked())) == "b"


async def test_latency_rises_at_once_and_falls_slowly_and_a_failure_is_slow() -> None:
    clock = FakeClock()
    load = Load(clock=clock)
    load.observe(0.1)
    load.observe(2.0)
    assert load.latency_s == 2.0
    clock.advance(5)
    load.observe(0.1)
    assert load.latency_s is not None
    assert 1.0 < load.latency_s < 1.5
    before = load.latency_s
    load.failed(0.001)
    assert load.latency_s == 2 * before


async def test_a_percentile_is_known_after_twenty_requests() -> None:
    load = Load()
    for n in range(1, 20):
        load.observe(n / 100)
    assert load.percentile(0.95) is None
    load.observe(0.2)
    assert load.percentile(0.95) == 0.19
    assert load.percentile(0.5) == 0.1


async def test_overloaded_is_an_error_that_may_be_tried_again() -> None:
    limited = Tracked("a", says("a"), max_running=1)
    limited.load.running = 1
    with pytest.raises(Overloaded, match="limit of 1"):
        await answer(limited.stream(asked()))
