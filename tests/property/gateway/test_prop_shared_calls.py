"""Readers of one call of a model, in every order: joining, leaving, its going on, ending, failing.

Each real call of a backend is a leg of exactly one request; a hit has none; nobody who stays gets a
part of an answer for the whole.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config import CacheSettings
from headrace.errors import UpstreamError
from headrace.gateway.caching.cached import Cached, CachePolicy
from headrace.gateway.caching.key import Scope
from headrace.gateway.caching.shelf import Shelf
from headrace.providers.metered import Metered
from headrace.testing import reply
from headrace.types import Caller, ChatRequest, Event, Finished, SamplingParams, Trail
from routed import asked

TICKS = 3
PIECES = ("a ", "b ", "c ", "d")


@dataclass
class Scripted:
    """Calls that go on one step at a time, when they are told to."""

    calls: int = 0
    steps: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue[str]())

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        self.calls += 1
        events = [event for event in reply(request, PIECES) if not isinstance(event, BaseException)]
        for event in events:
            do = await self.steps.get()
            if do == "fail":
                raise UpstreamError("gone")
            yield event  # pyright: ignore[reportReturnType] - `reply` pauses only where asked to


@dataclass
class Reader:
    request: ChatRequest
    task: "asyncio.Task[None]"
    events: list[Event]
    left: bool = False


class World:
    def __init__(self) -> None:
        self.backend = Scripted()
        shelf = Shelf(None, CacheSettings())
        scope = Scope(route="r", target="r", release="1", version="v")
        metered = Metered("p", "model", self.backend)
        self.cache = Cached(metered, shelf, CachePolicy(ttl_s=60), scope)
        self.shelf = shelf
        self.readers: list[Reader] = []

    def join(self, *, refresh: bool) -> None:
        plain = asked(caller=Caller(org="o", team="t"), sampling=SamplingParams(temperature=0))
        trail = Trail(cache_asked="refresh" if refresh else "")
        request = replace(plain, trace=f"r{len(self.readers)}", trail=trail)
        events: list[Event] = []

        async def read() -> None:
            stream = self.cache.stream(request)
            try:
                async for event in stream:
                    events.append(event)
            finally:
                await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue] - a generator

        self.readers.append(Reader(request, asyncio.create_task(read()), events))

    def leave(self, at: int) -> None:
        if self.readers:
            reader = self.readers[at % len(self.readers)]
            reader.left = reader.task.cancel() or reader.left

    def go_on(self, steps: int) -> None:
        """Several at once: the burst in which a whole answer comes."""
        for _ in range(steps):
            self.backend.steps.put_nowait("go")

    async def end(self) -> None:
        for _ in range(200):
            if all(reader.task.done() for reader in self.readers):
                return
            self.go_on(1)
            await asyncio.sleep(0)
        raise AssertionError("somebody waits for a call that never ends")


async def play(schedule: list[tuple[str, int]]) -> World:
    world = World()
    for do, number in schedule:
        match do:
            case "join" | "refresh":
                world.join(refresh=do == "refresh")
            case "leave":
                world.leave(number)
            case "go":
                world.go_on(number)
            case "fail":
                world.backend.steps.put_nowait("fail")
            case _:
                for _ in range(number % TICKS + 1):
                    await asyncio.sleep(0)
    await world.end()
    await asyncio.gather(*(reader.task for reader in world.readers), return_exceptions=True)
    return world


def check(world: World) -> None:
    legs = [leg for reader in world.readers for leg in reader.request.trail.legs]
    assert len(legs) == world.backend.calls
    assert len({id(leg) for leg in legs}) == len(legs)
    assert not world.shelf.calls
    for reader in world.readers:
        trail = reader.request.trail
        assert len(trail.legs) <= 1
        if reader.events:
            assert trail.cache == ("miss" if trail.legs else "hit")
        failed = not reader.task.cancelled() and reader.task.exception() is not None
        if failed:
            assert isinstance(reader.task.exception(), UpstreamError)
        elif not reader.left:
            assert isinstance(reader.events[-1], Finished)
            assert len(reader.events) == len(PIECES) + 2


_STEPS = st.tuples(
    st.sampled_from(
        ["join", "join", "join", "tick", "tick", "go", "go", "leave", "fail", "refresh"]
    ),
    st.integers(0, 7),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_STEPS, min_size=2, max_size=24))
def test_every_call_is_one_requests_leg_whatever_the_schedule(
    schedule: list[tuple[str, int]],
) -> None:
    check(asyncio.run(play(schedule)))


def test_the_schedule_that_booked_one_call_twice() -> None:
    """Two who wait, an answer in one burst: the first had left before the second looked."""
    world = asyncio.run(play([("join", 0), ("join", 0), ("tick", 2), ("go", 6), ("tick", 2)]))
    check(world)
    assert [reader.request.trail.cache for reader in world.readers] == ["miss", "hit"]
