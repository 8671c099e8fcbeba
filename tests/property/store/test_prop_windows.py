"""Windows tile time; a rolling one sees everything of its span."""

import datetime
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidParameter
from headrace.store.windows import check, window_at

kinds = st.sampled_from(["minute", "hour", "day", "week", "month", "rolling:3600", "rolling:90"])
zones = st.sampled_from(["", "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
moments = st.integers(1_600_000_000, 2_000_000_000)


@given(kinds, zones, moments)
def test_they_tile(kind: str, zone: str, now: int) -> None:
    window = window_at(kind, zone, now)
    assert window.starts_s <= now < window.ends_s
    assert window_at(kind, zone, window.starts_s) == window
    assert window_at(kind, zone, window.ends_s).starts_s == window.ends_s
    assert window_at(kind, zone, window.ends_s - 1) == window


@given(moments, st.integers(12, 100_000), st.integers(0, 100_000))
def test_no_span_escapes_a_rolling_window(now: int, span: int, ago: int) -> None:
    kind = f"rolling:{span}"
    earlier = window_at(kind, "", now - ago)
    if ago < span:  # spent less than a span ago: it counts
        assert earlier.ends_s > window_at(kind, "", now).counts_from_s


@given(zones, moments)
def test_calendar_ones_begin_at_local_midnight(zone: str, now: int) -> None:
    for kind in ("day", "week", "month"):
        start = window_at(kind, zone, now).starts_s
        local = datetime.datetime.fromtimestamp(start, zoneinfo.ZoneInfo(zone or "UTC"))
        assert (local.hour, local.minute) == (0, 0)
        assert kind != "week" or local.weekday() == 0
        assert kind != "month" or local.day == 1


@pytest.mark.parametrize(
    ("kind", "zone"),
    [("year", ""), ("rolling:", ""), ("rolling:1", ""), ("day", "Mars/Base"), ("day", "../etc")],
)
def test_others_are_refused(kind: str, zone: str) -> None:
    with pytest.raises(InvalidParameter):
        check(kind, zone)
