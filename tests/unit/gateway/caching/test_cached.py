"""The cache of answers: hits, misses, who may have what, who pays."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from databases import KINDS, fresh
from headrace.config import CacheSettings, DataClassSettings
from headrace.errors import DeadlineExceeded, ServiceError, UpstreamError
from headrace.gateway.caching.cached import Cached, CachePolicy
from headrace.gateway.caching.key import Scope
from headrace.gateway.caching.shelf import Shelf, open_shelf
from headrace.providers.metered import Metered
from headrace.providers.residency import Residency
from headrace.store import answers
from headrace.store.database import Database
from headrace.testing import FakeClock, Pause, ScriptedBackend, Step, reply
from headrace.types import (
    Caller,
    ChatRequest,
    CompletionRequest,
    Event,
    FinishReason,
    SamplingParams,
    Trail,
    collect,
)
from routed import answer, asked, notes

RED = Caller(org="o", team="red", key_id="key_1")
BLUE = Caller(org="o", team="blue", key_id="key_2")
COLD = SamplingParams(temperature=0)
SCOPE = Scope(route="r", target="r", release="r1", version="v1")


def request(
    text: str = "hi", *, caller: Caller = RED, asks: str = "", id: str = "t"
) -> ChatRequest:
    made = asked(text, caller=caller, sampling=COLD)
    return replace(made, trace=id, trail=Trail(cache_asked=asks))


def cached(
    backend: ScriptedBackend,
    shelf: Shelf | None = None,
    *,
    scope: Scope = SCOPE,
    policy: CachePolicy | None = None,
    residency: Residency | None = None,
) -> Cached:
    return Cached(
        Metered("p", "model", backend),
        shelf or Shelf(None, CacheSettings()),
        policy or CachePolicy(ttl_s=60, hit_ppm=250_000),
        scope,
        residency=residency,
    )


def counting(pause_s: float = 0.0) -> ScriptedBackend:
    """Says how often it was asked."""
    backend: ScriptedBackend

    def script(request: ChatRequest | CompletionRequest) -> Iterable[Step]:
        said = ("answer ", str(len(backend.requests)))
        return reply(request, said, pause_s=pause_s)

    backend = ScriptedBackend(script)
    return backend


async def said(cache: Cached, *requests: ChatRequest) -> list[str]:
    return [await answer(cache.stream(one)) for one in requests]


async def test_a_hit_is_the_same_answer_without_a_leg_and_says_so() -> None:
    cache = cached(counting())
    first, second = request(id="one"), request(id="two")
    a = [event async for event in cache.stream(first)]
    b = [event async for event in cache.stream(second)]
    assert [replace(e, id="") if hasattr(e, "id") else e for e in a] == [  # pyright: ignore
        replace(e, id="") if hasattr(e, "id") else e
        for e in b  # pyright: ignore
    ]
    assert (a[0].id, b[0].id) == ("one", "two")  # pyright: ignore[reportAttributeAccessIssue]
    assert (first.trail.cache, second.trail.cache) == ("miss", "hit")
    assert (len(first.trail.legs), len(second.trail.legs)) == (1, 0)
    assert second.trail.kept == tuple(first.trail.legs)
    assert second.trail.hit_ppm == 250_000
    assert notes(second, "cache")[0].startswith("hit: a kept answer (")


async def test_only_choice_by_the_client_or_the_operator_makes_answers_the_same() -> None:
    cache = cached(counting())
    warm = replace(request(), sampling=SamplingParams())
    assert await said(cache, warm, replace(warm, trail=Trail())) == ["answer 1", "answer 2"]
    assert warm.trail.cache == ""
    assert notes(warm, "cache") == ["not asked: temperature is 1 and there is no seed"]
    seeded = replace(request(), sampling=SamplingParams(seed=7))
    assert await said(cache, seeded, replace(seeded, trail=Trail())) == ["answer 3"] * 2
    anyway = cached(counting(), policy=CachePolicy(ttl_s=60, any_sampling=True))
    assert await said(anyway, warm, replace(warm, trail=Trail())) == ["answer 1"] * 2


async def test_another_team_asks_anew() -> None:
    cache = cached(counting())
    assert await said(cache, request(), request(caller=BLUE), request()) == [
        "answer 1",
        "answer 2",
        "answer 1",
    ]


@pytest.mark.parametrize(
    "scope",
    [
        replace(SCOPE, release="r2"),
        replace(SCOPE, version="v2"),
        replace(SCOPE, snapshot="refreshed"),
        replace(SCOPE, route="other"),
        replace(SCOPE, target="other"),
    ],
)
async def test_another_release_configuration_or_way_asks_anew(scope: Scope) -> None:
    backend, shelf = counting(), Shelf(None, CacheSettings())
    assert await said(cached(backend, shelf), request()) == ["answer 1"]

    async def snapshot(_: ChatRequest) -> str:
        return scope.snapshot

    again = Cached(backend, shelf, CachePolicy(ttl_s=60), scope, snapshot=snapshot)
    assert await said(again, request()) == ["answer 2"]


async def test_bypass_goes_past_it_and_refresh_replaces_the_answer() -> None:
    cache = cached(counting())
    past = request(asks="bypass")
    assert await said(cache, request(), past, request()) == ["answer 1", "answer 2", "answer 1"]
    assert past.trail.cache == ""
    anew = request(asks="refresh")
    assert await said(cache, anew, request()) == ["answer 3", "answer 3"]
    assert anew.trail.cache == "miss"


async def test_an_answer_ends_with_its_time() -> None:
    clock = FakeClock(now_s=1000)
    cache = cached(counting(), Shelf(None, CacheSettings(), clock=clock))
    assert await said(cache, request()) == ["answer 1"]
    clock.advance(59)
    assert await said(cache, request()) == ["answer 1"]
    clock.advance(2)
    assert await said(cache, request()) == ["answer 2"]


async def test_a_class_whose_answers_are_not_kept() -> None:
    rules = Residency({"secret": DataClassSettings(cache=False), "open": DataClassSettings()})
    cache = cached(counting(), residency=rules)
    secret = Caller(org="o", team="red", data_classes=frozenset({"secret", "open"}))
    assert await said(cache, request(caller=secret), request(caller=secret)) == [
        "answer 1",
        "answer 2",
    ]


@pytest.mark.parametrize(
    "end", [FinishReason.ERROR, FinishReason.DEADLINE, FinishReason.CONTENT_FILTER]
)
async def test_what_did_not_end_by_itself_is_not_kept(end: FinishReason) -> None:
    backend = ScriptedBackend(lambda asked: reply(asked, ("x",), reason=end))
    cache = cached(backend)
    first = request()
    await said(cache, first, request())
    assert len(backend.requests) == 2
    assert "not kept: the answer did not end by itself" in notes(first, "cache")


async def test_a_long_answer_is_not_kept() -> None:
    cache = cached(counting(), Shelf(None, CacheSettings(max_answer_bytes=10)))
    assert await said(cache, request(), request()) == ["answer 1", "answer 2"]


async def test_memory_is_bounded() -> None:
    shelf = Shelf(None, CacheSettings(memory_bytes=4000))
    cache = cached(counting(), shelf)
    for at in range(40):
        await said(cache, request(f"question {at}"))
    assert await said(cache, request("question 39")) == ["answer 40"]
    assert await said(cache, request("question 0")) == ["answer 41"]


async def test_a_stampede_makes_one_call_and_one_pays() -> None:
    backend = counting(pause_s=0.01)
    cache = cached(backend)
    crowd = [request(id=f"r{at}") for at in range(50)]
    texts = await asyncio.gather(*(answer(cache.stream(one)) for one in crowd))
    assert texts == ["answer 1"] * 50
    assert len(backend.requests) == 1
    assert [len(one.trail.legs) for one in crowd] == [1] + [0] * 49
    assert [one.trail.cache for one in crowd] == ["miss"] + ["hit"] * 49
    assert "the answer of request r0 is read along" in notes(crowd[1], "cache")[0]
    assert crowd[1].trail.kept == tuple(crowd[0].trail.legs)


async def test_a_burst_is_one_readers_bill_however_late_the_others_look() -> None:
    backend = counting()  # everything comes at once: the leader has left before the others look
    cache = cached(backend)
    crowd = [request(id=f"r{at}") for at in range(4)]
    texts = await asyncio.gather(*(answer(cache.stream(one)) for one in crowd))
    assert texts == ["answer 1"] * 4
    assert len(backend.requests) == 1
    assert [len(one.trail.legs) for one in crowd] == [1, 0, 0, 0]
    assert [one.trail.cache for one in crowd] == ["miss", "hit", "hit", "hit"]


async def test_who_leads_may_leave_and_who_stays_pays() -> None:
    backend = counting(pause_s=0.02)
    cache = cached(backend)
    leader, follower = request(id="leader"), request(id="follower")
    leading = cache.stream(leader)
    assert (await anext(leading)).id == "leader"  # pyright: ignore[reportAttributeAccessIssue]
    following = asyncio.create_task(answer(cache.stream(follower)))
    await asyncio.sleep(0)
    await leading.aclose()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
    assert await following == "answer 1"
    assert not backend.cancelled
    assert (len(leader.trail.legs), len(follower.trail.legs)) == (0, 1)
    assert (leader.trail.cache, follower.trail.cache) == ("hit", "miss")


async def test_the_last_who_leaves_cancels_the_call_and_pays_for_it() -> None:
    backend = counting(pause_s=30)
    cache = cached(backend)
    one, two = request(), request()
    streams = [cache.stream(one), cache.stream(two)]
    for stream in streams:
        await anext(stream)
    for stream in streams:
        await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert len(backend.cancelled) == 1
    assert [leg.outcome for leg in two.trail.legs] == ["abort"]
    assert not one.trail.legs
    assert await asyncio.wait_for(_again(cache, backend), 5) == "answer"


async def _again(cache: Cached, backend: ScriptedBackend) -> str:
    backend._script = lambda asked: reply(asked, ("answer",))
    return await answer(cache.stream(request()))


async def test_a_leader_that_fails_takes_nobody_along() -> None:
    tries = 0

    def script(asked: ChatRequest | CompletionRequest) -> Iterable[Step]:
        nonlocal tries
        tries += 1
        return [Pause(seconds=0.02), UpstreamError("gone")] if tries == 1 else reply(asked)

    cache = cached(ScriptedBackend(script))
    crowd = [request(id=f"r{at}") for at in range(10)]
    got = await asyncio.gather(
        *(answer(cache.stream(one)) for one in crowd), return_exceptions=True
    )
    assert isinstance(got[0], UpstreamError)
    assert got[1:] == ["Hello, world"] * 9
    assert tries == 2
    assert [len(one.trail.legs) for one in crowd] == [1, 1] + [0] * 8
    assert "failed (gone); asked anew" in notes(crowd[1], "cache")[0]


async def test_where_it_fails_again_everybody_is_told_and_two_calls_were_made() -> None:
    backend = ScriptedBackend([Pause(seconds=0.01), UpstreamError("gone")])
    cache = cached(backend)
    got = await asyncio.gather(
        *(answer(cache.stream(request())) for _ in range(10)), return_exceptions=True
    )
    assert all(isinstance(one, UpstreamError) for one in got)
    assert len(backend.requests) == 2


async def test_an_answer_that_breaks_off_is_an_error_for_who_has_seen_of_it() -> None:
    def script(asked: ChatRequest | CompletionRequest) -> Iterable[Step]:
        yield from list(reply(asked))[:2]
        yield Pause(seconds=0.02)
        yield UpstreamError("broke")

    cache = cached(ScriptedBackend(script))
    got = await asyncio.gather(
        *(answer(cache.stream(request())) for _ in range(3)), return_exceptions=True
    )
    assert [str(one) for one in got] == ["broke"] * 3


async def test_each_has_a_deadline_of_its_own() -> None:
    backend = counting(pause_s=0.2)
    cache = cached(backend)
    patient = asyncio.create_task(answer(cache.stream(request())))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match=r"deadline of 0\.01 s"):
        await answer(cache.stream(replace(request(), deadline_s=0.01)))
    assert await patient == "answer 1"


async def test_the_leaders_deadline_is_not_the_calls() -> None:
    backend = counting(pause_s=0.1)
    cache = cached(backend)
    hurried = asyncio.create_task(answer(cache.stream(replace(request(), deadline_s=0.15))))
    await asyncio.sleep(0)
    patient = request()
    assert await answer(cache.stream(patient)) == "answer 1"
    with pytest.raises(DeadlineExceeded):
        await hurried
    assert [one.deadline_s for one in backend.requests] == [None]
    assert len(patient.trail.legs) == 1


async def test_who_came_to_pay_for_a_call_that_fails_has_had_its_call() -> None:
    tries = 0

    def script(asked: ChatRequest | CompletionRequest) -> Iterable[Step]:
        nonlocal tries
        tries += 1
        return [Pause(seconds=0.05), UpstreamError("gone")] if tries == 1 else reply(asked)

    cache = cached(ScriptedBackend(script))
    leader, heir, other = request(), request(), request()
    leading, *rest = (asyncio.create_task(answer(cache.stream(r))) for r in (leader, heir, other))
    await asyncio.sleep(0.01)
    leading.cancel()
    got = await asyncio.gather(*rest, return_exceptions=True)
    assert isinstance(got[0], UpstreamError)
    assert got[1] == "Hello, world"
    assert [len(one.trail.legs) for one in (leader, heir, other)] == [0, 1, 1]


async def test_who_comes_while_the_last_reader_cuts_the_call_asks_anew() -> None:
    tries = 0

    class Slow:
        """Takes its time to clean up, as a connection that is closed does."""

        async def stream(self, request: ChatRequest) -> AsyncGenerator[Event]:
            nonlocal tries
            tries += 1
            cut = tries == 1
            try:
                for step in reply(request):
                    assert not isinstance(step, Pause | BaseException)
                    yield step
                    await asyncio.sleep(30 if cut else 0)
            finally:
                await asyncio.sleep(0.01)

    cache = Cached(
        Metered("p", "model", Slow()), Shelf(None, CacheSettings()), CachePolicy(ttl_s=60), SCOPE
    )
    first, second = request(), request()
    leaving = cache.stream(first)
    await anext(leaving)
    gone = asyncio.create_task(leaving.aclose())  # pyright: ignore - it is a generator
    await asyncio.sleep(0)
    assert await answer(cache.stream(second)) == "Hello, world"
    await gone
    assert tries == 2
    assert [leg.outcome for leg in (*first.trail.legs, *second.trail.legs)] == ["abort", "stop"]
    assert [len(first.trail.legs), len(second.trail.legs)] == [1, 1]


async def test_a_call_that_is_cut_before_its_first_step_stands_in_nobodys_way() -> None:
    backend, shelf = counting(), Shelf(None, CacheSettings())
    cache = cached(backend, shelf)
    reader = request()
    reading = asyncio.create_task(answer(cache.stream(reader)))

    async def cut() -> None:
        [call] = shelf.calls.values()
        call._task.cancel()

    await asyncio.create_task(cut())  # its turn is before the call's
    with pytest.raises(ServiceError, match="was cancelled"):
        await asyncio.wait_for(reading, 5)
    assert (backend.requests, reader.trail.legs) == ([], [])
    assert await asyncio.wait_for(answer(cache.stream(request())), 5) == "answer 1"


async def test_a_call_that_is_cancelled_from_outside_is_no_whole_answer() -> None:
    shelf = Shelf(None, CacheSettings())
    cache = cached(counting(pause_s=30), shelf)
    reader = request()
    reading = asyncio.create_task(answer(cache.stream(reader)))
    await asyncio.sleep(0.01)
    [call] = shelf.calls.values()
    call._task.cancel()
    with pytest.raises(ServiceError, match="was cancelled"):
        await asyncio.wait_for(reading, 5)
    assert [leg.outcome for leg in reader.trail.legs] == ["abort"]


@contextlib.asynccontextmanager
async def two_workers(kind: str, directory: Path) -> AsyncGenerator[tuple[Database, Shelf, Shelf]]:
    async with fresh(kind, directory) as database:
        yield (
            database,
            Shelf(database, CacheSettings()),
            Shelf(database, CacheSettings()),
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_workers_share_what_is_stored(kind: str, tmp_path: Path) -> None:
    async with two_workers(kind, tmp_path) as (database, here, there):
        backend = counting()
        assert await said(cached(backend, here), request()) == ["answer 1"]
        await here.flush()
        hit = request()
        assert await said(cached(backend, there), hit) == ["answer 1"]
        assert hit.trail.cache == "hit"
        assert hit.trail.kept[0].model == "model"
        # The same name again is one row, of the later answer.
        await said(cached(backend, here), request(asks="refresh"))
        await here.flush()
        there.forget()
        assert await said(cached(backend, there), request()) == ["answer 2"]
        # Cleared, everybody asks anew.
        gone = await database.write(lambda c: answers.clear(c, team="blue"))
        assert gone == 0
        gone = await database.write(lambda c: answers.clear(c, org="o", team="red", route="r"))
        assert gone == 1
        here.forget()
        assert await said(cached(backend, here), request()) == ["answer 3"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_store_is_bounded_in_time_and_size(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:

        def kept(at: int) -> answers.Kept:
            return answers.Kept(
                id=f"id{at}",
                org="o",
                team="red",
                key="k",
                route="r",
                release="x",
                created_s=100 + at,
                expires_s=150 if at == 0 else 1000,
                body=b"x" * 100,
            )

        await database.write(lambda c: answers.put(c, [kept(at) for at in range(6)]))
        swept = await database.write(lambda c: answers.sweep(c, now_s=200, max_bytes=250))
        assert swept == 4
        left = [
            at
            for at in range(6)
            if await database.read(lambda c, at=at: answers.get(c, f"id{at}", now_s=200))
        ]
        assert left == [4, 5]
        assert await database.read(lambda c: answers.get(c, "id5", now_s=1000)) is None


async def test_a_row_of_another_team_is_no_hit_even_under_this_name(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        shelf = Shelf(database, CacheSettings())
        cache = cached(counting(), shelf)
        await said(cache, request())
        [mine] = shelf._memory.values()
        shelf.forget()
        await database.write(lambda c: answers.put(c, [mine._replace(team="blue")]))
        assert await said(cache, request()) == ["answer 2"]


async def test_a_body_that_cannot_be_read_is_no_hit(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        shelf = Shelf(database, CacheSettings())
        cache = cached(counting(), shelf)
        await said(cache, request())
        [mine] = shelf._memory.values()
        for body in (b"", b"junk", mine.body[:-4]):
            shelf.put(mine._replace(body=body))
            assert (await said(cache, request()))[0] != "answer 1"


async def test_a_store_that_is_away_makes_misses(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        async with open_shelf(database, CacheSettings()) as shelf:
            await database.close()
            (tmp_path / "headrace.db").unlink()
            (tmp_path / "headrace.db").mkdir()
            cache = cached(counting(), shelf)
            assert await said(cache, request(), request()) == ["answer 1", "answer 1"]
            shelf.forget()
            assert await said(cache, request()) == ["answer 2"]
        (tmp_path / "headrace.db").rmdir()


async def test_collected_or_streamed_it_is_one_answer() -> None:
    cache = cached(counting())
    await said(cache, request())

    async def events() -> list[Event]:
        return [event async for event in cache.stream(request())]

    async def replayed() -> AsyncGenerator[Event]:
        for event in await events():
            yield event

    assert (await collect(replayed())).choices == (await collect(cache.stream(request()))).choices
