"""Batch requests take only what is idle: the others' steps are the same with and without them."""

from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_traffic import PoolModel, expected, make_scheduler, request, run_all
from headrace.engine.request import EngineRequest
from headrace.engine.scheduler import Scheduler
from headrace.errors import Overloaded
from headrace.types import FinishReason, Priority, TokenEvent

BATCH, LIVE = Priority.BATCH, Priority.INTERACTIVE
Arrivals = Sequence[tuple[int, EngineRequest]]


@st.composite
def arrivals(draw: st.DrawFn, name: str, priority: Priority, *, longest: int) -> Arrivals:
    """Requests and the steps before which they come."""
    found: list[tuple[int, EngineRequest]] = []
    for at in range(draw(st.integers(1, 8), label=name)):
        size = draw(st.integers(1, longest))
        step = draw(st.integers(0, 25))
        prompt = [draw(st.integers(0, 60)) for _ in range(size)]
        tokens = draw(st.integers(0, 16))
        seed = 0 if priority is LIVE else 1
        found.append(
            (step, request(f"{name}{at}", prompt, max_tokens=tokens, seed=seed, priority=priority))
        )
    return found


def play(
    scheduler: Scheduler, model: PoolModel, come: Arrivals, *, budget: int
) -> tuple[list[dict[str, int]], dict[str, list[TokenEvent]]]:
    """Each step's rows of the live requests, and all events."""
    steps: list[dict[str, int]] = []
    events: dict[str, list[TokenEvent]] = defaultdict(list)
    todo = sorted(come, key=lambda item: item[0])
    for step in range(5000):
        while todo and todo[0][0] <= step:
            scheduler.submit(todo.pop(0)[1])
        if not todo and not scheduler.has_work:
            break
        plan = scheduler.plan(budget)
        steps.append({s.request.id: n for s, n in plan.rows.items() if not s.yields})
        for name, event in scheduler.commit(plan, model.execute(plan)):
            events[name].append(event)
        scheduler.check_integrity()
    assert not scheduler.has_work
    while steps and not steps[-1]:
        steps.pop()
    return steps, events


@settings(max_examples=120, deadline=None)
@given(
    live=arrivals("live", LIVE, longest=30),
    batch=arrivals("batch", BATCH, longest=40),
    blocks=st.integers(16, 40),
    budget=st.sampled_from([1, 3, 8, 16, 64]),
    max_running=st.sampled_from([1, 2, 4, 32]),
    mixed=st.sampled_from([0, 0, 2, 5]),
)
def test_the_others_never_feel_a_batch(
    live: Arrivals, batch: Arrivals, blocks: int, budget: int, max_running: int, mixed: int
) -> None:
    """Not one row is later: neither the first token nor any after it."""

    def run(come: Arrivals) -> tuple[list[dict[str, int]], dict[str, list[TokenEvent]]]:
        scheduler, model = make_scheduler(
            blocks=blocks,
            max_running=max_running,
            mixed_prefill_tokens=mixed,
            prefix_cache=False,  # a batch may push idle prefixes out of the cache, nothing more
        )
        return play(scheduler, model, come, budget=budget)

    alone, _ = run(live)
    beside, events = run([*live, *batch])
    assert beside == alone
    for _, asked in [*live, *batch]:
        tokens = [token for event in events[asked.id] for token in event.tokens]
        assert tokens == expected(asked, asked.sampling.max_tokens or 0, choice=0)
        assert events[asked.id][-1].finish is FinishReason.LENGTH


def test_a_batch_is_done_beside_traffic_that_leaves_room() -> None:
    """Somebody always talks, and half of every step is idle: the batch takes that half."""
    scheduler, model = make_scheduler(blocks=32)
    for at in range(6):
        scheduler.submit(request(f"b{at}", range(at, at + 12), max_tokens=12, priority=BATCH))
    ended: set[str] = set()
    live_steps = 0
    for step in range(400):
        if step % 4 == 0:  # a new one as the last ends
            scheduler.submit(request(f"live{step}", [step % 50, 1, 2], max_tokens=4))
        plan = scheduler.plan(8)
        live_steps += any(not s.yields for s in plan.rows)
        for name, event in scheduler.commit(plan, model.execute(plan)):
            if event.usage is not None:
                ended.add(name)
        if {f"b{at}" for at in range(6)} <= ended:
            break
    else:
        raise AssertionError(f"the batch starves: {sorted(ended)}")
    assert live_steps > step * 0.9


def test_a_batch_waits_while_nothing_is_idle_and_goes_on_when_something_is() -> None:
    scheduler, model = make_scheduler(blocks=64)
    scheduler.submit(request("batch", range(8), max_tokens=2, priority=BATCH))
    for step in range(50):
        scheduler.submit(request(f"live{step}", range(step, step + 8), max_tokens=0))
        plan = scheduler.plan(8)
        assert [s.request.id for s in plan.rows] == [f"live{step}"]
        scheduler.commit(plan, model.execute(plan))
    assert {name for name, _ in run_all(scheduler, model)} == {"batch"}


def test_a_live_request_takes_the_blocks_and_the_place_of_a_batch() -> None:
    scheduler, model = make_scheduler(blocks=8, max_running=2)
    for name in ("b0", "b1"):
        scheduler.submit(request(name, range(10), max_tokens=6, salt=name, priority=BATCH))
    plan = scheduler.plan(64)
    assert {s.request.id for s in plan.rows} == {"b0", "b1"}
    scheduler.commit(plan, model.execute(plan))
    scheduler.submit(request("live", range(20, 40), max_tokens=2))  # five of the eight blocks
    plan = scheduler.plan(64)
    assert plan.rows
    assert {s.request.id: n for s, n in plan.rows.items() if not s.yields} == {"live": 20}
    assert scheduler.counters().preemptions >= 1
    scheduler.commit(plan, model.execute(plan))
    assert {name for name, e in run_all(scheduler, model) if e.usage} == {"b0", "b1", "live"}


def test_a_prompt_half_run_takes_a_batchs_blocks_for_all_its_rows() -> None:
    """Answers grew into what was promised to a prompt; without the batch there is enough."""
    scheduler, model = make_scheduler(blocks=22, context_tokens=80)
    scheduler.submit(request("batch", range(40), max_tokens=9, priority=BATCH))
    plan = scheduler.plan(64)
    scheduler.commit(plan, model.execute(plan))
    for at in range(4):
        scheduler.submit(request(f"short{at}", range(4), salt=f"s{at}", max_tokens=8))
    scheduler.submit(request("long", range(24), salt="own", max_tokens=2))
    plan = scheduler.plan(20)
    scheduler.commit(plan, model.execute(plan))
    plan = scheduler.plan(20)
    assert {s.request.id: n for s, n in plan.rows.items()}["long"] == 16
    scheduler.commit(plan, model.execute(plan))
    scheduler.check_integrity()


def test_rows_beside_others_are_bounded_as_prompts_are() -> None:
    scheduler, model = make_scheduler(blocks=64, mixed_prefill_tokens=3)
    scheduler.submit(request("live", [1, 2], max_tokens=9))
    plan = scheduler.plan(16)
    scheduler.commit(plan, model.execute(plan))
    for at in range(6):
        scheduler.submit(request(f"b{at}", [at], max_tokens=9, priority=BATCH))
    plan = scheduler.plan(16)
    assert sum(n for s, n in plan.rows.items() if s.yields) == 3
    scheduler.commit(plan, model.execute(plan))
    scheduler.cancel("live")
    assert scheduler.plan(16).total == 6


def test_a_full_queue_of_batches_refuses_nobody_else() -> None:
    scheduler, _ = make_scheduler(max_queued_requests=1)
    scheduler.submit(request("a", [1], max_tokens=1, priority=BATCH))
    with pytest.raises(Overloaded):
        scheduler.submit(request("b", [1], max_tokens=1, priority=BATCH))
    scheduler.submit(request("live", [1], max_tokens=1))
    scheduler.check_integrity()
    assert scheduler.queued_tokens == 2
