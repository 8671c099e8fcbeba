"""Rows and bytes of files together: what the routes and the batches use."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from headrace.errors import NotFound
from headrace.store import files
from headrace.store.blobs import Blobs
from headrace.store.database import Database
from headrace.store.files import File, Owner, Page
from headrace.types import Caller

ORPHAN_AGE_S = 6 * 3600.0
"""A content without a row is deleted when nobody has written to it for so long; no upload and no
output takes as long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileLimits:
    """Of `[files]`."""

    max_bytes: int = 512 << 20
    team_bytes: int = 10 << 30
    upload_s: float = 600.0


class FileStore:
    """Files of all teams."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        limits: FileLimits,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.blobs = blobs
        self.limits = limits
        self.clock = clock

    @property
    def now_s(self) -> int:
        return int(self.clock())

    async def add(self, file: File) -> None:
        """Keep a file whose content was written. Raises: LimitExceeded, StoreUnavailable."""
        limit = self.limits.team_bytes
        try:
            await self.database.write(lambda c: files.add_file(c, file, team_bytes=limit))
        except BaseException:
            await self.blobs.delete(file.id)
            raise

    async def get(self, id: str, owner: Owner) -> File:
        """Raises: NotFound, StoreUnavailable."""
        return await self.database.read(lambda c: files.get_file(c, id, owner, now_s=self.now_s))

    async def page(self, owner: Owner, page: Page, *, purpose: str) -> tuple[list[File], bool]:
        """As `headrace.store.files.list_files`."""
        return await self.database.read(
            lambda c: files.list_files(c, owner, page, purpose=purpose, now_s=self.now_s)
        )

    async def delete(self, id: str, owner: Owner) -> None:
        """The row and the bytes. Raises: NotFound, Conflict, StoreUnavailable."""
        await self.database.write(lambda c: files.delete_file(c, id, owner, now_s=self.now_s))
        await self.blobs.delete(id)

    def content(self, file: File) -> AsyncIterator[bytes]:
        """The bytes in pieces."""
        return self.blobs.read(file.id)

    async def clean(self, *, age_s: float = ORPHAN_AGE_S) -> int:
        """Delete what has expired, and contents that no row knows. Returns: How many those were."""
        gone = await self.database.write(lambda c: files.delete_expired(c, now_s=self.now_s))
        old = await self.blobs.old(age_s=age_s)
        known = await self.database.read(lambda c: files.known_files(c, old))
        gone += [id for id in old if id not in known]
        for id in gone:
            await self.blobs.delete(id)
        return len(gone)


def owner_of(caller: Caller) -> Owner:
    """Whose a caller's files and batches are."""
    return Owner(caller.org, caller.team)


def need_files(store: FileStore | None) -> FileStore:
    """Raises: NotFound where the service runs without a store."""
    if store is None:
        raise NotFound(
            "files and batches need a store, and this service runs without one; start it with API "
            "keys, or set store.url"
        )
    return store
