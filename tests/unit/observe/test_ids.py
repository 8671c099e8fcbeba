"""Requests' names: in order of time, none twice, even at their end."""

import time
from collections import Counter

from headrace.observe.ids import TIME_DIGITS, new_id


def test_names_are_hexadecimal_and_come_in_order_of_time() -> None:
    before = time.time_ns() // 1_000_000
    first = new_id()
    time.sleep(0.002)
    second = new_id()
    assert len(first) == len(second) == 32
    assert first < second
    assert before <= int(first[:TIME_DIGITS], 16) <= time.time_ns() // 1_000_000


def test_what_follows_the_time_is_random() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    for at in range(TIME_DIGITS, 32):
        counts = Counter(id[at] for id in ids)
        assert len(counts) == 16
        assert max(counts.values()) < 250  # of 125, with a deviation of 11
