"""What a filter is: a pure function of a document that says whether it stays, and why not."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from headrace.data.document import Document


class Verdict(NamedTuple):
    """Keep or not; the reason is a short name that reports count by, empty for what stays."""

    keep: bool
    reason: str = ""


KEEP = Verdict(True)
Filter: TypeAlias = Callable[[Document], Verdict]


def drop(reason: str) -> Verdict:
    """The verdict against a document."""
    return Verdict(False, reason)
