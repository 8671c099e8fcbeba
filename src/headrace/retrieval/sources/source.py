"""The contract of a source."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from headrace.retrieval.parsing import Raw, Refusal
from headrace.types.retrieval import Scalar


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One document as a source lists it, unread."""

    key: str
    """Lasting and unique in its source: a path, an address."""
    revision: str = ""
    """Equal and not empty = certainly unchanged; empty = it has to be fetched to know."""
    size_bytes: int | None = None
    """None = not known before it is read."""
    modified_s: float = 0.0
    title: str = ""
    readers: frozenset[str] | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    refusal: Refusal | None = None
    """Why it must not be read, where listing it told that."""

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rstrip("/").rpartition("/")[2] or self.key


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """An item's bytes, and the revision that they are."""

    raw: Raw
    revision: str
    modified_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Unchanged:
    """It is still the revision that was asked about."""


@dataclass(frozen=True, slots=True)
class Gone:
    """It is not there any more."""


Outcome: TypeAlias = Fetched | Unchanged | Gone | Refusal
"""A refusal for `unavailable` is one of the moment: what was indexed of the item before stays."""


class Source(Protocol):
    """Where documents come from.

    Invariants: `items` yields all there are or raises, so that what it does not yield is deleted;
    what is read is never larger than the limit.
    """

    @property
    def name(self) -> str:
        """Unique among the sources of an index; the first part of its documents' ids."""
        ...

    def items(self) -> AsyncIterator[Item]:
        """Everything that is there now.

        Raises: HeadraceError: The source cannot be listed whole.
        """
        ...

    async def fetch(self, item: Item, *, known: str, limit_bytes: int) -> Outcome:
        """An item's bytes, unless they are the revision `known`."""
        ...
