"""One thread that writes; whoever waits for it at the same time is committed together.

Each piece of work is a savepoint of its own: one that fails leaves the others as they are. None is
told that it is done before all of them are on the disk.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from headrace.errors import HeadraceError, StoreUnavailable
from headrace.retrieval.stores.schema import connect, unavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_TOGETHER = 64
_CHANGES = 4096
"""So many rows are changed between two rounds of moving the log into the file: some 8 MB."""


class _Job:
    """Work that waits, and who waits for it."""

    __slots__ = ("alone", "future", "prepare", "work")

    def __init__(self, prepare: Callable[[], Work[Any]], *, alone: bool) -> None:
        self.prepare = prepare
        self.alone = alone
        self.future: Future[Any] = Future()
        self.work: Work[Any] | None = None


class Writer:
    """Starts with its first work; `close` it in the end."""

    def __init__(self, directory: Path, synchronous: str) -> None:
        self._directory = directory
        self._synchronous = synchronous
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, prepare: Callable[[], Work[T]]) -> T:
        """The result of work whose changes are on the disk.

        Args:
            prepare: Called before the transaction begins; what it returns is called inside.

        Raises: StoreUnavailable, and what either raises; nothing of it was changed then.
        """
        return await self._submit(_Job(prepare, alone=False))

    async def alone(self, work: Work[T]) -> T:
        """The result of work that minds its transactions itself."""
        return await self._submit(_Job(lambda: work, alone=True))

    def close(self) -> None:
        """When all that waits is done."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    async def _submit(self, job: _Job) -> Any:
        if self._closed:
            raise StoreUnavailable(f"the index in {self._directory} is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="index-writer", daemon=True)
            self._thread.start()
        self._jobs.put(job)
        return await asyncio.wrap_future(job.future)

    def _loop(self) -> None:
        connection: sqlite3.Connection | None = None
        log = _Log(self._directory)
        while (job := self._jobs.get()) is not None:
            jobs, ending = [job], False
            with contextlib.suppress(queue.Empty):
                while len(jobs) < _TOGETHER and not jobs[-1].alone:
                    following = self._jobs.get_nowait()
                    if following is None:
                        ending = True
                        break
                    jobs.append(following)
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            try:
                connection = connection or connect(self._directory, synchronous=self._synchronous)
                _run(connection, jobs, self._directory)
                log.wrote(connection)
            except BaseException as error:  # noqa: BLE001 - whoever waits is told
                for job in jobs:
                    if not job.future.done():
                        job.future.set_exception(_told(error, self._directory))
            if ending:
                break
        log.close()
        if connection is not None:
            connection.close()


class _Log:
    """Moves what was committed from the log into the file, beside the writer.

    A commit is durable once it is in the log, so nobody need wait for that. Who writes faster than
    the disk takes it does the moving itself, so that the log stays as large as a few commits.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index-log")
        self._connection: sqlite3.Connection | None = None
        self._moving: Future[None] | None = None
        self._moved = 0

    def wrote(self, connection: sqlite3.Connection) -> None:
        """Called by the writer between its transactions."""
        if connection.total_changes - self._moved < _CHANGES:
            return
        self._moved = connection.total_changes
        if self._moving is None or self._moving.done():
            self._moving = self._thread.submit(self._move)
            return
        self._moving.exception()
        _checkpoint(connection)

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()

    def _move(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # then the writer's next round does it
            self._connection = self._connection or connect(self._directory)
            _checkpoint(self._connection)


def _checkpoint(connection: sqlite3.Connection) -> None:
    # What cannot be moved, as on a full disk, stays in the log and is read from there.
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _run(connection: sqlite3.Connection, jobs: list[_Job], directory: Path) -> None:
    together: list[_Job] = []
    for job in jobs:
        try:
            job.work = job.prepare()
            if job.alone:
                continue
            together.append(job)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            job.future.set_exception(error)
    if together:
        _commit(connection, together, directory)
    for job in jobs:
        if job.alone and job.work is not None:
            job.future.set_result(job.work(connection))


def _commit(connection: sqlite3.Connection, jobs: list[_Job], directory: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    done: list[tuple[_Job, Any]] = []
    try:
        for job in jobs:
            assert job.work is not None
            connection.execute("SAVEPOINT work")
            try:
                result = job.work(connection)
            except Exception as error:
                if not connection.in_transaction:  # a full disk ends the whole transaction
                    raise
                connection.execute("ROLLBACK TO work")
                connection.execute("RELEASE work")
                job.future.set_exception(_told(error, directory))
                continue
            connection.execute("RELEASE work")
            done.append((job, result))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    for job, result in done:
        job.future.set_result(result)


def _told(error: BaseException, directory: Path) -> BaseException:
    if isinstance(error, sqlite3.Error) and not isinstance(error, HeadraceError):
        return unavailable(directory, error)
    return error
