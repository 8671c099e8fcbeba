"""Contents of files: bytes under an id, whole and durable or not there at all.

On SQLite they are files in the state directory (written beside, fsynced, renamed), on PostgreSQL
rows of `CHUNK_BYTES` in the database, so that every replica can read what any of them took. A
content whose row in `files` never came, or is gone, is an orphan; `old` finds them.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import IO, Protocol, TypeVar

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import StoreUnavailable
from headrace.store.database import Database
from headrace.store.tables import file_chunks

CHUNK_BYTES = 1 << 20
_PART = ".part"
T = TypeVar("T")


class Sink(Protocol):
    """Takes a content, in order."""

    async def write(self, data: bytes) -> None:
        """Raises: StoreUnavailable."""
        ...


class Blobs(Protocol):
    """Where contents are."""

    def create(self, id: str) -> "contextlib.AbstractAsyncContextManager[Sink]":
        """A sink whose content is there after the block, and not at all where the block raises.

        Raises: StoreUnavailable.
        """
        ...

    def read(self, id: str, *, start: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        """The content from byte `start`, all of it or `size` bytes, in pieces.

        Raises: StoreUnavailable; also where there is no such content.
        """
        ...

    async def delete(self, id: str) -> None:
        """Remove the bytes themselves; unknown ids are no error. Raises: StoreUnavailable."""
        ...

    async def old(self, *, age_s: float) -> list[str]:
        """Ids of contents, whole or half-written, that nobody has written to for so long."""
        ...


async def read_all(blobs: Blobs, id: str, *, start: int = 0, size: int | None = None) -> bytes:
    """A content, or a part of it, at once."""
    return b"".join([piece async for piece in blobs.read(id, start=start, size=size)])


def open_blobs(database: Database, directory: Path) -> Blobs:
    """The place that fits a database."""
    return ChunkBlobs(database) if database.postgres else DirectoryBlobs(directory)


class DirectoryBlobs:
    """A file each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextlib.asynccontextmanager
    async def create(self, id: str) -> AsyncGenerator[Sink]:
        """As `Blobs.create`."""
        path = self._directory / id
        part = path.with_name(id + _PART)
        file = await self._thread(lambda: self._open(part))
        try:
            yield _FileSink(self, file)
            await self._thread(lambda: self._keep(file, part, path))
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise

    async def read(
        self, id: str, *, start: int = 0, size: int | None = None
    ) -> AsyncIterator[bytes]:
        """As `Blobs.read`."""
        path = self._directory / id
        file = await self._thread(lambda: path.open("rb"))
        try:
            file.seek(start)
            left = size
            while left is None or left > 0:
                most = CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)
                piece = await self._thread(file.read, most)
                if not piece:
                    return
                left = None if left is None else left - len(piece)
                yield piece
        finally:
            file.close()

    async def delete(self, id: str) -> None:
        """As `Blobs.delete`."""
        await self._thread(self._remove, id)

    async def old(self, *, age_s: float) -> list[str]:
        """As `Blobs.old`."""
        return await self._thread(self._old, time.time() - age_s)

    async def _thread(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            return await asyncio.to_thread(work, *arguments)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot keep files in {self._directory}: {error.strerror or error}"
            ) from error

    def _open(self, part: Path) -> IO[bytes]:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")

    def _keep(self, file: IO[bytes], part: Path, path: Path) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        part.rename(path)
        self._sync()

    def _remove(self, id: str) -> None:
        for path in (self._directory / id, self._directory / (id + _PART)):
            path.unlink(missing_ok=True)
        if self._directory.is_dir():
            self._sync()

    def _sync(self) -> None:
        """The directory too: its entries are what a crash of the system would lose."""
        handle = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _old(self, before_s: float) -> list[str]:
        found: set[str] = set()
        if self._directory.is_dir():
            for entry in os.scandir(self._directory):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before_s:
                        found.add(entry.name.removesuffix(_PART))
        return sorted(found)


class _FileSink:
    def __init__(self, blobs: DirectoryBlobs, file: IO[bytes]) -> None:
        self._blobs = blobs
        self._file = file

    async def write(self, data: bytes) -> None:
        await self._blobs._thread(self._file.write, data)  # pyright: ignore[reportPrivateUsage] - one file, one author


class ChunkBlobs:
    """Rows of the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextlib.asynccontextmanager
    async def create(self, id: str) -> AsyncGenerator[Sink]:
        """As `Blobs.create`."""
        sink = _ChunkSink(self._database, id)
        try:
            yield sink
            await sink.flush()
        except BaseException:
            with contextlib.suppress(StoreUnavailable):  # else it is an orphan, found later
                await self.delete(id)
            raise

    async def read(
        self, id: str, *, start: int = 0, size: int | None = None
    ) -> AsyncIterator[bytes]:
        """As `Blobs.read`."""
        at, skip = divmod(start, CHUNK_BYTES)
        left = size
        while left is None or left > 0:
            query = select(file_chunks.c.data).where(
                file_chunks.c.file == id, file_chunks.c.at == at
            )
            data = await self._database.read(lambda c, q=query: c.scalar(q))
            if data is None:
                return
            piece = bytes(data)[skip:] if left is None else bytes(data)[skip : skip + left]
            left = None if left is None else left - len(piece)
            yield piece
            at, skip = at + 1, 0

    async def delete(self, id: str) -> None:
        """As `Blobs.delete`."""
        gone = delete(file_chunks).where(file_chunks.c.file == id)
        await self._database.write(lambda c: c.execute(gone))

    async def old(self, *, age_s: float) -> list[str]:
        """As `Blobs.old`."""
        query = (
            select(file_chunks.c.file)
            .where(file_chunks.c.created_s < self._database.now_s - int(age_s))
            .where(file_chunks.c.at == 0)
        )

        async def work(connection: AsyncConnection) -> list[str]:
            return list(await connection.scalars(query))

        return await self._database.read(work)


class _ChunkSink:
    def __init__(self, database: Database, id: str) -> None:
        self._database = database
        self._id = id
        self._at = 0
        self._buffer = bytearray()

    async def write(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= CHUNK_BYTES:
            await self._insert(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]

    async def flush(self) -> None:
        if self._buffer or not self._at:
            await self._insert(bytes(self._buffer))

    async def _insert(self, data: bytes) -> None:
        row = insert(file_chunks).values(
            file=self._id, at=self._at, created_s=self._database.now_s, data=data
        )
        await self._database.write(lambda c: c.execute(row))
        self._at += 1
