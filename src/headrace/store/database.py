"""A URL → a database whose schema is current; transactions that collide are tried again.

`sqlite:///PATH` or `postgresql://USER@HOST/NAME`. Invariants: a write transaction on SQLite holds
the write lock from its first statement (BEGIN IMMEDIATE), so it never fails half-way for having
read before; on PostgreSQL a deadlock or serialization failure is tried again; whoever asks for a
transaction gives a function of the connection that may run more than once.
"""

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event, literal_column, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.util import await_only

from headrace.errors import ConfigError, StoreUnavailable
from headrace.store.migrate import upgrade

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]
SLOW_S = 30.0
PROMPT_S = 5.0
"""Patience of what a request waits for, or money."""
_OUTAGES = (PoolTimeout, OSError)
_ATTEMPTS = 8
_WAIT_S = 30.0
"""SQLite: for a lock that somebody else has."""
_LOG_PAUSES_S = (0.05, 0.2, 0.5, 1.0)
_AGAIN = ("40001", "40P01")
"""PostgreSQL's serialization_failure and deadlock_detected."""
_PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",  # what was deleted is overwritten
    "cache_size=-512",  # KiB a connection; most of what is written lies at the tables' ends
)


class Database:
    """Open one with `Database.open`; `close` it in the end."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.postgres = engine.dialect.name == "postgresql"
        self._driver_errors: tuple[type[Exception], ...] = ()
        """What asyncpg itself raises where it is used beside SQLAlchemy."""
        if self.postgres:
            import asyncpg  # here: a gateway on SQLite has 4 MB less to carry

            self._driver_errors = (asyncpg.PostgresError, asyncpg.InterfaceError)
        # SQLite has one writer: waiting here costs nothing, waiting there polls.
        self._writing = asyncio.Lock() if not self.postgres else None

    @classmethod
    async def open(cls, url: str, *, pool_size: int = 4) -> "Database":
        """Connect, and bring the schema to this version's.

        Raises:
            ConfigError: A URL that is not one, or of another database.
            StoreUnavailable: Nobody answers there.
        """
        engine = _engine(parse_url(url), pool_size)
        database = cls(engine)
        try:
            await database.write(lambda c: c.run_sync(upgrade), patience_s=None)
        except BaseException:
            await engine.dispose()
            raise
        return database

    async def close(self) -> None:
        await self.engine.dispose()

    @property
    def now_s(self) -> ColumnElement[int]:
        """The server's clock in SQL: replicas' own may differ."""
        if self.postgres:
            return literal_column("CAST(extract(epoch FROM clock_timestamp()) AS BIGINT)")
        return literal_column("CAST(strftime('%s', 'now') AS INTEGER)")

    async def read(self, work: Work[T], *, patience_s: float | None = SLOW_S) -> T:
        """The result of a function that only reads.

        Args:
            work: May run twice.
            patience_s: So long the database may take; None = for ever.

        Raises: StoreUnavailable.
        """
        return await self._attempts(work, patience_s, writes=False)

    async def write(self, work: Work[T], *, patience_s: float | None = SLOW_S) -> T:
        """The result of a function whose changes are committed, all or none.

        Args:
            work: May run more than once.
            patience_s: So long the database may take for one run of it; None = for ever.

        Raises:
            StoreUnavailable: The database cannot be reached. Whether the changes are there is then
                unknown: callers write what may be written twice.
        """
        if self._writing is not None:
            async with self._writing:
                return await self._attempts(work, patience_s, writes=True)
        return await self._attempts(work, patience_s, writes=True)

    async def scrub(self, *tables: str) -> bool:
        """Remove what deleted rows left behind in the files; true where nothing is left.

        SQLite: the database is rewritten whole and its log emptied, for overwriting what is deleted
        (`secure_delete`) misses copies that the tree made when it grew. False where somebody else
        reads from the log just now. PostgreSQL: the tables' dead row versions are vacuumed; old
        copies in its own log and backups are its operator's.

        Raises: StoreUnavailable.
        """
        try:
            if self._writing is None:
                async with self.engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    for table in tables:
                        await connection.execute(text(f'VACUUM "{table}"'))
                return True
            async with self._writing, self.engine.connect() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                await raw.execute("VACUUM")
                for pause_s in _LOG_PAUSES_S:
                    cursor = await raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    busy, _, _ = await cursor.fetchone()
                    await cursor.close()
                    if not busy:
                        return True
                    await asyncio.sleep(pause_s)
                return False
        except (DBAPIError, PoolTimeout, OSError, sqlite3.Error) as error:
            raise _unavailable(error) from error

    async def _attempts(self, work: Work[T], patience_s: float | None, *, writes: bool) -> T:
        reconnected = False
        for attempt in range(_ATTEMPTS):
            run = _Run()
            try:
                return await self._once(work, run, patience_s, writes=writes)
            except (DBAPIError, *self._driver_errors, *_OUTAGES) as error:
                code = getattr(getattr(error, "orig", error), "sqlstate", None)
                if code in _AGAIN and attempt < _ATTEMPTS - 1:
                    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
                elif code not in _AGAIN and not self._is_outage(error):
                    raise
                elif run.lost and not reconnected and not run.impatient:
                    # A kept connection had died with the server it was to; nothing was committed.
                    reconnected = True
                else:
                    raise _unavailable(error) from error
        raise AssertionError("the loop returns or raises")

    async def _once(
        self, work: Work[T], run: "_Run", patience_s: float | None, *, writes: bool
    ) -> T:
        try:
            async with self.engine.connect() as connection:
                if self.postgres and patience_s is not None:
                    raw: Any = await connection.get_raw_connection()
                    run.watch(raw.driver_connection, patience_s)
                run.lost = True
                if not writes:
                    return await work(connection)
                await connection.execution_options(writes=True)
                async with connection.begin():
                    result = await work(connection)
                    run.lost = False  # from here on it may be committed
                return result
        finally:
            run.end()

    def _is_outage(self, error: Exception) -> bool:
        if isinstance(error, (*_OUTAGES, InterfaceError, OperationalError)):
            return True
        if isinstance(error, self._driver_errors[1:]):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        state = str(getattr(getattr(error, "orig", error), "sqlstate", "") or "")
        return state[:2] in ("08", "53", "57")  # connection, resources, operator intervention


class _Run:
    """One try of a transaction."""

    def __init__(self) -> None:
        self.lost = False
        """Whether, where it fails now, nothing of it was committed."""
        self.impatient = False
        """Whether it took too long, so that its connection was cut."""
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: "asyncpg.Connection", patience_s: float) -> None:
        """Cut the connection when the time is over: a server that is gone without a word answers
        no request to cancel either."""

        def cut() -> None:
            self.impatient = True
            connection.terminate()

        self._timer = asyncio.get_running_loop().call_later(patience_s, cut)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def parse_url(url: str) -> URL:
    """A URL with its asynchronous driver.

    Raises: ConfigError.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"store.url = {url!r} is not a database URL") from error
    match parsed.get_backend_name():
        case "sqlite":
            return parsed.set(drivername="sqlite+aiosqlite")
        case "postgresql":
            return parsed.set(drivername="postgresql+asyncpg")
        case other:
            raise ConfigError(
                f"store.url: {other!r} is not supported; write sqlite:///PATH or "
                "postgresql://USER@HOST/NAME"
            )


def _engine(url: URL, pool_size: int) -> AsyncEngine:
    if url.get_backend_name() == "postgresql":
        return create_async_engine(
            url, pool_size=pool_size, max_overflow=0, pool_timeout=5, connect_args={"timeout": 5}
        )
    if url.database in (None, "", ":memory:"):
        raise ConfigError("store.url: SQLite needs a file: sqlite:///PATH")
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the database {path}: {error.strerror}; set store.url, or paths.state_dir "
            "to a directory you may write"
        ) from error
    engine = create_async_engine(
        url, pool_size=pool_size, max_overflow=0, connect_args={"timeout": _WAIT_S}
    )

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late: at a write
        cursor = connection.cursor()
        _switch_to_wal(cursor)
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Any) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begun)
    return engine


def _switch_to_wal(cursor: Any) -> None:
    """Make a database's log the write-ahead one; in all but a new one it is already.

    Of two that do so at once one is refused, and at once: SQLite does not wait where a reader wants
    to become the writer. It has changed nothing, so it asks again for as long as others wait.
    """
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says why
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        await_only(asyncio.sleep(random.uniform(0.005, 0.03)))


def _unavailable(error: BaseException) -> StoreUnavailable:
    cause = getattr(error, "orig", None) or error
    return StoreUnavailable(f"the database does not answer: {str(cause).strip()[:200]}")


async def bump(connection: AsyncConnection) -> None:
    """Say to every replica's cache that keys, limits or prices have changed."""
    await connection.execute(text("UPDATE meta SET value = value + 1 WHERE name = 'revision'"))
