"""All indexes of an installation in one PostgreSQL: every replica has the same, and nobody a file.

Their records, what could not be read, plans of migrations and how fresh sources are lie in the
schema `headrace_indexes`; each index is a schema of its own beside it (`schema`). What a replica
keeps on its disk, the status table of the sources it syncs, is a memo: without it a sync reads
again, and embeds nothing again.
"""

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.errors import InvalidParameter, StoreUnavailable
from headrace.retrieval.contracts import IndexStore
from headrace.retrieval.homes.contracts import Beside, busy
from headrace.retrieval.shelving import Place, check_name, is_name, missing, taken
from headrace.retrieval.stores.postgres import connections, schema
from headrace.retrieval.stores.postgres.connections import Connections
from headrace.retrieval.stores.postgres.store import PostgresStore
from headrace.retrieval.sync.freshness import SourceStanding
from headrace.types import DocumentState, DocumentStatus, IndexOwner, IndexSpec

if TYPE_CHECKING:
    from asyncpg import Connection

NAMESPACE = "headrace_indexes"
MIGRATIONS = (
    """
    CREATE TABLE indexes (
      uid text PRIMARY KEY,
      org text NOT NULL,
      team text NOT NULL,
      name text NOT NULL,
      created_s bigint NOT NULL,
      spec text NOT NULL,
      UNIQUE (org, team, name)
    );
    CREATE TABLE refused (
      uid text REFERENCES indexes ON DELETE CASCADE,
      id text COLLATE "C",
      source text NOT NULL,
      reason text NOT NULL,
      detail text NOT NULL,
      PRIMARY KEY (uid, id)
    );
    CREATE TABLE plans (
      uid text PRIMARY KEY REFERENCES indexes ON DELETE CASCADE,
      plan bytea NOT NULL
    );
    CREATE TABLE sources (
      uid text REFERENCES indexes ON DELETE CASCADE,
      source text,
      standing text NOT NULL,
      PRIMARY KEY (uid, source)
    );
    """,
)
_COLUMNS = "uid, org, team, name, created_s, spec"


def namespace_of(uid: str) -> str:
    """The schema of an index."""
    return f"headrace_index_{uid}"


class OnPostgres:
    """A `Home`. Connects when it is first asked; of one event loop."""

    purges_at_once = False

    def __init__(
        self, url: str, directory: Path, *, connections: int = 4, patience_s: float = 30.0
    ) -> None:
        """
        Args:
            url: `postgresql://USER@HOST/NAME`; the database has pgvector.
            directory: Of this machine, for the status tables of the sources it syncs.
            connections: At most, to each index and to their records; idle ones are closed.
            patience_s: So long a query may take, or wait for a connection.
        """
        scheme, _, rest = url.partition("://")
        self._url = f"{scheme.partition('+')[0]}://{rest}"
        self._directory = directory
        self._size = connections
        self._patience_s = patience_s
        self._records: Connections | None = None
        self._opening = asyncio.Lock()

    async def find(self, name: str, owner: IndexOwner) -> Place | None:
        """As `Home.find`."""
        if not is_name(name):
            return None
        where = "WHERE org = $1 AND team = $2 AND name = $3"
        return next(iter(await self._places(where, *owner, name)), None)

    async def all(self) -> Sequence[Place]:
        """As `Home.all`."""
        return await self._places("ORDER BY org, team, name")

    async def create(self, spec: IndexSpec) -> Place:
        """As `Home.create`."""
        check_name(spec.name)
        for field, value in (("org", spec.owner.org), ("team", spec.owner.team)):
            if "\0" in value:
                raise InvalidParameter(f"`{field}` has a NUL", param=field)
        uid, now_s = secrets.token_hex(8), int(time.time())

        async def work(connection: "Connection") -> bool:
            await connection.execute(
                f"INSERT INTO indexes ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6) "
                "ON CONFLICT (org, team, name) DO NOTHING",
                *(uid, *spec.owner, spec.name, now_s, msgspec.json.encode(spec).decode()),
            )
            # Not the count of rows: a commit whose answer was lost is tried again.
            return bool(await connection.fetchval("SELECT 1 FROM indexes WHERE uid = $1", uid))

        if not await (await self._connected()).write(work):
            raise taken(spec.name)
        return Place(path=self._directory / uid, spec=spec, uid=uid, created_s=now_s)

    async def delete(self, place: Place) -> None:
        """As `Home.delete`; its tables' files are gone when this returns."""

        async def work(connection: "Connection") -> str:
            gone = await connection.execute("DELETE FROM indexes WHERE uid = $1", place.uid)
            await connection.execute(f"DROP SCHEMA IF EXISTS {namespace_of(place.uid)} CASCADE")
            return gone

        if await (await self._connected()).write(work) != "DELETE 1":
            raise missing(place.spec.name)
        await asyncio.to_thread(shutil.rmtree, place.path, ignore_errors=True)

    async def store(self, place: Place) -> IndexStore:
        """As `Home.store`."""
        return await PostgresStore.open(
            self._url,
            namespace_of(place.uid),
            pool_size=self._size,
            patience_s=self._patience_s,
        )

    def beside(self, place: Place) -> Beside:
        """As `Home.beside`."""
        return _Rows(self, place.uid)

    @contextlib.asynccontextmanager
    async def alone(self, place: Place, work: str) -> AsyncGenerator[None]:
        """As `Home.alone`. On a connection of its own: where that is lost, so is the lock."""
        async with connections.apart(self._url) as connection:
            key = f"hashtext('{place.uid} ' || $2)"
            held = f"SELECT pg_try_advisory_lock($1, {key})"
            if not await connection.fetchval(held, schema.LOCK, work):
                raise busy(place, work)
            yield

    async def close(self) -> None:
        """Of records; stores are closed by whoever opened them."""
        if self._records is not None:
            await self._records.close()
            self._records = None

    async def check(self) -> None:
        """Connect now. Raises: ConfigError, StoreUnavailable."""
        await self._connected()

    async def read(self, statement: str, *values: object) -> Sequence[Any]:
        """Rows of the records."""
        return await (await self._connected()).read(lambda c: c.fetch(statement, *values))

    async def write(self, statement: str, *values: object) -> None:
        """One statement that may run twice."""
        await (await self._connected()).write(lambda c: c.execute(statement, *values))

    async def write_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """The same for many rows, in one transaction."""
        await (await self._connected()).write(lambda c: c.executemany(statement, rows))

    async def _connected(self) -> Connections:
        async with self._opening:
            if self._records is None:
                self._records = await Connections.open(
                    self._url,
                    NAMESPACE,
                    size=self._size,
                    patience_s=self._patience_s,
                    migrations=MIGRATIONS,
                )
            return self._records

    async def _places(self, where: str, *values: str) -> list[Place]:
        rows = await self.read(f"SELECT {_COLUMNS} FROM indexes {where}", *values)
        return [self._place(row) for row in rows]

    def _place(self, row: Any) -> Place:
        try:
            spec = msgspec.json.decode(row["spec"], type=IndexSpec)
        except msgspec.DecodeError as error:
            raise StoreUnavailable(
                f"the record of index {row['name']!r} is not one of this headrace: {error}"
            ) from error
        return Place(
            path=self._directory / row["uid"],
            spec=spec,
            uid=row["uid"],
            created_s=row["created_s"],
        )


class _Rows:
    """Beside an index, in the same database."""

    def __init__(self, home: OnPostgres, uid: str) -> None:
        self._home = home
        self._uid = uid

    async def refuse(self, refused: Iterable[DocumentStatus], read: Iterable[str]) -> None:
        rows = [
            (self._uid, item.id, item.source, item.reason, _clean(item.detail)) for item in refused
        ]
        if rows:
            await self._home.write_many(
                "INSERT INTO refused VALUES ($1, $2, $3, $4, $5) ON CONFLICT (uid, id) DO UPDATE "
                "SET source = excluded.source, reason = excluded.reason, detail = excluded.detail",
                rows,
            )
        ids = list(read)
        if ids:
            await self._home.write(
                "DELETE FROM refused WHERE uid = $1 AND id = ANY($2::text[])", self._uid, ids
            )

    async def refused(self, id: str) -> DocumentStatus | None:
        rows = await self._home.read(
            "SELECT * FROM refused WHERE uid = $1 AND id = $2", self._uid, id
        )
        return next((_status(row) for row in rows), None)

    async def all_refused(self, *, after: str = "", limit: int) -> Sequence[DocumentStatus]:
        rows = await self._home.read(
            "SELECT * FROM refused WHERE uid = $1 AND id > $2 ORDER BY id LIMIT $3",
            *(self._uid, after, limit),
        )
        return [_status(row) for row in rows]

    async def count_refused(self) -> int:
        [row] = await self._home.read("SELECT count(*) FROM refused WHERE uid = $1", self._uid)
        return row[0]

    async def plan(self) -> bytes | None:
        rows = await self._home.read("SELECT plan FROM plans WHERE uid = $1", self._uid)
        return next((row[0] for row in rows), None)

    async def set_plan(self, plan: bytes | None) -> None:
        if plan is None:
            await self._home.write("DELETE FROM plans WHERE uid = $1", self._uid)
            return
        await self._home.write(
            "INSERT INTO plans VALUES ($1, $2) ON CONFLICT (uid) DO UPDATE SET plan = $2",
            *(self._uid, plan),
        )

    async def synced(self, standing: SourceStanding) -> None:
        await self._home.write(
            "INSERT INTO sources VALUES ($1, $2, $3) "
            "ON CONFLICT (uid, source) DO UPDATE SET standing = $3",
            *(self._uid, standing.source, _clean(msgspec.json.encode(standing).decode())),
        )

    async def sources(self) -> Mapping[str, SourceStanding]:
        rows = await self._home.read(
            "SELECT source, standing FROM sources WHERE uid = $1", self._uid
        )
        return {
            row["source"]: msgspec.json.decode(row["standing"], type=SourceStanding) for row in rows
        }


def _clean(said: str) -> str:
    return said.replace("\0", "")


def _status(row: Any) -> DocumentStatus:
    return DocumentStatus(
        id=row["id"],
        source=row["source"],
        reason=row["reason"],
        detail=row["detail"],
        state=DocumentState.FAILED,
    )
