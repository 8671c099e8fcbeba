"""An index gets another embedding model while it answers: whole, resumable, and back again."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from headrace.config import process_environment
from headrace.errors import Conflict, NotFound
from headrace.retrieval.library import Library
from headrace.retrieval.migrate import Migration, Phase
from headrace.testing.embedder import HashEmbedder
from headrace.types import SearchRequest
from index_library import RED, errand, library, other_model, spec, text
from migration_process import NEW, OLD, QUESTIONS

SCRIPT = Path(__file__).parents[2] / "migration_process.py"
WAIT_S = 60


async def filled(books: Library, count: int) -> None:
    await books.create(spec(), errand(OLD))
    said = [
        text(f"d{at}", "\n".join(f"word{(at * 5 + n) % 50} thing{n} line{at}" for n in range(5)))
        for at in range(count)
    ]
    for at in range(0, count, 50):
        await books.ingest("notes", said[at : at + 50], errand(OLD))


async def score(books: Library, *models: HashEmbedder) -> list[float]:
    ask = SearchRequest(index="notes", query=QUESTIONS[1], k=5, principals=None)
    return [p.score for p in (await books.search(ask, errand(*models))).passages]


async def test_the_old_answers_until_the_cut_and_again_after_it_is_rolled_back(
    tmp_path: Path,
) -> None:
    mine = errand(OLD, NEW)
    async with library(tmp_path) as books:
        await filled(books, 20)
        before = await score(books, OLD, NEW)
        migration = Migration(await books.open("notes", RED))
        assert await migration.standing() is None
        await migration.begin(NEW, mine)
        assert (await migration.standing()).phase is Phase.BUILDING  # type: ignore[union-attr]
        with pytest.raises(Conflict, match="is under way"):
            await migration.begin(other_model(24), mine)
        assert sum([made async for made in migration.fill(mine)]) == 100
        assert (await migration.standing()).phase is Phase.BUILT  # type: ignore[union-attr]
        assert await score(books, OLD, NEW) == before
        await migration.cut_over(mine)
        after = await score(books, OLD, NEW)
        assert after != before
        # Written to both, or the way back would lack it.
        await books.ingest("notes", [text("late", "word1 word7 thing1")], mine)
        began = time.monotonic()
        await migration.roll_back(mine)
        assert time.monotonic() - began < 2
        assert (await migration.standing()).phase is Phase.ROLLED_BACK  # type: ignore[union-attr]
        assert (await score(books, OLD, NEW))[0] == pytest.approx(1)
        await migration.cut_over(mine)
        await migration.finish()
        assert await migration.standing() is None
        with pytest.raises(Conflict, match="no migration"):
            await migration.roll_back(mine)
        assert (await books.describe("notes", RED)).generations[0].embedder == NEW.card.name
        with pytest.raises(Conflict, match="already"):
            await migration.begin(NEW, mine)
        with pytest.raises((NotFound, Conflict)):
            await score(books, OLD)


async def test_what_a_process_without_the_new_model_writes_is_filled_at_the_cut(
    tmp_path: Path,
) -> None:
    mine = errand(OLD, NEW)
    async with library(tmp_path) as books:
        await filled(books, 10)
        migration = Migration(await books.open("notes", RED))
        await migration.begin(NEW, mine)
        async for _ in migration.fill(mine):
            pass
        await books.ingest("notes", [text("late", "word1 word7 thing1")], errand(OLD))
        await migration.cut_over(mine)
        assert (await score(books, NEW))[0] == pytest.approx(1)


def process(what: str, directory: Path, stop: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), what, str(directory), str(stop)],
        stdout=subprocess.PIPE,
        text=True,
        env=process_environment(),
    )


def said(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    out, _ = process.communicate(timeout=WAIT_S)
    return [json.loads(line) for line in out.splitlines()]


def killed_after(lines: int, directory: Path) -> list[str]:
    """Steps that a migrator took before it was killed when it had said so many."""
    worker = process("migrate", directory, directory / "never")
    assert worker.stdout is not None
    try:
        said = [worker.stdout.readline() for _ in range(lines)]
        found = [json.loads(line)["step"] for line in said if line]  # none: it was through before
    finally:
        worker.kill()
        worker.communicate(timeout=WAIT_S)
    return found


def check_kills(directory: Path, points: Iterable[int], *, count: int) -> None:
    async def prepare() -> None:
        async with library(directory) as books:
            await filled(books, count)

    async def complete() -> None:
        async with library(directory) as books:
            index = await books.open("notes", RED)
            assert await index.store.check() == []
            standing = await Migration(index).standing()
            assert standing is not None
            assert standing.phase is Phase.DONE
            assert not await index.store.missing(standing.plan.new, 1)

    asyncio.run(prepare())
    for lines in points:
        killed_after(lines, directory)
    worker = process("migrate", directory, directory / "never")
    assert said(worker)[-1]["step"] == "over"
    assert worker.returncode == 0
    asyncio.run(complete())


def test_killed_at_any_step_it_goes_on_where_it_was(tmp_path: Path) -> None:
    check_kills(tmp_path, (1, 3), count=110)


def check_load(directory: Path, *, count: int, askers: int, laps: int) -> tuple[float, int]:
    """Questions and writes of several processes while the index goes there and back."""

    async def prepare() -> None:
        async with library(directory) as books:
            await filled(books, count)

    async def back(stop: Path) -> float:
        mine = errand(OLD, NEW)
        async with library(directory) as books:
            migration = Migration(await books.open("notes", RED))
            began = time.monotonic()
            await migration.roll_back(mine)
            took = time.monotonic() - began
            await asyncio.sleep(0.3)
            await migration.cut_over(mine)
            await asyncio.sleep(0.3)
        return took

    asyncio.run(prepare())
    stop = directory / "stop"
    load = [process("ask", directory, stop) for _ in range(askers)]
    load += [process("write-both", directory, stop), process("write-old", directory, stop)]
    slowest = 0.0
    try:
        time.sleep(1.0)
        for _ in range(laps):
            worker = process("migrate", directory, stop)
            assert said(worker)[-1]["step"] == "over"
            slowest = max(slowest, asyncio.run(back(stop)))
    finally:
        stop.touch()
        answers = [said(worker) for worker in load]
    asked = 0
    seen: set[str] = set()
    for lines in answers:
        assert not [line for line in lines if "failed" in line], lines[-1]
        for line in lines:
            if "fits" in line:
                fits = line["fits"]
                assert fits, "an answer that is of neither generation alone"
                assert isinstance(fits, list)
                if len(fits) == 1:
                    seen.add(str(fits[0]))
                asked += 1
    assert seen == {"old", "new"}
    return slowest, asked


def test_under_load_no_answer_fails_or_mixes_generations(tmp_path: Path) -> None:
    slowest, asked = check_load(tmp_path, count=100, askers=2, laps=1)
    assert slowest < 2
    assert asked > 20


@pytest.mark.slow
def test_under_longer_load_and_kills(tmp_path: Path) -> None:
    slowest, asked = check_load(tmp_path / "load", count=2000, askers=3, laps=5)
    print(f"{asked} answers, the slowest way back {slowest:.3f} s")
    assert slowest < 2
    assert asked > 500
    check_kills(tmp_path / "kills", range(1, 9), count=900)
