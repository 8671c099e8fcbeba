"""Generations in PostgreSQL: tables of vectors that come, are filled, take over, and go.

The graph (HNSW index) of a generation is built when it has grown large enough to need one, outside
any transaction and without stopping readers or writers (CREATE INDEX CONCURRENTLY). A process that
dies meanwhile leaves an index that PostgreSQL marks as not valid: it answers nothing, and who comes
next drops it and begins again.
"""

from typing import TYPE_CHECKING

from headrace.errors import Conflict, InvalidParameter
from headrace.retrieval.contracts import Generation
from headrace.retrieval.stores.postgres import schema, single
from headrace.retrieval.stores.postgres.nearest import has_graph
from headrace.retrieval.stores.postgres.rows import CHUNK, chunk_of, generation_of
from headrace.retrieval.stores.postgres.schema import graph, vectors_table
from headrace.retrieval.stores.postgres.writing import advance, dimensions_of, hold_generations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncpg import Connection

LINKS = 16
BREADTH = 100
"""HNSW's M and ef_construction."""


async def listed(connection: "Connection") -> "Sequence[Generation]":
    """All there are, oldest first."""
    rows = await connection.fetch("SELECT * FROM generations ORDER BY number")
    return [generation_of(row) for row in rows]


async def begin(connection: "Connection", generation: Generation) -> None:
    """A generation without vectors; the first of an index is active."""
    await hold_generations(connection, alone=True)
    same = await connection.fetchrow(
        "SELECT * FROM generations WHERE number = $1", generation.number
    )
    used, active = await single.row(connection, "SELECT used, active FROM state")
    if same is not None or generation.number <= used:
        raise Conflict(
            f"generation {generation.number} exists or did; the next free number is {used + 1}"
        )
    if not 1 <= generation.dimensions <= schema.MAX_DIMENSIONS:
        raise InvalidParameter(
            f"dimensions = {generation.dimensions} must be between 1 and {schema.MAX_DIMENSIONS}",
            param="dimensions",
        )
    await connection.execute(
        "INSERT INTO generations VALUES ($1, $2, $3, $4, $5)",
        generation.number,
        generation.embedder,
        generation.fingerprint,
        generation.dimensions,
        generation.chunking,
    )
    await schema.create_vectors(connection, generation.number, generation.dimensions)
    await connection.execute("UPDATE state SET used = $1", generation.number)
    if not active:
        await connection.execute("UPDATE state SET active = $1", generation.number)
        await advance(connection)


async def missing(connection: "Connection", generation: int, limit: int) -> "Mapping[str, str]":
    """What a generation lacks vectors of."""
    await known(connection, generation)
    rows = await connection.fetch(
        f"SELECT DISTINCT ON (c.sha256) c.sha256, {CHUNK} FROM chunks c WHERE NOT EXISTS "
        f"(SELECT FROM {vectors_table(generation)} v WHERE v.chunk = c.number) "
        "ORDER BY c.sha256 LIMIT $1",
        limit,
    )
    return {row["sha256"].hex(): chunk_of("", row).embedded for row in rows}


async def known(connection: "Connection", generation: int) -> int:
    """Its dimensions.

    Raises: NotFound.
    """
    rows = await connection.fetch("SELECT number, dimensions FROM generations")
    return dimensions_of(generation, {row[0]: row[1] for row in rows})


async def activate(connection: "Connection", generation: int) -> None:
    """Cut over: one row of one table."""
    await hold_generations(connection, alone=True)
    await known(connection, generation)
    lacking = await count_missing(connection, generation)
    if lacking:
        raise Conflict(
            f"generation {generation} lacks the vectors of {lacking} chunks; fill it before"
        )
    await connection.execute("UPDATE state SET active = $1", generation)
    await advance(connection)


async def count_missing(connection: "Connection", generation: int) -> int:
    """Chunks without a vector."""
    return await single.value(
        connection,
        "SELECT count(*) FROM chunks c WHERE NOT EXISTS "
        f"(SELECT FROM {vectors_table(generation)} v WHERE v.chunk = c.number)",
    )


async def drop(connection: "Connection", generation: int) -> None:
    """Delete a generation that is not active."""
    await hold_generations(connection, alone=True)
    await known(connection, generation)
    if await single.value(connection, "SELECT active FROM state") == generation:
        raise Conflict(f"generation {generation} is active; activate another before")
    await connection.execute(f"DROP TABLE {vectors_table(generation)}")
    await connection.execute("DELETE FROM generations WHERE number = $1", generation)
    await advance(connection)


async def build_graph(
    connection: "Connection", generation: int, *, from_rows: int, memory_mb: int
) -> bool:
    """Build the graph of a generation that lacks one and has so many vectors; is there one now?

    Not in a transaction. One process builds; others go on without.
    """
    import asyncpg

    dimensions = await connection.fetchval(
        "SELECT dimensions FROM generations WHERE number = $1", generation
    )
    if dimensions is None or dimensions > schema.MAX_GRAPH_DIMENSIONS:
        return False
    if await has_graph(connection, generation):
        return True
    table = vectors_table(generation)
    if await single.value(connection, f"SELECT count(*) FROM {table}") < from_rows:
        return False
    key = f"hashtext(current_schema() || ' graph {generation}')"
    if not await single.value(connection, f"SELECT pg_try_advisory_lock($1, {key})", schema.LOCK):
        return False
    try:
        await connection.execute(f"SET maintenance_work_mem = '{memory_mb}MB'")
        for alone in (False, True):
            # What is left of one that was not finished.
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {graph(generation)}")
            if alone:
                await connection.execute("SET max_parallel_maintenance_workers = 0")
            try:
                await connection.execute(
                    f"CREATE INDEX CONCURRENTLY {graph(generation)} ON {table} USING hnsw "
                    f"((vector::halfvec({dimensions})) halfvec_ip_ops) "
                    f"WITH (m = {LINKS}, ef_construction = {BREADTH})"
                )
            except asyncpg.DiskFullError:
                # A container's /dev/shm is too small for workers to share memory in.
                if alone:
                    raise
            else:
                return True
        return False
    except asyncpg.UndefinedTableError:
        return False  # dropped meanwhile
    finally:
        if not connection.is_closed():
            await connection.execute(
                "RESET maintenance_work_mem; RESET max_parallel_maintenance_workers"
            )
            await single.value(connection, f"SELECT pg_advisory_unlock($1, {key})", schema.LOCK)
