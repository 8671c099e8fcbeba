"""A pool of connections, and transactions on it that are tried again where that is safe."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.errors import ConfigError, NotFound, StoreUnavailable
from headrace.retrieval.stores.postgres import codecs, schema

if TYPE_CHECKING:
    from asyncpg import Connection

T = TypeVar("T")
Work = Callable[["Connection"], Awaitable[T]]
_ATTEMPTS = 8
_AGAIN = ("40001", "40P01", "23505")
"""Serialization, deadlock; and a key that another writer made in the same moment."""
_GONE = ("42P01", "3F000")
"""No such table, no such schema."""
_SETTINGS = {
    "application_name": "headrace",
    "jit": "off",  # compiling takes longer than any of these statements
    "plan_cache_mode": "force_custom_plan",  # plans depend on what is asked
}


class Connections:
    """To one index. Of one event loop."""

    def __init__(self, pool: Any, patience_s: float) -> None:
        self._pool = pool
        self._patience_s = patience_s

    @classmethod
    async def open(
        cls,
        url: str,
        namespace: str,
        *,
        size: int,
        patience_s: float,
        migrations: Sequence[str] = schema.MIGRATIONS,
    ) -> "Connections":
        """Connect, with the tables made where they are not there yet: an index's, or others.

        Raises:
            ConfigError: No such database, or one that cannot keep an index.
            StoreUnavailable: Nobody answers.
        """
        import asyncpg

        schema.check_namespace(namespace)
        with _told():
            first = await _connect(url)
            try:
                async with first.transaction():
                    extension = await schema.prepare(first, namespace, migrations)
            finally:
                await first.close()

            async def taught(connection: "Connection") -> None:
                await codecs.register(connection, extension)

            settings = {**_SETTINGS, "search_path": f"{namespace}, {extension}"}
            pool = await asyncpg.create_pool(
                url, min_size=0, max_size=size, timeout=10, init=taught, server_settings=settings
            )
        return cls(pool, patience_s)

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), 10)
        except TimeoutError:
            self._pool.terminate()

    async def read(self, work: Work[T]) -> T:
        """The result of a function that reads, all of it in one snapshot. It may run twice.

        Raises: StoreUnavailable.
        """
        return await self._attempts(work, isolation="repeatable_read", readonly=True)

    async def write(self, work: Work[T]) -> T:
        """The result of a function whose changes are committed, all or none.

        Args:
            work: Written so that having run twice is having run once: a connection that is lost in
                the moment of the commit does not say whether it was.

        Raises: StoreUnavailable.
        """
        return await self._attempts(work, isolation="read_committed", readonly=False)

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator["Connection"]:
        """A connection outside a transaction, for what cannot be in one.

        Raises: StoreUnavailable.
        """
        with _told():
            async with self._pool.acquire(timeout=self._patience_s) as connection:
                yield connection

    async def _attempts(self, work: Work[T], *, isolation: str, readonly: bool) -> T:
        import asyncpg

        for attempt in range(_ATTEMPTS):
            try:
                return await self._once(work, isolation, readonly)
            except asyncpg.PostgresError as error:
                again = _state(error) in _AGAIN or (attempt == 0 and _outage(error))
                if not again or attempt == _ATTEMPTS - 1:
                    raise _translated(error) from error
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
            except (OSError, asyncpg.InterfaceError) as error:
                if attempt or isinstance(error, TimeoutError):
                    raise _translated(error) from error
        raise AssertionError("the loop returns or raises")

    async def _once(self, work: Work[T], isolation: str, readonly: bool) -> T:
        async with (
            self._pool.acquire(timeout=self._patience_s) as connection,
            asyncio.timeout(self._patience_s if readonly else None),
            connection.transaction(isolation=isolation, readonly=readonly),
        ):
            return await work(connection)


@asynccontextmanager
async def apart(url: str) -> AsyncGenerator["Connection"]:
    """A connection of no pool, for what is held long.

    Raises: ConfigError, StoreUnavailable.
    """
    with _told():
        connection = await _connect(url)
        try:
            yield connection
        finally:
            try:
                await connection.close(timeout=5)
            except (OSError, TimeoutError):  # it is lost already
                connection.terminate()


async def _connect(url: str) -> "Connection":
    import asyncpg

    try:
        return await asyncpg.connect(url, timeout=10, server_settings=_SETTINGS)
    except ValueError as error:
        raise ConfigError(f"{shown(url)!r} is not the URL of a PostgreSQL: {error}") from error


def shown(url: str) -> str:
    """Without its password."""
    return re.sub(r"(?<=://)([^:/@]*):[^@]*@", r"\1:…@", url)


def _state(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", "") or "")


def _outage(error: BaseException) -> bool:
    return _state(error)[:2] in ("08", "53", "57")  # connection, resources, operator intervention


def _translated(error: BaseException) -> BaseException:
    """What an error of the driver is to whoever asked; a mistake of ours stays as it is."""
    import asyncpg

    if isinstance(error, (OSError, asyncpg.InterfaceError)) or _outage(error):
        said = str(error).strip() or type(error).__name__
        return StoreUnavailable(f"the index's database does not answer: {said[:200]}")
    if _state(error) in _GONE:
        return NotFound("the index, or the generation of it that was asked, was deleted meanwhile")
    return error


class _told:
    """Errors of the driver inside become ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        import asyncpg

        if isinstance(
            error, asyncpg.InvalidCatalogNameError | asyncpg.InvalidAuthorizationSpecificationError
        ):
            raise ConfigError(f"the index's database: {error}") from error
        if error is not None and (translated := _translated(error)) is not error:
            raise translated from error
