"""Filters: pure functions document -> (keep, reason), after published rules, and their names."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from headrace.data.filters.c4 import C4
from headrace.data.filters.fineweb import FineWeb
from headrace.data.filters.gopher import GopherQuality, GopherRepetition
from headrace.data.filters.language import Language
from headrace.data.filters.verdict import KEEP, Filter, Verdict, drop
from headrace.errors import DataError

__all__ = [
    "C4",
    "FILTERS",
    "KEEP",
    "Filter",
    "FineWeb",
    "GopherQuality",
    "GopherRepetition",
    "Language",
    "Verdict",
    "drop",
    "named",
]

AnyFilter: TypeAlias = C4 | GopherQuality | GopherRepetition | FineWeb | Language

FILTERS: Mapping[str, type[AnyFilter]] = {
    "gopher_quality": GopherQuality,
    "gopher_repetition": GopherRepetition,
    "c4": C4,
    "fineweb": FineWeb,
    "language": Language,
}
"""Name -> filter, the cheap and strict first: the order in which `web` applies them."""

_WEB = ("gopher_quality", "gopher_repetition", "c4", "fineweb")


def named(spec: str) -> tuple[AnyFilter, ...]:
    """The filters of `NAME` or `NAME:key=value,...`; `web` is all rules for web pages at once.

    Raises:
        DataError: No such filter, no such threshold, or a value of the wrong type.
    """
    name, _, settings = spec.partition(":")
    if name == "web" and not settings:
        return tuple(FILTERS[item]() for item in _WEB)
    if name not in FILTERS:
        known = ["web", *FILTERS]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise DataError(f"no filter {name!r}; {hint}")
    made = FILTERS[name]
    defaults = {item.name: getattr(made(), item.name) for item in fields(made)}
    given: dict[str, Any] = {}
    for item in filter(None, settings.split(",")):
        key, equals, text = item.partition("=")
        if not equals or key not in defaults:
            raise DataError(
                f"{name}: no setting {item!r}; there are {', '.join(defaults)} (key=value)"
            )
        given[key] = _value(f"{name}:{key}", text, defaults[key])
    return (made(**given),)


def _value(name: str, text: str, default: object) -> object:
    """`text` as the type of the default; a tuple's items are separated by `+`."""
    if isinstance(default, tuple):
        return tuple(_value(name, item, default[0]) for item in text.split("+"))
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise DataError(f"{name} must be true or false, not {text!r}")
        return text == "true"
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise DataError(f"{name} must be {kind}, not {text!r}") from None
