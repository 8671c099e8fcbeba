"""Random requests with cancels, deadlines and faults: every block comes back, books balance."""

import random
from collections import defaultdict

import pytest

from engine_traffic import EOS, VOCAB, Clock, make_core, make_scheduler, request
from headrace.engine.core import EngineCore
from headrace.engine.request import EngineRequest
from headrace.engine.runner import Runner
from headrace.errors import HeadraceError, Overloaded
from headrace.types import FinishReason, TokenEvent


def random_request(rng: random.Random, name: str, *, now_s: float) -> EngineRequest:
    stem = [3] * rng.choice([0, 4, 8, 16])
    tail = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 12))]
    return request(
        name,
        stem + tail,
        salt=rng.choice(["", "", "b"]),
        seed=rng.randrange(1 << 40),
        temperature=rng.choice([0.0, 1.0]),
        n=rng.choice([1, 1, 1, 2, 3]),
        max_tokens=rng.choice([0, 1, 3, 8, 20]),
        eos_ids=(EOS,),
        prompt_logprobs=rng.choice([None] * 9 + [1]),
        deadline_s=rng.choice([None, None, None, now_s + rng.random() * 20]),
    )


def check_books(asked: dict[str, EngineRequest], events: dict[str, list[TokenEvent]]) -> None:
    assert events.keys() == asked.keys()
    for name, found in events.items():
        assert [event.usage is None for event in found] == [True] * (len(found) - 1) + [False]
        ends = [event.index for event in found if event.finish is not None]
        assert sorted(ends) == list(range(asked[name].sampling.n))


def test_two_thousand_requests_through_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, clock = random.Random(2), Clock()
    core = make_core(blocks=40, clock=clock, max_batch_tokens=96, max_queued_requests=64)
    execute = Runner.execute

    def faulty(self: Runner, plan):
        results = execute(self, plan)
        if rng.random() < 0.02:
            raise RuntimeError("injected")
        return results

    monkeypatch.setattr(Runner, "execute", faulty)
    asked: dict[str, EngineRequest] = {}
    events: dict[str, list[TokenEvent]] = defaultdict(list)

    def take(outputs) -> None:
        for output in outputs:
            events[output.id].append(output.event)

    made = 0
    while len(asked) < 2000 or core.has_work:
        for _ in range(rng.randrange(8) if len(asked) < 2000 else 0):
            made += 1
            new = random_request(rng, f"r{made}", now_s=clock.now_s)
            try:
                core.submit(new)
            except Overloaded:
                continue
            asked[new.id] = new
        if asked and rng.random() < 0.3:
            take(core.cancel(rng.choice(list(asked)[-40:])))
        clock.now_s += rng.random() * 0.5
        take(core.step())
        core.check_integrity()
    check_books(asked, events)
    stats = core.stats()
    assert (stats.blocks_used, stats.blocks_free) == (0, 40)
    counters = stats.counters
    assert counters.refused == made - len(asked)
    assert sum(counters.finished.values()) == counters.requests == len(asked) >= 2000
    wanted = {FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT, FinishReason.DEADLINE}
    assert counters.finished.keys() == {*wanted, FinishReason.ERROR}
    assert counters.failed_steps > 0
    assert counters.preemptions > 0
    assert counters.cached > 0
    assert counters.prompt + counters.completion + counters.recomputed == (
        counters.cached + counters.scheduled + counters.unrun
    )


def test_six_thousand_requests_through_the_scheduler() -> None:
    rng, clock = random.Random(3), Clock()
    scheduler, model = make_scheduler(
        blocks=60, clock=clock, max_running=64, max_queued_requests=200
    )
    asked: dict[str, EngineRequest] = {}
    events: dict[str, list[TokenEvent]] = defaultdict(list)

    def take(found: list[tuple[str, TokenEvent]]) -> None:
        for request_id, event in found:
            events[request_id].append(event)

    made = 0
    while made < 6_000 or scheduler.has_work:
        for _ in range(rng.randrange(16) if made < 6_000 else 0):
            made += 1
            new = random_request(rng, f"r{made}", now_s=clock.now_s)
            try:
                scheduler.submit(new)
            except HeadraceError:
                continue
            asked[new.id] = new
        if asked and rng.random() < 0.3:
            take(scheduler.cancel(f"r{made - rng.randrange(100)}"))
        clock.now_s += rng.random() * 0.5
        take(scheduler.expire())
        plan = scheduler.plan(128)
        broken = rng.random() < 0.01
        take(
            scheduler.fail(plan, "injected")
            if broken
            else scheduler.commit(plan, model.execute(plan))
        )
    scheduler.check_integrity()
    check_books(asked, events)
    counters = scheduler.counters()
    assert scheduler.blocks.used == 0
    assert counters.refused + counters.requests == made
    assert counters.prompt + counters.completion + counters.recomputed == (
        counters.cached + counters.scheduled + counters.unrun
    )


def test_nothing_is_kept_for_ended_requests() -> None:
    core: EngineCore = make_core()
    for at in range(150):
        core.submit(request(str(at), [1, 2], max_tokens=1, deadline_s=1e12, repetition_penalty=1.1))
        while core.has_work:
            core.step()
    assert len(core._scheduler._deadlines) < 100
    assert len(core._runner._histories) == 0
    assert core._scheduler._groups == {}
