"""What an index library asks of a home."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from headrace.errors import Conflict
from headrace.retrieval.contracts import IndexStore
from headrace.retrieval.shelving import Place
from headrace.retrieval.sync.freshness import SourceStanding
from headrace.types import DocumentStatus, IndexOwner, IndexSpec


class Beside(Protocol):
    """What is known of one index and is not in its store."""

    async def refuse(self, refused: Iterable[DocumentStatus], read: Iterable[str]) -> None:
        """Remember documents that could not be read; forget those that were, or are gone."""
        ...

    async def refused(self, id: str) -> DocumentStatus | None: ...

    async def all_refused(self, *, after: str = "", limit: int) -> Sequence[DocumentStatus]:
        """By id."""
        ...

    async def count_refused(self) -> int: ...

    async def plan(self) -> bytes | None:
        """Of a migration of its embedding model; None = there is none."""
        ...

    async def set_plan(self, plan: bytes | None) -> None: ...

    async def synced(self, standing: SourceStanding) -> None:
        """A sync of a source has ended, well or not."""
        ...

    async def sources(self) -> Mapping[str, SourceStanding]:
        """Those that were synced, by name."""
        ...


class Home(Protocol):
    """Where indexes are."""

    purges_at_once: bool
    """Whether overwriting deleted text is cheap enough to do it in the request that deletes."""

    async def find(self, name: str, owner: IndexOwner) -> Place | None:
        """Of this owner; None where there is none, whatever the name."""
        ...

    async def all(self) -> Sequence[Place]:
        """Of everybody."""
        ...

    async def create(self, spec: IndexSpec) -> Place:
        """Raises: InvalidParameter, Conflict, StoreUnavailable."""
        ...

    async def delete(self, place: Place) -> None:
        """The record with all that it is of. Raises: NotFound: Somebody else was faster."""
        ...

    async def store(self, place: Place) -> IndexStore:
        """Its store, open."""
        ...

    def beside(self, place: Place) -> Beside: ...

    def alone(self, place: Place, work: str) -> AbstractAsyncContextManager[None]:
        """Nobody else does this work on this index until the block ends, on no machine.

        Raises: Conflict: Somebody does.
        """
        ...

    async def check(self) -> None:
        """Whether it can keep any. Raises: ConfigError, StoreUnavailable."""
        ...

    async def close(self) -> None: ...


def busy(place: Place, work: str) -> Conflict:
    """What `Home.alone` raises."""
    return Conflict(
        f"somebody else is at {work} of the index {place.spec.name!r}; try again when it is done"
    )
