"""Kept arrays against arrays made anew, over every step of random traffic."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_traffic import make_scheduler, request
from headrace.engine.batch import Batch
from headrace.engine.scheduler import Plan
from headrace.model.stack import Step

ACTIONS = st.sampled_from(["step", "step", "submit", "cancel"])


def anew(plan: Plan) -> dict[str, list[int]]:
    """The slow, obvious layout."""
    made: dict[str, list[int]] = {"ids": [], "pos": [], "starts": [0], "context": []}
    for sequence, rows in plan.rows.items():
        start, stop = sequence.computed, sequence.computed + rows
        made["ids"] += sequence.tokens(start, stop)
        made["pos"] += range(start, stop)
        made["starts"].append(made["starts"][-1] + rows)
        made["context"].append(stop)
    return made


def check(step: Step, plan: Plan) -> None:
    expected = anew(plan)
    assert step.ids_T.tolist() == expected["ids"]
    assert step.pos_T.tolist() == expected["pos"]
    assert step.row_start_S1.tolist() == expected["starts"]
    assert step.context_S.tolist() == expected["context"]
    for table_B, sequence in zip(step.blocks_SB, plan.rows, strict=True):
        assert table_B[: len(sequence.blocks)].tolist() == sequence.blocks
    arrays = (step.ids_T, step.pos_T, step.row_start_S1, step.context_S, step.blocks_SB)
    assert all(array.dtype == np.int32 and array.flags.c_contiguous for array in arrays)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_step_is_laid_out_as_if_anew(data: st.DataObject) -> None:
    scheduler, model = make_scheduler(
        blocks=data.draw(st.integers(7, 30), label="blocks"),
        context_tokens=40,
        max_running=data.draw(st.sampled_from([1, 2, 5, 32])),
    )
    budget = data.draw(st.sampled_from([1, 2, 5, 16, 64]), label="budget")
    batch = Batch()
    todo = [
        request(
            f"r{at}",
            data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=14)),
            n=data.draw(st.sampled_from([1, 1, 2, 4])),
            max_tokens=data.draw(st.sampled_from([1, 3, 12])),
        )
        for at in range(data.draw(st.integers(1, 9)))
    ]
    for turn in range(2000):
        if not todo and not scheduler.has_work:
            return
        action = (
            data.draw(st.sampled_from(["step", "step", "submit", "cancel"])) if turn < 50 else ""
        )
        if todo and (action == "submit" or turn >= 50 or not scheduler.has_work):
            scheduler.submit(todo.pop())
        elif action == "cancel":
            scheduler.cancel(f"r{data.draw(st.integers(0, 8))}")
        elif (plan := scheduler.plan(budget)).rows:
            check(batch.lay_out(plan.rows), plan)
            scheduler.commit(plan, model.execute(plan))
    raise AssertionError("the traffic never came to an end")


def test_arrays_are_kept_while_the_same_sequences_decode() -> None:
    scheduler, model = make_scheduler()
    for name in "abc":
        scheduler.submit(request(name, [1, 2], max_tokens=20))
    batch = Batch()
    seen: set[tuple[int, ...]] = set()
    for turn in range(15):
        plan = scheduler.plan(16)
        step = batch.lay_out(plan.rows)
        check(step, plan)
        if turn > 1:
            arrays = (step.ids_T, step.pos_T, step.row_start_S1, step.context_S, step.blocks_SB)
            seen.add(tuple(array.ctypes.data for array in arrays))
        scheduler.commit(plan, model.execute(plan))
    assert len(seen) <= 2  # once more where the block table outgrew its first width
