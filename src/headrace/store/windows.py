"""A limit's window and a moment → the span of time in which an amount is counted.

`minute`, `hour`, `day`, `week` (from Monday), `month`: of the calendar, in the limit's time zone
from `day` on. `total`: for ever. `rolling:SECONDS`: twelve parts that move on one by one; each
counts until all of it is older than the span, so no span of that length ever holds more than the
limit.
"""

import datetime
import zoneinfo
from functools import lru_cache
from typing import NamedTuple

from headrace.errors import InvalidParameter

FOREVER_S = 1 << 52
_PARTS = 12
_SECONDS = {"minute": 60, "hour": 3600}
_DATED = ("day", "week", "month")


class Window(NamedTuple):
    starts_s: int
    ends_s: int
    counts_from_s: int
    """What was spent in windows that end after this counts against the limit."""


def check(kind: str, zone: str) -> None:
    """Raises: InvalidParameter for a kind or time zone that there is not."""
    if kind.startswith("rolling:"):
        digits = kind.removeprefix("rolling:")
        if not digits.isdigit() or not _PARTS <= int(digits) <= 366 * 86_400:
            raise InvalidParameter(
                f"window {kind[:40]!r}: rolling:SECONDS takes {_PARTS} to {366 * 86_400}",
                param="window",
            )
    elif kind not in (*_SECONDS, *_DATED, "total"):
        raise InvalidParameter(
            f"window {kind[:40]!r}: there are minute, hour, day, week, month, total and "
            "rolling:SECONDS",
            param="window",
        )
    try:
        _zone(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidParameter(
            f"zone {zone[:40]!r} is no IANA time zone (Europe/Berlin)", param="zone"
        ) from None


def window_at(kind: str, zone: str, now_s: float) -> Window:
    """The window in which that moment lies."""
    now = int(now_s)
    if kind == "total":
        return Window(0, FOREVER_S, 0)
    if kind in _SECONDS:
        size = _SECONDS[kind]
        start = now - now % size
        return Window(start, start + size, start)
    if kind in _DATED:
        return _dated(kind, zone, now)
    span = int(kind.removeprefix("rolling:"))
    part = -(-span // _PARTS)
    start = now - now % part
    # Anyone who spends until the part's end must see all of the span before that moment.
    return Window(start, start + part, start - span)


def _dated(kind: str, zone: str, now: int) -> Window:
    local = datetime.datetime.fromtimestamp(now, _zone(zone))
    day = local.date()
    if kind == "week":
        day -= datetime.timedelta(days=day.weekday())
        after = day + datetime.timedelta(days=7)
    elif kind == "month":
        day = day.replace(day=1)
        after = (day + datetime.timedelta(days=32)).replace(day=1)
    else:
        after = day + datetime.timedelta(days=1)
    start, end = (_midnight(at, zone) for at in (day, after))
    return Window(start, end, start)


def _midnight(day: datetime.date, zone: str) -> int:
    at = datetime.datetime.combine(day, datetime.time(), _zone(zone))
    return int(at.timestamp())


@lru_cache(maxsize=64)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    return zoneinfo.ZoneInfo(name or "UTC")
