"""What every step of preparing data takes and gives: one text and where it came from."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text and where it came from."""

    id: str
    """`source/path`, unique."""
    source: str
    licence: str
    text: str
    origin: str = ""
    """Where exactly: an address, or file and record; empty where the id says it."""
