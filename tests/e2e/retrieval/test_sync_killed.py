"""A sync whose process is killed, again and again: what it wrote serves, and it ends in the end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import indexing

SCRIPT = """
import asyncio, os, pathlib, sys
sys.path[:] = sys.argv[1].split(os.pathsep)
import indexing

async def main():
    folder = pathlib.Path(sys.argv[2])
    async with indexing.world(folder) as world:
        log = (folder / "embedded").open("a")
        def say():
            log.write("x\\n")
            log.flush()
        world.embedder.before = say
        world.embedder._pause_s = 0.02
        await world.sync()

asyncio.run(main())
"""


def killed(folder: Path, batches: int) -> None:
    """Sync in another process, and kill it when so many batches were embedded."""
    log = folder / "embedded"
    log.write_text("")
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, os.pathsep.join(sys.path), str(folder)]
    ) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and log.read_text().count("x") < batches:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait(30)


async def had(world: indexing.World) -> set[str]:
    chunks: list[Any] = [
        chunk
        async for row in world.store.documents(indexing.ALL)
        for chunk in await world.store.neighbours(row.id, 0, 1 << 30, indexing.ALL)
    ]
    return {chunk.embedded for chunk in chunks}


async def test_a_killed_sync_is_resumed_and_loses_nothing(tmp_path: Path) -> None:
    async with indexing.world(tmp_path) as world:
        for n in range(30):
            world.write(f"{n:02}.md", f"# T{n}\n\n" + f"word{n} is said here. " * 60)
    sizes: list[int] = []
    for batches in (1, 3, 6, 2):
        await asyncio.to_thread(killed, tmp_path, batches)
        async with indexing.world(tmp_path) as world:
            assert not await world.store.check()
            sizes.append(len(await had(world)))
            if batches == 6:  # the source goes on changing meanwhile
                world.write("05.md", "# T5\n\n" + "something else. " * 60)
                (world.files / "00.md").rename(world.files / "zz.md")
                (world.files / "01.md").unlink()
    assert sizes == sorted(sizes)
    assert sizes[1] > 0
    async with indexing.world(tmp_path) as world:
        before = await had(world)
        report = await world.sync()
        assert report.items == 29
        assert not before & set(world.embedder.texts)
        assert len(set(world.embedder.texts)) == len(world.embedder.texts)
        async with indexing.world(tmp_path / "fresh", files=world.files) as fresh:
            await fresh.sync()
            assert await indexing.contents(world.store) == await indexing.contents(fresh.store)
            assert world.outcomes() == fresh.outcomes()
        assert not await world.store.check()
