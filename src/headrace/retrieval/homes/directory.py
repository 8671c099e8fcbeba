"""Indexes in a directory of this machine, one directory each."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import StoreUnavailable
from headrace.retrieval.contracts import IndexStore
from headrace.retrieval.homes.contracts import Beside, busy
from headrace.retrieval.refused import Refused
from headrace.retrieval.shelving import Place, Shelf, write_bytes
from headrace.retrieval.stores.sqlite import SqliteStore
from headrace.retrieval.sync.freshness import SourceStanding, standing_of
from headrace.retrieval.sync.state import SyncState
from headrace.types import DocumentStatus, IndexOwner, IndexSpec


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
