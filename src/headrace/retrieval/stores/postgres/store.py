"""An index in PostgreSQL: the contract, each call one transaction."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from headrace.errors import InvalidParameter, NotFound
from headrace.retrieval.contracts import (
    DocumentRow,
    Entry,
    Found,
    Generation,
    Marks,
    Scope,
)
from headrace.retrieval.stores.postgres import (
    generations,
    rows,
    searching,
    single,
    upkeep,
    writing,
)
from headrace.retrieval.stores.postgres.connections import Connections
from headrace.retrieval.stores.postgres.schema import vectors_table
from headrace.retrieval.stores.postgres.scope import Parameters, see
from headrace.types import Chunk, SourceDocument

if TYPE_CHECKING:
    from asyncpg import Connection

EXACT_BELOW = 10_000
_PAGE = 500


class PostgresStore:
    """Open one with `PostgresStore.open`; `close` it in the end. Of one event loop."""

    def __init__(self, connections: Connections, *, exact_below: int, build_memory_mb: int) -> None:
        self._connections = connections
        self._exact_below = exact_below
        self._build_memory_mb = build_memory_mb
        self._with_graph: set[int] = set()
        """Generations that are known to have their graph."""
        self._born = ""

    @classmethod
    async def open(
        cls,
        url: str,
        namespace: str,
        *,
        pool_size: int = 4,
        patience_s: float = 30.0,
        exact_below: int = EXACT_BELOW,
        build_memory_mb: int = 256,
    ) -> "PostgresStore":
        """The index in one schema of a database, made where there is none.

        Args:
            namespace: The schema; nothing else may lie there.
            pool_size: Connections at most.
            patience_s: So long a query may take, or wait for a connection.
            exact_below: Scopes of no more chunks are searched one by one; an index of more gets an
                HNSW graph.
            build_memory_mb: For building that graph; one that does not fit is built more slowly.

        Raises:
            ConfigError: The database has no pgvector 0.8, or a newer version's index.
            StoreUnavailable: Nobody answers there.
        """
        connections = await Connections.open(url, namespace, size=pool_size, patience_s=patience_s)
        return cls(connections, exact_below=exact_below, build_memory_mb=build_memory_mb)

    async def close(self) -> None:
        await self._connections.close()

    # --- changes ---------------------------------------------------------------------------------

    async def put(self, entries: Sequence[Entry]) -> str:
        prepared = await asyncio.to_thread(lambda: [writing.prepare(entry) for entry in entries])
        revision = await self._connections.write(lambda c: writing.put(c, prepared))
        await self._grow_graph()
        return await self._snapshot_of(revision)

    async def remove(self, documents: Sequence[str]) -> str:
        revision = await self._connections.write(lambda c: writing.remove(c, documents))
        return await self._snapshot_of(revision)

    async def mark(self, marks: Mapping[str, Marks]) -> str:
        revision = await self._connections.write(lambda c: writing.mark(c, marks))
        return await self._snapshot_of(revision)

    # --- questions -------------------------------------------------------------------------------

    async def document(self, id: str, scope: Scope) -> SourceDocument | None:
        async def work(connection: "Connection") -> SourceDocument | None:
            sight = await see(connection, scope)
            parameters = Parameters()
            where = f"d.key = {parameters.add(writing.key_of(id))} AND {sight.where(parameters)}"
            row = await connection.fetchrow(
                f"SELECT {rows.DOCUMENT}, t.text FROM {rows.OF_DOCUMENTS} "
                f"JOIN texts t ON t.document = d.number WHERE {where}",
                *parameters.values,
            )
            return None if row is None else rows.source_document(row)

        return await self._connections.read(work)

    async def documents(self, scope: Scope) -> AsyncIterator[DocumentRow]:
        last: str | None = None
        while True:
            page = await self._connections.read(lambda c, after=last: _page(c, scope, after))
            for row in page:
                yield row
            if len(page) < _PAGE:
                return
            last = page[-1].id

    async def vectors_of(self, generation: int, sha256: Sequence[str]) -> Mapping[str, bytes]:
        async def work(connection: "Connection") -> Mapping[str, bytes]:
            await generations.known(connection, generation)
            found = await connection.fetch(
                "SELECT DISTINCT ON (c.sha256) c.sha256, v.vector FROM chunks c "
                f"JOIN {vectors_table(generation)} v ON v.chunk = c.number "
                "WHERE c.sha256 = ANY($1::bytea[])",
                [bytes.fromhex(one) for one in sha256],
            )
            return {row[0].hex(): row[1] for row in found}

        return await self._connections.read(work)

    async def keyword(self, query: str, k: int, scope: Scope) -> Found:
        searching.check_k(k)
        return await self._connections.read(lambda c: searching.keyword(c, query, k, scope))

    async def nearest(self, generation: int, vector: bytes, k: int, scope: Scope) -> Found:
        searching.check_k(k)
        below = self._exact_below
        return await self._connections.read(
            lambda c: searching.nearest(c, generation, vector, k, scope, exact_below=below)
        )

    async def candidates(
        self, generation: int, query: str, vector: bytes, k: int, scope: Scope
    ) -> Found:
        searching.check_k(k)
        below = self._exact_below
        return await self._connections.read(
            lambda c: searching.candidates(
                c, generation, query, vector, k, scope, exact_below=below
            )
        )

    async def neighbours(
        self, document: str, first: int, last: int, scope: Scope
    ) -> Sequence[Chunk]:
        async def work(connection: "Connection") -> Sequence[Chunk]:
            sight = await see(connection, scope)
            parameters = Parameters()
            where = (
                f"d.key = {parameters.add(writing.key_of(document))} AND c.ordinal BETWEEN "
                f"{parameters.add(max(first, 0))} AND {parameters.add(min(last, 2**31 - 1))} "
                f"AND {sight.where(parameters)}"
            )
            found = await connection.fetch(
                f"SELECT {rows.CHUNK} FROM chunks c JOIN documents d ON d.number = c.document "
                f"WHERE {where} ORDER BY c.ordinal",
                *parameters.values,
            )
            return [rows.chunk_of(document, row) for row in found]

        return await self._connections.read(work)

    # --- generations -----------------------------------------------------------------------------

    async def generations(self) -> Sequence[Generation]:
        return await self._connections.read(generations.listed)

    async def active(self) -> Generation:
        async def work(connection: "Connection") -> Generation:
            row = await connection.fetchrow(
                "SELECT g.* FROM generations g JOIN state s ON s.active = g.number"
            )
            if row is None:
                raise NotFound("the index has no generation yet; begin one")
            return rows.generation_of(row)

        return await self._connections.read(work)

    async def begin(self, generation: Generation) -> None:
        await self._connections.write(lambda c: generations.begin(c, generation))

    async def missing(self, generation: int, limit: int) -> Mapping[str, str]:
        if limit < 1:
            raise InvalidParameter(f"limit = {limit} must be 1 or more", param="limit")
        return await self._connections.read(lambda c: generations.missing(c, generation, limit))

    async def fill(self, generation: int, vectors: Mapping[str, bytes]) -> int:
        return await self._connections.write(lambda c: writing.fill(c, generation, vectors))

    async def activate(self, number: int) -> None:
        """As the contract has it; the graph is built before, which may take minutes."""
        await self._build_graph(number)
        await self._connections.write(lambda c: generations.activate(c, number))

    async def drop(self, number: int) -> None:
        await self._connections.write(lambda c: generations.drop(c, number))
        self._with_graph.discard(number)

    # --- upkeep ----------------------------------------------------------------------------------

    async def snapshot(self) -> str:
        async def work(connection: "Connection") -> str:
            born, revision = await single.row(connection, "SELECT born, revision FROM state")
            return f"{born}.{revision}"

        return await self._connections.read(work)

    async def purge(self) -> None:
        """As the contract has it, of the tables' files; readers wait while they are rewritten."""
        async with self._connections.alone() as connection:
            await upkeep.purge(connection)

    async def check(self) -> Sequence[str]:
        return await self._connections.read(upkeep.check)

    async def _snapshot_of(self, revision: int) -> str:
        if not self._born:
            self._born = (await self.snapshot()).partition(".")[0]
        return f"{self._born}.{revision}"

    async def _grow_graph(self) -> None:
        """Build the active generation's graph once the index is large enough to need one."""
        active = await self._connections.read(_active_and_size)
        if active.chunks > self._exact_below and active.number not in self._with_graph:
            await self._build_graph(active.number)

    async def _build_graph(self, generation: int) -> None:
        async with self._connections.alone() as connection:
            if await generations.build_graph(
                connection,
                generation,
                from_rows=self._exact_below,
                memory_mb=self._build_memory_mb,
            ):
                self._with_graph.add(generation)


class _Active(NamedTuple):
    number: int
    chunks: int


async def _active_and_size(connection: "Connection") -> _Active:
    row = await single.row(
        connection, "SELECT active, (SELECT sum(chunks)::bigint FROM audiences) FROM state"
    )
    return _Active(*row)


async def _page(connection: "Connection", scope: Scope, after: str | None) -> Sequence[DocumentRow]:
    """The documents that follow one in order of ids."""
    sight = await see(connection, scope)
    parameters = Parameters()
    where = sight.where(parameters)
    if after is not None:
        last = parameters.add(after)
        where += (
            f' AND (left(d.id, 256) COLLATE "C", d.id) > (left({last}::text, 256), {last}::text)'
        )
    found = await connection.fetch(
        f"SELECT {rows.DOCUMENT} FROM {rows.OF_DOCUMENTS} WHERE {where} "
        f'ORDER BY left(d.id, 256) COLLATE "C", d.id LIMIT {_PAGE}',
        *parameters.values,
    )
    return [rows.document_row(row) for row in found]
