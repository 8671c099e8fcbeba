"""One process beside a migration: it asks, writes, or migrates, until it is told to stop.

    python migration_process.py ask|write|migrate DIRECTORY STOP

Prints JSON lines. A questioner says which generation each answer is from, by what either one alone
gives; a migrator prints each step before it takes it, so that it can be killed there.
"""

import asyncio
import json
import sys
from pathlib import Path

from headrace.errors import HeadraceError, ModelNotFound
from headrace.retrieval.library import Library
from headrace.retrieval.migrate import Migration
from headrace.retrieval.vectors import rows
from headrace.testing.embedder import _split, _vector
from headrace.types import SearchRequest
from index_library import RED, HashEmbedder, errand, library, other_model, text

OLD, NEW = HashEmbedder(dimensions=32), other_model(96)
QUESTIONS = [f"word{at} word{at * 7 % 50} thing{at % 5}" for at in range(20)]


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def ask(books: Library, stop: Path) -> None:
    """Every answer's generation is told by its scores: those of 32 and of 96 dimensions differ."""
    at = asked = 0
    while not await asyncio.to_thread(stop.exists):
        question = QUESTIONS[at % len(QUESTIONS)]
        at += 1
        request = SearchRequest(index="notes", query=question, k=5, principals=None)
        try:
            found = await books.search(request, errand(OLD, NEW))
        except HeadraceError as error:
            say(failed=error.message)
            return
        asked += 1
        scores = {"old": OLD, "new": NEW}
        fits = [
            name
            for name, model in scores.items()
            if all(
                abs(p.score - cosine(model, question, p.chunk.text)) < 1e-4 for p in found.passages
            )
        ]
        say(fits=fits, passages=len(found.passages))
    say(asked=asked)


def cosine(model: HashEmbedder, first: str, second: str) -> float:

    dimensions = model.card.dimensions
    data = b"".join(_vector(_split(said), dimensions) for said in (first, second))
    one, two = (memoryview(row).cast("f") for row in rows(data, dimensions))
    return sum(a * b for a, b in zip(one, two, strict=True))


async def write(books: Library, stop: Path, *, both: bool) -> None:
    """New documents; a writer without the new model leaves its vectors to the migrator."""
    models = (OLD, NEW) if both else (OLD,)
    at = 0
    while not await asyncio.to_thread(stop.exists):
        said = f"word{at % 50} thing{at % 5} written{at}"
        try:
            await books.ingest("notes", [text(f"w{both}{at % 40}", said)], errand(*models))
        except ModelNotFound:
            assert not both, "it has both models"
            say(written=at, stopped="the active model is not here")
            return
        except HeadraceError as error:
            say(failed=error.message)
            return
        at += 1
        await asyncio.sleep(0.005)
    say(written=at)


async def migrate(books: Library) -> None:
    mine = errand(OLD, NEW)
    migration = Migration(await books.open("notes", RED))
    say(step="begin")
    await migration.begin(NEW, mine)
    say(step="begun")
    async for made in migration.fill(mine):
        say(step="filled", made=made)
    say(step="built")
    await migration.cut_over(mine)
    say(step="over")


async def main() -> None:
    what, directory, stop = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    async with library(directory) as books:
        if what == "ask":
            await ask(books, stop)
        elif what == "migrate":
            await migrate(books)
        else:
            await write(books, stop, both=what == "write-both")


if __name__ == "__main__":
    asyncio.run(main())
