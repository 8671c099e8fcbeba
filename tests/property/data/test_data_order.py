"""The data order is a pure function, and every epoch is a permutation."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from headrace.data.order import documents
from headrace.errors import DataError


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**40), count=st.integers(1, 300), per_step=st.integers(1, 50))
def test_each_epoch_visits_each_document_once(seed: int, count: int, per_step: int) -> None:
    steps = -(-2 * count // per_step)
    seen = [
        index
        for step in range(steps)
        for index in documents(seed=seed, step=step, count=count, per_step=per_step)
    ]
    assert sorted(seen[:count]) == list(range(count))
    assert sorted(seen[count : 2 * count]) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), step=st.integers(0, 10**6), count=st.integers(1, 10**6))
def test_a_step_needs_no_history(seed: int, step: int, count: int) -> None:
    whole = documents(seed=seed, step=step, count=count, per_step=4)
    halves = [
        documents(seed=seed, step=2 * step + half, count=count, per_step=2) for half in (0, 1)
    ]
    assert whole == halves[0] + halves[1]
    assert all(0 <= index < count for index in whole)


def test_seeds_and_epochs_have_their_own_orders() -> None:
    orders = {
        documents(seed=seed, step=epoch, count=50, per_step=50)
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


@pytest.mark.parametrize(("count", "step", "per_step"), [(0, 0, 1), (5, -1, 1), (5, 0, 0)])
def test_what_has_no_order_is_refused(count: int, step: int, per_step: int) -> None:
    with pytest.raises(DataError):
        documents(seed=0, step=step, count=count, per_step=per_step)
