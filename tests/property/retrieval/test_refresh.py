"""Whatever happens to a source, and wherever a sync is cut off: the index equals one that is built
anew, no text that it had is embedded again, and what was deleted is in no file.

Cuts are injected before and after every call that a sync awaits of its store, its embedder and its
table; that a killed process is no different is `tests/e2e/retrieval/test_sync_killed.py`.
"""

import asyncio
import inspect
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

import indexing

WORDS = ["ash", "birch", "cedar", "dogwood", "elm", "fir"]
KEYS = st.sampled_from([f"{folder}{name}.md" for folder in ("", "x/") for name in "abcd"])
TEXTS = st.lists(
    st.tuples(st.sampled_from(WORDS), st.integers(1, 3)).map(
        lambda t: f"# {t[0]} {t[1]}\n\n" + f"{t[0]} number {t[1]} grows here. " * (4 * t[1])
    ),
    min_size=0,
    max_size=3,
).map("\n\n".join)
TIMES = st.sampled_from([1000.0, 2000.0, 3000.0])


class Cut(Exception):
    """A sync that ended there, as a process does that is killed."""


class Cutting:
    """Passes calls on, and ends the run before or after one of them."""

    def __init__(self, inner: Any, tick: Callable[[], None]) -> None:
        self._inner, self._tick = inner, tick

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in ("documents", "exclusive", "path"):
            return found
        if inspect.iscoroutinefunction(found):

            async def waited(*args: Any) -> Any:
                self._tick()
                done = await found(*args)
                self._tick()
                return done

            return waited

        def called(*args: Any, **named: Any) -> Any:
            self._tick()
            done = found(*args, **named)
            self._tick()
            return done

        return called


class Refresh(RuleBasedStateMachine):
    """A directory and its index. Each step is a change, a sync, or a sync that is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="refresh-"))
        self.files = self.folder / "files"
        self.files.mkdir()
        self.synced = False
        self.deleted: set[str] = set()
        self.number = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def _put(self, key: str, text: str, at_s: float) -> None:
        path = self.files / key
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        indexing.os.utime(path, (at_s, at_s))
        self.synced = False

    @rule(key=KEYS, text=TEXTS, at_s=TIMES)
    def write(self, key: str, text: str, at_s: float) -> None:
        self._put(key, text, at_s)

    @rule(key=KEYS, at_s=TIMES)
    def secret(self, key: str, at_s: float) -> None:
        self.number += 1
        self._put(key, f"# Secret\n\nplanted{self.number:04}marker in a text. " * 3, at_s)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        (self.files / key).unlink(missing_ok=True)
        self.synced = False

    @rule(key=KEYS, to=KEYS)
    def move(self, key: str, to: str) -> None:
        if (self.files / key).exists() and key != to:
            (self.files / to).parent.mkdir(exist_ok=True)
            (self.files / key).rename(self.files / to)
            self.synced = False

    @rule(key=KEYS, to=KEYS)
    def swap(self, key: str, to: str) -> None:
        if (self.files / key).exists() and (self.files / to).exists() and key != to:
            self.move(key, "tmp.md")
            self.move(to, key)
            self.move("tmp.md", to)

    @rule(key=KEYS, readers=st.sampled_from([None, ["ann"], ["ann", "bob"], "broken"]))
    def let(self, key: str, readers: Any) -> None:
        beside = self.files / f"{key}.access.json"
        beside.parent.mkdir(exist_ok=True)
        if readers is None:
            beside.unlink(missing_ok=True)
        else:
            beside.write_text(indexing.json.dumps({"readers": readers}))
        self.synced = False

    @rule()
    def sync(self) -> None:
        asyncio.run(self._sync(None))
        self.synced = True

    @rule(after=st.integers(0, 120))
    def sync_cut_off(self, after: int) -> None:
        self.synced = asyncio.run(self._sync(after))

    async def _sync(self, after: int | None) -> bool:
        """Whether it came to its end."""
        left = [after]

        def tick() -> None:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise Cut

        async with indexing.world(
            self.folder,
            store=lambda inner: Cutting(inner, tick),
            state=lambda inner: Cutting(inner, tick),  # type: ignore[arg-type, return-value]
        ) as world:
            had = {chunk.embedded for chunk in await _chunks(world.store)}
            world.embedder.before = tick
            try:
                await world.sync()
            except Cut:
                return False
            finally:
                again = [text for text in world.embedder.texts if text in had]
                assert not again, f"embedded again: {again}"
                assert len(set(world.embedder.texts)) == len(world.embedder.texts)
                assert not await world.store.check()
            return True

    @invariant()
    def it_equals_a_fresh_build(self) -> None:
        if self.synced:
            asyncio.run(self._compare())

    async def _compare(self) -> None:
        with tempfile.TemporaryDirectory(prefix="fresh-") as fresh:
            async with (
                indexing.world(self.folder) as world,
                indexing.world(Path(fresh), files=self.files) as other,
            ):
                await other.sync()
                assert await indexing.contents(world.store) == await indexing.contents(other.store)
                assert world.outcomes() == other.outcomes()
        said = "".join(path.read_text() for path in self.files.rglob("*.md"))
        held = b"".join(p.read_bytes() for p in (self.folder / "home").rglob("*") if p.is_file())
        for number in range(1, self.number + 1):
            marker = f"planted{number:04}marker"
            if marker not in said:
                assert marker.encode() not in held.lower()


async def _chunks(store: Any) -> list[Any]:
    return [
        chunk
        async for row in store.documents(indexing.ALL)
        for chunk in await store.neighbours(row.id, 0, 1 << 30, indexing.ALL)
    ]


_HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large]


def test_refresh() -> None:
    run_state_machine_as_test(
        Refresh,
        settings=settings(
            max_examples=6, stateful_step_count=12, deadline=None, suppress_health_check=_HEALTH
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_refresh_at_length() -> None:
    run_state_machine_as_test(
        Refresh,
        settings=settings(
            max_examples=300, stateful_step_count=25, deadline=None, suppress_health_check=_HEALTH
        ),
    )
