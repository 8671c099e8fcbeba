"""A step's time is shared among its requests and adds up; memory goes by the blocks held."""

from engine_traffic import Clock, make_scheduler, request
from headrace.types import Usage


def test_time_and_memory_are_shared_by_rows_and_blocks() -> None:
    scheduler, model = make_scheduler(blocks=30, context_tokens=40, clock=Clock())
    for name, length in (("long", 13), ("short", 3)):
        scheduler.submit(request(name, tuple(range(1, 1 + length)), max_tokens=4, ignore_eos=True))
    ended: dict[str, Usage] = {}
    steps = held = 0
    while scheduler.has_work:
        plan = scheduler.plan(16)
        results = model.execute(plan)
        scheduler.attribute(plan, 1_000_001, block_bytes=64)
        held += sum(len(sequence.blocks) for sequence in plan.rows) * 64
        steps += 1
        for name, event in scheduler.commit(plan, results):
            if event.usage is not None:
                ended[name] = event.usage
    assert sum(usage.compute_us for usage in ended.values()) == steps * 1_000_001
    assert ended["long"].compute_us > ended["short"].compute_us > 0
    assert ended["long"].kv_byte_s > ended["short"].kv_byte_s > 0
    booked = sum(usage.kv_byte_s for usage in ended.values())
    assert held <= booked <= held + steps


def test_what_was_not_run_has_used_nothing() -> None:
    scheduler, _ = make_scheduler(blocks=30, context_tokens=40, clock=Clock())
    scheduler.submit(request("r", (1, 2, 3), max_tokens=4))
    [(_, event)] = scheduler.cancel("r")
    assert event.usage is not None
    assert (event.usage.compute_us, event.usage.kv_byte_s) == (0, 0)
