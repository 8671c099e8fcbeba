"""One vector → the chunks nearest to it: HNSW over half precision, ordered again in full.

pgvector filters what its graph walk brings, so a scope that lets few through is answered too short
or not by the nearest. Here scopes of few chunks are compared one by one; for the others the walk
goes on until enough have passed (`hnsw.iterative_scan`), begins the wider the fewer pass, and is
checked: what comes back short is compared one by one after all.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from headrace.retrieval.stores.postgres import single
from headrace.retrieval.stores.postgres.keyword import Scored
from headrace.retrieval.stores.postgres.schema import graph, vectors_table
from headrace.retrieval.stores.postgres.scope import Parameters, Sight

if TYPE_CHECKING:
    from asyncpg import Connection

_LEAST_WIDTH = 200
_MOST_WIDTH = 1_000
"""pgvector's limit of hnsw.ef_search."""
_WALK = (
    "SELECT set_config('hnsw.iterative_scan', 'strict_order', true), "
    "set_config('hnsw.ef_search', $1, true), set_config('hnsw.max_scan_tuples', $2, true), "
    "set_config('hnsw.scan_mem_multiplier', '8', true), "
    "set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), "
    "set_config('enable_mergejoin', 'off', true), set_config('enable_sort', 'off', true), "
    "set_config('enable_bitmapscan', 'off', true)"
)
"""The planner knows neither how many pass nor that only the graph brings them in order."""


class Nearest(NamedTuple):
    found: Sequence[Scored]
    exact: bool


async def nearest(
    connection: "Connection",
    generation: int,
    dimensions: int,
    vector: bytes,
    k: int,
    sight: Sight,
    *,
    exact_below: int,
) -> Nearest:
    """The k chunks with the largest cosine, best first.

    Args:
        exact_below: Scopes of no more chunks are compared one by one.
    """
    if sight.matching > exact_below and await has_graph(connection, generation):
        found = await _walk(connection, generation, dimensions, vector, k, sight)
        if len(found) == min(k, sight.matching):
            return Nearest(found, exact=False)
    return Nearest(await _compare(connection, generation, vector, k, sight), exact=True)


async def has_graph(connection: "Connection", generation: int) -> bool:
    """Whether a generation's index is there and whole."""
    return await single.value(
        connection,
        "SELECT coalesce((SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)), "
        "false)",
        graph(generation),
    )


def _source(generation: int, sight: Sight, parameters: Parameters) -> str:
    table = vectors_table(generation)
    if sight.everything:
        return f"{table} v"
    where = sight.where(parameters)
    return f"{table} v JOIN documents d ON d.number = v.document WHERE {where}"


async def _walk(
    connection: "Connection",
    generation: int,
    dimensions: int,
    vector: bytes,
    k: int,
    sight: Sight,
) -> Sequence[Scored]:
    wanted = 2 * k + 20  # half precision swaps neighbours whose cosines differ by 1e-3
    share = max(sight.matching, 1) / max(sight.total, 1)
    width = min(max(_LEAST_WIDTH, int(2 * wanted / share)), _MOST_WIDTH)
    await single.row(connection, _WALK, str(width), str(2**31 - 1))
    parameters = Parameters()
    asked = parameters.add(vector)
    source = _source(generation, sight, parameters)
    half = f"halfvec({dimensions})"
    rows = await connection.fetch(
        f"SELECT chunk, -(vector <#> {asked}::vector) AS score FROM (SELECT v.chunk, v.vector "
        f"FROM {source} ORDER BY v.vector::{half} <#> {asked}::vector::{half} "
        f"LIMIT {parameters.add(wanted)}) s ORDER BY score DESC, chunk LIMIT {parameters.add(k)}",
        *parameters.values,
    )
    return [Scored(row[0], row[1]) for row in rows]


async def _compare(
    connection: "Connection", generation: int, vector: bytes, k: int, sight: Sight
) -> Sequence[Scored]:
    parameters = Parameters()
    asked = parameters.add(vector)
    source = _source(generation, sight, parameters)
    rows = await connection.fetch(
        f"SELECT v.chunk, -(v.vector <#> {asked}::vector) AS score FROM {source} "
        f"ORDER BY score DESC, v.chunk LIMIT {parameters.add(k)}",
        *parameters.values,
    )
    return [Scored(row[0], row[1]) for row in rows]


async def cosines(
    connection: "Connection", generation: int, vector: bytes, chunks: Sequence[int]
) -> dict[int, float]:
    """Of these chunks; those without a vector are left out."""
    rows = await connection.fetch(
        f"SELECT chunk, -(vector <#> $1::vector) FROM {vectors_table(generation)} "
        "WHERE chunk = ANY($2::bigint[])",
        vector,
        list(chunks),
    )
    return {row[0]: row[1] for row in rows}
