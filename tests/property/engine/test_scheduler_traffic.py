"""Random traffic over a pool that remembers: every answer is the solo answer, nothing leaks."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_traffic import EOS, VOCAB, Clock, expected, make_scheduler, request, score
from headrace.engine.request import EngineRequest, RowResult
from headrace.errors import ContextLengthExceeded, Overloaded
from headrace.types import FinishReason, Priority, TokenEvent

CONTEXT = 40
NORMAL = (FinishReason.STOP, FinishReason.LENGTH)


@st.composite
def requests(draw: st.DrawFn, at: int) -> EngineRequest:
    stem = draw(st.sampled_from([(), (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4), (9,) * 13]))
    tail = draw(st.lists(st.integers(0, 3), min_size=0 if stem else 1, max_size=10))
    return request(
        f"r{at}",
        (*stem, *tail),
        salt=draw(st.sampled_from(["", "other"])),
        seed=draw(st.integers(0, 3)),
        n=draw(st.sampled_from([1, 1, 1, 2, 4])),
        max_tokens=draw(st.sampled_from([None, 0, 1, 3, 12])),
        min_tokens=draw(st.sampled_from([0, 0, 4])),
        eos_ids=(EOS, EOS + 1, EOS + 2),
        ignore_eos=draw(st.booleans()),
        stop_token_ids=draw(st.sampled_from([(), (3,)])),
        prompt_logprobs=draw(st.sampled_from([None, None, 0])),
        deadline_s=draw(st.sampled_from([None, None, None, 120.0])),
        priority=draw(st.sampled_from([*Priority])),
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_answer_is_the_solo_answer(data: st.DataObject) -> None:
    blocks = data.draw(st.integers(5, 30), label="blocks")
    budget = data.draw(st.sampled_from([1, 2, 5, 16, 64]), label="budget")
    clock = Clock()
    scheduler, model = make_scheduler(
        blocks=blocks,
        context_tokens=CONTEXT,
        clock=clock,
        max_running=data.draw(st.sampled_from([1, 2, 5, 32])),
        max_queued_requests=data.draw(st.sampled_from([3, 100])),
        mixed_prefill_tokens=data.draw(st.sampled_from([0, 0, 3])),
        prefix_cache=data.draw(st.booleans()),
    )
    asked: dict[str, EngineRequest] = {}
    events: dict[str, list[TokenEvent]] = defaultdict(list)
    todo = [data.draw(requests(at)) for at in range(data.draw(st.integers(1, 10)))]
    actions = st.sampled_from(
        ["step", "step", "step", "submit", "submit", "cancel", "fault", "bad"]
    )

    def take(found: list[tuple[str, TokenEvent]]) -> None:
        for request_id, event in found:
            events[request_id].append(event)
        scheduler.check_integrity()

    for turn in range(3000):
        if not todo and not scheduler.has_work:
            break
        action = data.draw(actions) if turn < 60 else "submit" if todo else "step"
        if action == "submit" and todo:
            new = todo.pop()
            try:
                scheduler.submit(new)
            except (ContextLengthExceeded, Overloaded):
                pass
            else:
                asked[new.id] = new
        elif action == "cancel" and asked:
            take(scheduler.cancel(data.draw(st.sampled_from(sorted(asked)))))
        else:
            clock.now_s += 1.0
            take(scheduler.expire())
            plan = scheduler.plan(budget)
            assert plan.total <= budget
            assert bool(plan.rows) == scheduler.has_work, "a step without progress"
            if action == "fault":
                take(scheduler.fail(plan, "broken"))
            elif action == "bad" and plan.rows:
                results = dict(model.execute(plan))
                results[next(iter(plan.rows))] = RowResult(failure="no token")
                take(scheduler.commit(plan, results))
            else:
                take(scheduler.commit(plan, model.execute(plan)))
    assert not scheduler.has_work
    assert scheduler.blocks.used == 0
    counters = scheduler.counters()
    assert counters.prompt + counters.completion + counters.recomputed == (
        counters.cached + counters.scheduled + counters.unrun
    )
    assert events.keys() == asked.keys()
    usages = [check_answer(asked[name], found, blocks * 4) for name, found in events.items()]
    assert sum(usage.prompt_tokens for usage in usages) == counters.prompt
    assert sum(usage.cached_tokens for usage in usages) == counters.cached
    assert sum(usage.completion_tokens for usage in usages) == counters.completion
    assert sum(usage.recomputed_tokens for usage in usages) == counters.recomputed
    assert sum(counters.finished.values()) == len(asked) == counters.requests


def check_answer(asked: EngineRequest, events: list[TokenEvent], pool_tokens: int):
    limit = asked.sampling.max_tokens
    if limit is None:
        limit = min(CONTEXT, pool_tokens + 1) - len(asked.prompt)
    assert [event.usage is not None for event in events] == [False] * (len(events) - 1) + [True]
    sampled = 0
    for choice in range(asked.sampling.n):
        mine = [event for event in events if event.index == choice]
        assert [event.finish is not None for event in mine] == [False] * (len(mine) - 1) + [True]
        tokens = [token for event in mine for token in event.tokens]
        sampled += len(tokens)
        solo = expected(asked, limit, choice=choice)
        finish = mine[-1].finish
        assert all(0 <= token < VOCAB for token in tokens)
        if finish in NORMAL:
            assert tokens == solo
            ends = (
                bool(solo) and solo[-1] in asked.end_ids and len(solo) > asked.sampling.min_tokens
            )
            assert finish is (FinishReason.STOP if ends else FinishReason.LENGTH)
        else:
            assert tokens == solo[: len(tokens)]
        assert (finish is FinishReason.ERROR) == (mine[-1].error is not None)
        scored = [event.prompt_logprobs for event in mine if event.prompt_logprobs is not None]
        if asked.sampling.prompt_logprobs is None or choice:
            assert not scored
        elif tokens or finish in NORMAL:
            prompt = list(asked.prompt)
            assert scored == [
                (None, *(score(prompt[:at], prompt[at]) for at in range(1, len(prompt))))
            ]
    usage = events[-1].usage
    assert usage is not None
    assert usage.completion_tokens == sampled
    assert usage.prompt_tokens in ((len(asked.prompt),) if sampled else (0, len(asked.prompt)))
    return usage
