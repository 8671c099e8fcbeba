"""A process that changes an index until it is killed, and tells what it was told is done.

`python index_victim.py DIRECTORY SEED`: one line for each change that returned.
"""

import asyncio
import json
import random
import sys
from pathlib import Path

from headrace.errors import Conflict
from headrace.retrieval.stores.sqlite import SqliteStore
from index_stores import entry, generation, passage, vector


def tell(what: str, *ids: str) -> None:
    print(json.dumps([what, *ids]), flush=True)


async def change(store: SqliteStore, draws: random.Random, seed: int, i: int) -> None:
    """One change at random."""
    match draws.choices(("put", "again", "remove", "purge", "migrate"), (6, 3, 2, 1, 1))[0]:
        case "put":
            ids = [f"{seed}-{i}-{j}" for j in range(draws.randint(1, 20))]
            await store.put([entry(id, passage(draws), passage(draws)) for id in ids])
            tell("put", *ids)
        case "again":
            id = f"{seed}-{draws.randint(0, i)}-0"
            await store.put([entry(id, passage(draws))])
            tell("put", id)
        case "remove":
            id = f"{seed}-{draws.randint(0, i)}-0"
            tell("removing", id)
            await store.remove([id])
            tell("removed", id)
        case "purge":
            await store.purge()
        case _:
            await migrate(store)


async def migrate(store: SqliteStore) -> None:
    """Build another generation, cut over, cut back, drop it."""
    active = (await store.active()).number
    number = max(g.number for g in await store.generations()) + 1
    try:
        await store.begin(generation(number))
    except Conflict:
        return  # a number of one that was dropped
    while missing := await store.missing(number, 64):
        await store.fill(number, {sha: vector(text) for sha, text in missing.items()})
    await store.activate(number)
    await store.activate(active)
    await store.drop(number)


async def main() -> None:
    directory, seed = Path(sys.argv[1]), int(sys.argv[2])
    draws = random.Random(seed)
    store = await SqliteStore.open(directory, synchronous="normal")
    tell("ready")
    for i in range(100_000):
        await change(store, draws, seed, i)


if __name__ == "__main__":
    asyncio.run(main())
