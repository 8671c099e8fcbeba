"""Strict access to a provider's JSON: a field of the wrong type raises, and nothing is guessed.

What is read here goes on to a client, so a text must be one that UTF-8 can carry and a count one
that can be billed. Everything raises TypeError, ValueError or KeyError, which a reader turns into
an `UpstreamError` that shows the chunk.
"""

import json
import math
from typing import Any, cast

import msgspec

from headrace.errors import UpstreamError

MAX_COUNT = 2**53
"""Beyond it JSON's own numbers are not exact."""


def parse(data: str | bytes) -> dict[str, Any]:
    """One chunk as an object.

    Raises: UpstreamError.
    """
    try:
        try:
            found = msgspec.json.decode(data)
        except msgspec.MsgspecError:
            found = json.loads(data)  # which reads what Python's servers write: NaN, -Infinity
    except (ValueError, RecursionError):
        raise UpstreamError(f"the server sent a chunk that is not JSON: {short(data)}") from None
    if not isinstance(found, dict):
        raise UpstreamError(f"the server sent a chunk that is not an object: {short(data)}")
    return cast("dict[str, Any]", found)


class shaped:
    """What goes wrong inside is a chunk with the wrong shape."""

    __slots__ = ("_data",)

    def __init__(self, data: str | bytes) -> None:
        self._data = data

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _MISSHAPEN):
            raise UpstreamError(
                f"the server sent a chunk with the wrong shape ({error!r}): {short(self._data)}"
            ) from error


_MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


def mapping(value: object) -> dict[str, Any]:
    """An object; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"{short(value)} is not an object")
    return cast("dict[str, Any]", value)


def objects(value: object) -> list[dict[str, Any]]:
    """A list of objects; None is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError(f"{short(value)} is not a list")
    return [mapping(item) for item in cast("list[object]", value)]


def text(value: object) -> str:
    """A string that UTF-8 can carry; None is an empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{short(value)} is not a string")
    value.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    return value


def optional_text(value: object) -> str | None:
    """As `text`; None stays None."""
    return None if value is None else text(value)


def count(value: object) -> int:
    """A number of tokens; None is 0."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError(f"{short(value)} is not a whole number")
    if not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{short(value)} is out of range")
    return int(value)


def logprob(value: object) -> float:
    """A log-probability."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise TypeError(f"{short(value)} is not a log-probability")
    return float(value)


def short(value: object) -> str:
    """A value as an error shows it."""
    shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    shown = shown.encode("utf-8", "replace").decode()
    return repr(shown if len(shown) <= 200 else shown[:200] + "...")
