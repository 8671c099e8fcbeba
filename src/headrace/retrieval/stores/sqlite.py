"""An index in one directory, on SQLite alone: the default.

The record is one database file in WAL mode: documents, chunks, the words they are found by,
vectors; a put or a removal is one transaction. What queries need is read into memory once and kept
up with the record (`view`). One thread writes, and commits together what waits for it; a few read,
each call in one hop. Other processes may do the same on the same directory at the same time.
"""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from headrace.errors import ConfigError, StoreUnavailable
from headrace.retrieval.contracts import DocumentRow, Entry, Found, Generation, Marks, Scope
from headrace.retrieval.stores import filters, reading, schema, searching, upkeep, writing
from headrace.retrieval.stores.searching import Moment
from headrace.retrieval.stores.vectors import Matrix, make_lists, wants_lists
from headrace.retrieval.stores.view import View
from headrace.retrieval.stores.writer import Writer
from headrace.types import Chunk, SourceDocument

T = TypeVar("T")
_MANY = 256
"""Documents that are worth a thread's hop before they are written."""


class SqliteStore:
    """Open one with `SqliteStore.open`; `close` it in the end."""

    def __init__(self, directory: Path, *, synchronous: str, threads: int) -> None:
        self._directory = directory
        self._view = View()
        self._following = threading.Lock()
        self._writer = Writer(directory, synchronous)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="index")
        self._arranger = ThreadPoolExecutor(1, thread_name_prefix="index-lists")
        self._arranging: Future[None] | None = None
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._name = ""

    @classmethod
    async def open(
        cls, directory: Path, *, synchronous: str = "full", threads: int = 2
    ) -> "SqliteStore":
        """The index in a directory, made where there is none.

        Args:
            directory: Its own; nothing else may lie there.
            synchronous: `full` = a commit is on the disk when `put` returns; `normal` = the last
                few may be lost when the machine (not the process) dies.
            threads: That read.

        Raises:
            ConfigError: The directory cannot be written, or has another version's index.
            StoreUnavailable: The database does not answer.
        """
        if synchronous not in schema.SYNCHRONOUS:
            raise ConfigError(f"synchronous = {synchronous!r} is none of {schema.SYNCHRONOUS}")
        await asyncio.to_thread(schema.create, directory)
        store = cls(directory, synchronous=synchronous, threads=threads)
        try:
            store._name = await store._read(_name_of)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)
        self._threads.shutdown(wait=True)
        self._arranger.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    # --- changes ----------------------------------------------------------------------------------

    async def put(self, entries: Sequence[Entry]) -> str:
        prepared = None
        if len(entries) >= _MANY:  # beside what is written meanwhile
            prepared = await self._thread(lambda: writing.prepare(entries))

        def prepare() -> Callable[[sqlite3.Connection], int]:
            ready = writing.prepare(entries) if prepared is None else prepared
            return lambda connection: writing.put(connection, ready)

        return self._snapshot(await self._writer.run(prepare))

    async def remove(self, documents: Sequence[str]) -> str:
        return self._snapshot(await self._write(lambda c: writing.remove(c, documents)))

    async def mark(self, marks: Mapping[str, Marks]) -> str:
        return self._snapshot(await self._write(lambda c: writing.mark(c, marks)))

    async def begin(self, generation: Generation) -> None:
        await self._write(lambda c: writing.begin(c, generation))

    async def fill(self, generation: int, vectors: Mapping[str, bytes]) -> int:
        return await self._write(lambda c: writing.fill(c, generation, vectors))

    async def activate(self, number: int) -> None:
        await self._write(lambda c: writing.activate(c, number))

    async def drop(self, number: int) -> None:
        await self._write(lambda c: writing.drop(c, number))

    async def purge(self) -> None:
        await self._writer.alone(upkeep.purge)

    # --- questions --------------------------------------------------------------------------------

    async def keyword(self, query: str, k: int, scope: Scope) -> Found:
        searching.check_k(k)
        return await self._ask(scope, None, lambda m: searching.keyword(m, query, k))

    async def nearest(self, generation: int, vector: bytes, k: int, scope: Scope) -> Found:
        searching.check_k(k)
        return await self._ask(scope, generation, lambda m: searching.nearest(m, vector, k))

    async def candidates(
        self, generation: int, query: str, vector: bytes, k: int, scope: Scope
    ) -> Found:
        searching.check_k(k)
        return await self._ask(
            scope, generation, lambda m: searching.candidates(m, query, vector, k)
        )

    async def document(self, id: str, scope: Scope) -> SourceDocument | None:
        filters.check(scope.filter)
        return await self._read(lambda c: reading.document(c, id, scope))

    async def documents(self, scope: Scope) -> AsyncIterator[DocumentRow]:
        filters.check(scope.filter)
        after = ""
        while True:
            page = await self._read(lambda c, after=after: reading.documents(c, after, scope))
            for row in page.rows:
                yield row
            if page.last is None:
                return
            after = page.last

    async def neighbours(
        self, document: str, first: int, last: int, scope: Scope
    ) -> Sequence[Chunk]:
        filters.check(scope.filter)
        return await self._read(lambda c: reading.neighbours(c, document, first, last, scope))

    async def vectors_of(self, generation: int, sha256: Sequence[str]) -> Mapping[str, bytes]:
        return await self._read(lambda c: reading.vectors_of(c, generation, sha256))

    async def missing(self, generation: int, limit: int) -> Mapping[str, str]:
        return await self._read(lambda c: reading.missing(c, generation, limit))

    async def generations(self) -> Sequence[Generation]:
        return await self._read(reading.generations)

    async def active(self) -> Generation:
        return await self._read(reading.active)

    async def snapshot(self) -> str:
        return self._snapshot(await self._read(lambda c: schema.meta(c, "seq")[0]))

    async def warm(self, generation: int) -> None:
        """Read what queries need, and arrange its vectors; a query that comes first does so too,
        but leaves the arranging to be done beside it."""

        def work(connection: sqlite3.Connection) -> None:
            with self._following:
                self._view.follow(connection)
                self._view.sight(connection, Scope(principals=None))
                matrix = self._view.matrix(connection, generation)
            if wants_lists(matrix):
                self._arrange(matrix)

        await self._read(work)

    async def check(self) -> Sequence[str]:
        return await self._read(upkeep.check)

    # --- threads ----------------------------------------------------------------------------------

    def _snapshot(self, seq: int) -> str:
        return f"{self._name}-{seq}"

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._writer.run(lambda: work)

    async def _ask(
        self, scope: Scope, generation: int | None, search: Callable[[Moment], Found]
    ) -> Found:
        filters.check(scope.filter)

        def work(connection: sqlite3.Connection) -> Found:
            # The transaction begins where nobody else brings the view further than it sees.
            with self._following:
                state = self._view.follow(connection)
                moment = Moment(
                    connection=connection,
                    state=state,
                    sight=self._view.sight(connection, scope),
                    matrix=None
                    if generation is None
                    else self._view.matrix(connection, generation),
                    snapshot=self._snapshot(state.seq),
                )
            if moment.matrix is not None and wants_lists(moment.matrix):
                self._arrange_later(moment.matrix)
            return search(moment)

        return await self._read(work)

    def _arrange_later(self, matrix: Matrix) -> None:
        with self._following:
            if self._arranging is None or self._arranging.done():
                self._arranging = self._arranger.submit(self._arrange, matrix)

    def _arrange(self, matrix: Matrix) -> None:
        lists = make_lists(matrix)
        with self._following:
            self._view.adopt(matrix, lists)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of work in a transaction that only reads, on a thread of its own."""

        def run() -> T:
            try:
                connection = self._connection()
                connection.execute("BEGIN")
                try:
                    return work(connection)
                finally:
                    connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise schema.unavailable(self._directory, error) from error

        return await self._thread(run)

    async def _thread(self, work: Callable[[], T]) -> T:
        try:
            job = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as error:
            raise StoreUnavailable(f"the index in {self._directory} is closed") from error
        return await job

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = schema.connect(self._directory, readonly=True)
            self._connections.append(connection)
            self._local.connection = connection
        return connection


def _name_of(connection: sqlite3.Connection) -> str:
    (name,) = connection.execute("SELECT value FROM meta WHERE name = 'name'").fetchone()
    return name
