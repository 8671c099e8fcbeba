"""The scheduler's decisions one by one: who goes first, who waits, who is refused, how it ends."""

from typing import Any

import pytest

from engine_traffic import (
    Clock,
    expected,
    make_scheduler,
    request,
    run_all,
    run_step,
)
from headrace.engine.request import RowResult, Sequence, StopPush
from headrace.engine.scheduler import Events, Plan, Scheduler
from headrace.errors import (
    ContextLengthExceeded,
    HeadraceError,
    InvalidParameter,
    Overloaded,
)
from headrace.types import FinishReason, Priority, SamplingParams


def rows(plan: Plan) -> dict[str, int]:
    return {f"{seq.request.id}.{seq.index}": count for seq, count in plan.rows.items()}


def tokens(events: Events, name: str, choice: int = 0) -> list[int]:
    return [t for i, e in events if (i, e.index) == (name, choice) for t in e.tokens]


def give(plan: Plan, *sampled: int) -> dict[Sequence, RowResult]:
    """Results in which the plan's sampling sequences get these tokens."""
    ready = [s for s, count in plan.rows.items() if s.computed + count == len(s)]
    return {s: RowResult(token=t) for s, t in zip(ready, sampled, strict=True)}


# --- plans ------------------------------------------------------------------------------------


def test_rows_that_lack_one_token_go_before_chunks() -> None:
    scheduler, _ = make_scheduler()
    scheduler.submit(request("long", range(20), max_tokens=5))
    scheduler.submit(request("short", [1, 2], max_tokens=5))
    assert rows(scheduler.plan(8)) == {"long.0": 8}
    scheduler, model = make_scheduler()
    scheduler.submit(request("short", [1, 2], max_tokens=5))
    run_step(scheduler, model)
    scheduler.submit(request("long", range(20), max_tokens=5))
    scheduler.submit(request("late", range(20, 24), max_tokens=5))
    plan = scheduler.plan(8)
    assert rows(plan) == {"short.0": 1, "long.0": 7}
    scheduler.commit(plan, model.execute(plan))
    assert rows(scheduler.plan(18)) == {"short.0": 1, "long.0": 13, "late.0": 4}


def test_prompts_beside_a_decode_are_bounded() -> None:
    scheduler, model = make_scheduler(blocks=32, mixed_prefill_tokens=3)
    scheduler.submit(request("long", range(20), max_tokens=5))
    assert rows(scheduler.plan(16)) == {"long.0": 16}  # nobody waits for a token: the whole budget
    scheduler, model = make_scheduler(blocks=32, mixed_prefill_tokens=3)
    scheduler.submit(request("short", [1, 2], max_tokens=9))
    run_step(scheduler, model)
    scheduler.submit(request("long", range(5), max_tokens=5))
    scheduler.submit(request("late", range(20, 24), max_tokens=5))
    for expected_rows in ({"long.0": 3}, {"long.0": 2, "late.0": 1}, {"long.0": 1, "late.0": 3}):
        plan = scheduler.plan(16)
        assert rows(plan) == {"short.0": 1, **expected_rows}
        scheduler.commit(plan, model.execute(plan))


def test_nothing_to_do_is_an_empty_plan() -> None:
    scheduler, _ = make_scheduler()
    assert scheduler.plan(8).total == 0
    assert not scheduler.has_work


def test_max_running_bounds_the_batch() -> None:
    scheduler, _ = make_scheduler(max_running=2)
    for name in "abc":
        scheduler.submit(request(name, [1], max_tokens=2))
    assert rows(scheduler.plan(9)) == {"a.0": 1, "b.0": 1}
    assert (scheduler.running, scheduler.waiting, scheduler.queued_tokens) == (2, 1, 1)


def test_admission_leaves_a_reserve_and_keeps_the_order() -> None:
    scheduler, _ = make_scheduler(blocks=6)
    scheduler.submit(request("a", range(12), max_tokens=2))
    scheduler.submit(request("b", range(20, 32), max_tokens=2))
    scheduler.submit(request("c", [1], max_tokens=2))
    # b's three blocks beside a's would leave none; c would fit but came later.
    assert rows(scheduler.plan(40)) == {"a.0": 12}
    assert (scheduler.running, scheduler.waiting) == (1, 2)


def test_a_prompt_half_run_keeps_its_promise_of_blocks() -> None:
    scheduler, model = make_scheduler(blocks=6)
    scheduler.submit(request("a", range(16), max_tokens=2))
    run_step(scheduler, model, budget=4)
    scheduler.submit(request("b", range(20, 28), max_tokens=2))
    # Five blocks are free, but three of them belong to a's prompt.
    assert rows(scheduler.plan(40)) == {"a.0": 12}


def test_the_youngest_makes_room_and_starts_over() -> None:
    scheduler, model = make_scheduler(blocks=5)
    scheduler.submit(request("a", [1, 2, 3], max_tokens=14))
    scheduler.submit(request("b", [4, 5, 6], max_tokens=14))
    events = run_all(scheduler, model)
    counters = scheduler.counters()
    assert counters.preemptions > 0
    assert counters.recomputed > 0
    for name, prompt in (("a", [1, 2, 3]), ("b", [4, 5, 6])):
        assert tokens(events, name) == expected(request("x", prompt), 14, choice=0)
    assert [name for name, event in events if event.usage] == ["a", "b"]


def test_a_younger_sequence_waits_while_older_ones_fill_the_pool() -> None:
    scheduler, model = make_scheduler(blocks=4)
    scheduler.submit(request("a", range(8), max_tokens=8))
    scheduler.submit(request("b", [9], max_tokens=12))
    events = run_all(scheduler, model)
    assert {name for name, event in events if event.finish is FinishReason.LENGTH} == {"a", "b"}


def test_an_older_prompt_takes_rows_back_from_the_plan() -> None:
    scheduler, _ = make_scheduler(blocks=5)
    scheduler.submit(request("old", range(12), max_tokens=4))
    scheduler.submit(request("young", [50], max_tokens=12))
    # As it comes about when an answer grew into the blocks that a prompt was promised: the prompt
    # finds none, and the young one, which needs none now, is in the plan already.
    old, young = scheduler._groups["old"].sequences[0], scheduler._groups["young"].sequences[0]
    assert scheduler._admit(old)
    scheduler._running.append(scheduler._waiting.pop(0))
    assert scheduler._admit(young)
    scheduler._running.append(scheduler._waiting.pop(0))
    old.blocks = scheduler.blocks.allocate(1)
    young.blocks = scheduler.blocks.allocate(4)
    old.computed = old.first_run = 4
    scheduler._tally.scheduled += 4
    plan = scheduler.plan(8)
    assert rows(plan) == {"old.0": 7}  # what the young one's row left
    assert scheduler.counters().preemptions == 1
    scheduler.check_integrity()


# --- the cache --------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "cached"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8)])
def test_the_last_prompt_token_is_always_run(size: int, cached: int) -> None:
    scheduler, model = make_scheduler()
    for name in ("cold", "warm"):
        scheduler.submit(request(name, range(size), max_tokens=1))
        events = run_all(scheduler, model)
    assert events[-1][1].usage is not None
    assert events[-1][1].usage.cached_tokens == cached


def usage_of(second: dict[str, Any], **settings: Any) -> int:
    scheduler, model = make_scheduler(**settings)
    scheduler.submit(request("first", range(12), max_tokens=1))
    run_all(scheduler, model)
    params: dict[str, Any] = {"max_tokens": 1, **second}
    scheduler.submit(request("second", range(12), **params))
    usage = run_all(scheduler, model)[-1][1].usage
    assert usage is not None
    return usage.cached_tokens


def test_who_hits_whom() -> None:
    assert usage_of({}) == 8
    assert usage_of({"salt": "tenant"}) == 0
    assert usage_of({"prompt_logprobs": 0}) == 0
    assert usage_of({}, prefix_cache=False) == 0


def test_choices_share_a_prompt_even_without_the_shared_cache() -> None:
    scheduler, model = make_scheduler(prefix_cache=False)
    asked = request("a", range(9), n=3, max_tokens=3)
    scheduler.submit(asked)
    events = run_all(scheduler, model)
    usage = events[-1][1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (9, 0, 9)
    assert usage.recomputed_tokens == 2
    for choice in range(3):
        assert tokens(events, "a", choice) == expected(asked, 3, choice=choice)


# --- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sampled", "finish", "stop"),
    [
        ({}, [7], FinishReason.STOP, None),
        ({"stop_token_ids": (7,)}, [7], FinishReason.STOP, None),
        ({"stop_token_ids": (8,)}, [5, 8], FinishReason.STOP, 8),
        ({"ignore_eos": True}, [7, 7, 7], FinishReason.LENGTH, None),
        ({"ignore_eos": True, "stop_token_ids": (7,)}, [7], FinishReason.STOP, 7),
        ({"min_tokens": 2}, [7, 7, 7], FinishReason.STOP, None),
        ({"max_tokens": 1}, [5], FinishReason.LENGTH, None),
    ],
)
def test_how_a_choice_ends(
    asked: dict[str, Any], sampled: list[int], finish: FinishReason, stop: int | None
) -> None:
    scheduler, _ = make_scheduler()
    params: dict[str, Any] = {"max_tokens": 3, **asked}
    scheduler.submit(request("a", [1, 2], eos_ids=(7,), **params))
    events: Events = []
    for token in sampled:
        assert scheduler.has_work
        plan = scheduler.plan(8)
        events += scheduler.commit(plan, give(plan, token))
    assert not scheduler.has_work
    last = events[-1][1]
    assert (last.finish, last.stop) == (finish, stop)
    assert tokens(events, "a") == sampled
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, len(sampled))


def test_stop_strings_are_watched_by_what_is_injected() -> None:
    made: list[SamplingParams] = []

    def watch(sampling: SamplingParams) -> StopPush:
        made.append(sampling)
        seen: list[int] = []

        def push(ids: tuple[int, ...]) -> str | None:
            seen.extend(ids)
            return "stop!" if seen[-2:] == [5, 6] else None

        return push

    scheduler, _ = make_scheduler(watch_stops=watch)
    scheduler.submit(request("a", [1], stop=("stop!",), max_tokens=9))
    scheduler.submit(request("b", [2], max_tokens=9))
    assert len(made) == 1
    events: Events = []
    for pair in ((6, 5), (5, 6), (6, 5)):
        plan = scheduler.plan(8)
        events += scheduler.commit(plan, give(plan, *pair))
    ends = [(name, event.finish, event.stop) for name, event in events if event.finish]
    assert ends == [("a", FinishReason.STOP, "stop!")]


def test_no_max_tokens_means_what_there_is_room_for() -> None:
    for blocks, room in ((32, 54), (4, 7)):  # the context of 64, the pool of 16 and the last token
        scheduler, model = make_scheduler(blocks=blocks)
        scheduler.submit(request("a", range(10), max_tokens=None))
        assert len(tokens(run_all(scheduler, model), "a")) == room


def test_max_tokens_zero_scores_the_prompt() -> None:
    scheduler, model = make_scheduler()
    scheduler.submit(request("a", range(64), n=2, max_tokens=0, prompt_logprobs=0))
    events = run_all(scheduler, model)
    assert [(event.index, event.finish) for _, event in events] == [
        (0, FinishReason.LENGTH),
        (1, FinishReason.LENGTH),
    ]
    scores = events[0][1].prompt_logprobs
    assert scores is not None
    assert (len(scores), scores[0]) == (64, None)
    assert events[1][1].prompt_logprobs is None


def test_cancel_frees_at_once_and_reports_what_was_used() -> None:
    scheduler, model = make_scheduler()
    scheduler.submit(request("a", range(10), n=3, max_tokens=9))
    scheduler.submit(request("waits", range(10), max_tokens=9))
    run_step(scheduler, model, budget=6)
    events = scheduler.cancel("a")
    assert [event.index for _, event in events] == [0, 1, 2]
    assert {event.finish for _, event in events} == {FinishReason.ABORT}
    usage = events[-1][1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 0)
    assert scheduler.blocks.used == 0
    [(_, event)] = scheduler.cancel("waits")
    assert event.usage is not None
    assert event.usage.prompt_tokens == 0
    assert scheduler.cancel("a") == []
    scheduler.check_integrity()
    assert scheduler.counters().unrun == 4


def test_choices_that_have_ended_are_not_ended_again() -> None:
    scheduler, _ = make_scheduler()
    scheduler.submit(request("a", [1], n=2, max_tokens=3, eos_ids=(7,)))
    events: Events = []
    for sampled in ((7,), (5,)):  # choice 0 ends, then choice 1 begins
        plan = scheduler.plan(8)
        events += scheduler.commit(plan, give(plan, *sampled))
    events += scheduler.cancel("a")
    ends = [(event.index, event.finish) for _, event in events if event.finish]
    assert ends == [(0, FinishReason.STOP), (1, FinishReason.ABORT)]


def test_a_request_that_ends_during_its_step_is_not_booked_again() -> None:
    scheduler, model = make_scheduler()
    scheduler.submit(request("a", [1, 2], max_tokens=2))
    plan = scheduler.plan(8)
    results = model.execute(plan)
    scheduler.cancel("a")
    assert scheduler.commit(plan, results) == []
    scheduler.check_integrity()
    scheduler.submit(request("b", [1, 2], max_tokens=2))
    plan = scheduler.plan(8)
    scheduler.cancel("b")
    assert scheduler.fail(plan, "late") == []
    assert scheduler.counters().completion == 0


def test_deadlines() -> None:
    clock = Clock()
    scheduler, model = make_scheduler(clock=clock)
    scheduler.submit(request("soon", [1], max_tokens=50, deadline_s=101.0))
    scheduler.submit(request("later", [1], max_tokens=3, deadline_s=500.0))
    run_step(scheduler, model)
    assert scheduler.expire() == []
    clock.now_s = 101.0
    [(name, event)] = scheduler.expire()
    assert (name, event.finish) == ("soon", FinishReason.DEADLINE)
    run_all(scheduler, model)
    clock.now_s = 499.0
    scheduler.submit(request("later", [1], max_tokens=3))  # the id again, without a deadline
    clock.now_s = 501.0
    assert scheduler.expire() == []


def test_deadlines_of_ended_requests_are_not_collected() -> None:
    scheduler, model = make_scheduler()
    for at in range(200):
        scheduler.submit(request(str(at), [1], max_tokens=1, deadline_s=1e9))
        run_all(scheduler, model)
    assert len(scheduler._deadlines) <= 66


def test_a_failure_ends_its_own_request() -> None:
    scheduler, model = make_scheduler()
    scheduler.submit(request("bad", [1], n=2, max_tokens=3))
    scheduler.submit(request("good", [2], max_tokens=3))
    plan = scheduler.plan(8)
    results = model.execute(plan)
    results[next(iter(plan.rows))] = RowResult(failure="logits are not finite")
    events = scheduler.commit(plan, results)
    bad = [event for name, event in events if name == "bad"]
    assert [(event.finish, event.error) for event in bad] == [
        (FinishReason.ERROR, "logits are not finite")
    ] * 2
    assert tokens(events + run_all(scheduler, model), "good") == expected(
        request("x", [2]), 3, choice=0
    )


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "sampling", "error", "text"),
    [
        ([], {}, InvalidParameter, "prompt is empty"),
        ([1], {"n": 0}, InvalidParameter, "`n` 0 is below 1"),
        ([1], {"max_tokens": -1}, InvalidParameter, "`max_tokens` -1 is below 0"),
        ([1], {"stop": ("x",)}, InvalidParameter, "needs a tokenizer"),
        (range(64), {}, ContextLengthExceeded, "64 tokens and the context 64.*by at least 1"),
        (range(70), {"max_tokens": 0}, ContextLengthExceeded, "by at least 6"),
        (range(40), {"max_tokens": 25}, ContextLengthExceeded, "64 - prompt 40; lower it to 24"),
        (range(41), {}, ContextLengthExceeded, "KV pool 40.*engine.kv_cache_bytes"),
        (range(30), {"max_tokens": 12}, ContextLengthExceeded, "lower it to 11 or raise"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_counts(
    prompt: list[int], sampling: dict[str, Any], error: type[HeadraceError], text: str
) -> None:
    scheduler, _ = make_scheduler(blocks=10)
    with pytest.raises(error, match=text):
        scheduler.submit(request("a", prompt, **sampling))
    assert scheduler.counters().refused == 1
    assert not scheduler.has_work
    scheduler.check_integrity()


def test_the_largest_that_fits_runs_alone() -> None:
    scheduler, model = make_scheduler(blocks=10)
    scheduler.submit(request("a", range(30), max_tokens=11))
    assert len(tokens(run_all(scheduler, model), "a")) == 11


def test_an_id_in_flight_is_refused() -> None:
    scheduler, _ = make_scheduler()
    scheduler.submit(request("a", [1]))
    with pytest.raises(InvalidParameter, match="in flight"):
        scheduler.submit(request("a", [1]))


def test_the_queue_is_bounded_in_requests_and_tokens() -> None:
    clock = Clock()
    scheduler, model = make_scheduler(max_queued_requests=2, max_queued_tokens=12, clock=clock)
    scheduler.submit(request("a", range(30), max_tokens=1))  # alone, it may be of any length
    with pytest.raises(Overloaded, match="30 prompt tokens wait") as caught:
        scheduler.submit(request("b", [1], max_tokens=1))
    assert caught.value.retry_after_s == 1
    plan = scheduler.plan(30)
    clock.now_s += 60.0  # two seconds a token
    scheduler.commit(plan, model.execute(plan))
    scheduler.submit(request("c", range(6), max_tokens=1))
    scheduler.submit(request("d", range(4), max_tokens=1))
    with pytest.raises(Overloaded, match=r"engine\.max_queued_requests is 2") as caught:
        scheduler.submit(request("e", [1], max_tokens=1))
    assert caught.value.retry_after_s == 21
    scheduler.refuse()
    assert scheduler.counters().refused == 3


# --- the check itself -------------------------------------------------------------------------


def broken(change: str) -> Scheduler:
    scheduler, model = make_scheduler()
    scheduler.submit(request("a", range(9), max_tokens=4))
    run_step(scheduler, model, budget=4)
    scheduler.submit(request("b", [1], max_tokens=4))
    scheduler.check_integrity()
    match change:
        case "list":
            scheduler._waiting.clear()
        case "tokens":
            scheduler._tally.scheduled += 1
        case "queue":
            scheduler._queues[Priority.INTERACTIVE].tokens += 1
        case "requests":
            scheduler._tally.requests += 1
        case _:
            scheduler._running[0].blocks.pop()
    return scheduler


@pytest.mark.parametrize("change", ["list", "tokens", "queue", "requests", "blocks"])
def test_every_disagreement_is_noticed(change: str) -> None:
    with pytest.raises(HeadraceError):
        broken(change).check_integrity()
