"""Whatever comes and goes: each input is planned once, within the budget, nobody is starved."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.vector_queue import VectorQueue, VectorRequest
from headrace.types import Priority

_requests = st.lists(
    st.tuples(
        st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from(list(Priority))
    ),
    max_size=8,
)


def _request(number: int, lengths: list[int], priority: Priority) -> VectorRequest:
    inputs = tuple((number,) * length for length in lengths)
    return VectorRequest(id=str(number), inputs=inputs, priority=priority)


@given(requests=_requests, budget=st.integers(1, 100), dropped=st.sets(st.integers(0, 7)))
def test_every_input_once(
    requests: list[tuple[list[int], Priority]], budget: int, dropped: set[int]
) -> None:
    queue = VectorQueue()
    made = [_request(n, *item) for n, item in enumerate(requests)]
    for request in made:
        queue.add(request)
    for number in dropped:
        queue.drop(str(number))
    kept = [request for request in made if int(request.id) not in dropped]
    assert queue.tokens == sum(request.tokens for request in kept)
    seen: Counter[tuple[str, int]] = Counter()
    while len(queue):
        items = queue.plan(budget)
        assert items
        tokens = [len(item.ids) for item in items]
        assert sum(tokens) <= budget or len(items) == 1
        assert tokens == sorted(tokens)
        seen.update((item.request.id, item.at) for item in items)
    assert queue.tokens == 0
    assert queue.plan(budget) == []
    assert set(seen.values()) <= {1}
    assert set(seen) == {(r.id, at) for r in kept for at in range(len(r.inputs))}


def test_a_large_request_leaves_a_share_to_a_small_one() -> None:
    queue = VectorQueue()
    queue.add(_request(0, [10] * 1000, Priority.INTERACTIVE))
    queue.plan(100)
    queue.add(_request(1, [10], Priority.INTERACTIVE))
    items = queue.plan(100)
    assert {item.request.id for item in items} == {"0", "1"}
    assert sum(len(item.ids) for item in items) == 100


def test_low_priority_gets_what_is_left() -> None:
    queue = VectorQueue()
    queue.add(_request(0, [10] * 20, Priority.BATCH))
    queue.add(_request(1, [10] * 8, Priority.INTERACTIVE))
    first = Counter(item.request.id for item in queue.plan(100))
    assert first == {"1": 8, "0": 2}


def test_late_ones_are_found() -> None:
    queue = VectorQueue()
    queue.add(VectorRequest(id="a", inputs=((1,),), deadline_s=5.0))
    queue.add(VectorRequest(id="b", inputs=((1,),)))
    assert queue.late(4.9) == []
    assert [request.id for request in queue.late(5.0)] == ["a"]
