"""What keeps the indexes of an installation: records, stores, and what is known beside them.

Two kinds: a directory (`OnDisk`), and one PostgreSQL that many replicas share
(`stores.postgres.home.OnPostgres`).

Invariants: an index appears and disappears whole, for every process at once; of one name and owner
there is one, and a later making of the name is told apart by its `Place.uid`.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.errors import Conflict, StoreUnavailable
from headrace.retrieval.contracts import IndexStore
from headrace.retrieval.refused import Refused
from headrace.retrieval.shelving import Place, Shelf, write_bytes
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.retrieval.sync.freshness import SourceStanding, standing_of
from headrace.retrieval.sync.state import SyncState
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


class OnDisk:
    """A directory an index; see `shelving`."""

    purges_at_once = True

    def __init__(self, directory: Path) -> None:
        self._shelf = Shelf(directory)

    async def find(self, name: str, owner: IndexOwner) -> Place | None:
        """As `Home.find`."""
        return await asyncio.to_thread(self._shelf.find, name, owner)

    async def all(self) -> Sequence[Place]:
        """As `Home.all`."""
        return await asyncio.to_thread(self._shelf.all)

    async def create(self, spec: IndexSpec) -> Place:
        """As `Home.create`."""
        return await asyncio.to_thread(self._shelf.create, spec)

    async def delete(self, place: Place) -> None:
        """As `Home.delete`."""
        await asyncio.to_thread(self._shelf.delete, place)

    async def store(self, place: Place) -> IndexStore:
        """As `Home.store`."""
        return await SqliteStore.open(place.store)

    def beside(self, place: Place) -> Beside:
        """As `Home.beside`."""
        return _Files(place.path)

    @contextlib.asynccontextmanager
    async def alone(self, place: Place, work: str) -> AsyncGenerator[None]:
        """As `Home.alone`, on this machine."""
        try:
            file = os.open(place.path / f".{work}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"cannot lock {place.path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise busy(place, work) from None
            yield
        finally:
            os.close(file)

    async def check(self) -> None:
        """A directory is made when the first index is."""

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class _Files:
    """Beside a store on the disk: refused.db, migration.json, sources.db."""

    path: Path

    async def refuse(self, refused: Iterable[DocumentStatus], read: Iterable[str]) -> None:
        await asyncio.to_thread(self._refused.note, list(refused), list(read))

    async def refused(self, id: str) -> DocumentStatus | None:
        return await asyncio.to_thread(self._refused.get, id)

    async def all_refused(self, *, after: str = "", limit: int) -> Sequence[DocumentStatus]:
        return await asyncio.to_thread(self._refused.all, after=after, limit=limit)

    async def count_refused(self) -> int:
        return await asyncio.to_thread(self._refused.count)

    async def plan(self) -> bytes | None:
        try:
            return self._plan.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"cannot read {self._plan}: {error}") from error

    async def set_plan(self, plan: bytes | None) -> None:
        if plan is None:
            self._plan.unlink(missing_ok=True)
        else:
            write_bytes(self._plan, plan)

    async def synced(self, standing: SourceStanding) -> None:
        """`sources.db` knows already."""

    async def sources(self) -> Mapping[str, SourceStanding]:
        path = self.path / "sources.db"
        return await asyncio.to_thread(_standings, path) if path.exists() else {}

    @property
    def _plan(self) -> Path:
        return self.path / "migration.json"

    @property
    def _refused(self) -> Refused:
        return Refused(self.path / "refused.db")


def _standings(path: Path) -> dict[str, SourceStanding]:
    state = SyncState.open(path)
    try:
        return {name: standing_of(state, name) for name in state.sources()}
    finally:
        state.close()


def busy(place: Place, work: str) -> Conflict:
    """What `Home.alone` raises."""
    return Conflict(
        f"somebody else is at {work} of the index {place.spec.name!r}; try again when it is done"
    )
