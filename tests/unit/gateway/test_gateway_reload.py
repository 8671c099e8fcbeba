"""A settings file that changes under a running service."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from headrace.config import Settings, load
from headrace.errors import ConfigError, StoreUnavailable
from headrace.gateway.live import Close, Live
from headrace.gateway.reload import Reading, Reloader
from headrace.gateway.services import Services
from headrace.observe.metrics import Metrics

GOOD = (
    '[providers.p]\nkind = "compatible"\nurl = "http://127.0.0.1:1"\n[routes.{}]\nprovider = "p"\n'
)


class Applied:
    def __init__(self) -> None:
        self.seen: list[Settings] = []

    async def __call__(self, settings: Settings) -> None:
        if "forbidden" in settings.routes:
            raise ConfigError("routes.forbidden cannot be")
        self.seen.append(settings)


@contextlib.asynccontextmanager
async def following(
    file: Path,
    applied: Applied,
    metrics: Metrics,
    *sets: str,
    note: Callable[[Reading], Awaitable[None]] | None = None,
) -> AsyncGenerator[Reloader]:
    def read() -> Settings:
        return load(file=file, sets=sets, environ={})

    reloader = Reloader(
        file, read(), load=read, apply=applied, metrics=metrics, note=note, poll_s=0.01
    )
    task = asyncio.create_task(reloader.run())
    try:
        yield reloader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def replace_file(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)  # as editors do: another inode


async def test_good_is_taken_bad_is_not_and_what_cannot_change_is_named(tmp_path: Path) -> None:
    file, applied, metrics = tmp_path / "headrace.toml", Applied(), Metrics()
    file.write_text(GOOD.format("one"))
    async with following(file, applied, metrics) as reloader:
        replace_file(file, GOOD.format("two") + "[server]\nport = 9000\nmax_body_bytes = 7\n")
        await until(lambda: len(applied.seen) == 1)
        await until(lambda: reloader.state.restart != ())
        [seen] = applied.seen
        assert list(seen.routes) == ["two"]
        assert seen.server.max_body_bytes == 7
        assert seen.server.port == 8080  # only a restart changes it
        assert reloader.state.restart == ("server.port = 9000 (still 8080)",)
        assert seen.origins["routes.two.provider"] == str(file)
        assert "routes.one.provider" not in seen.origins

        for bad, says in (
            ("[routes.x]\nprovidr = 'p'\n", "providr"),
            ("[server\n", "TOML"),
            (GOOD.format("forbidden"), "routes.forbidden"),
        ):
            before = reloader.state.since_s
            replace_file(file, bad)
            await until(lambda says=says: says in reloader.state.error)
            assert not reloader.state.accepted
            assert reloader.state.since_s == before
            assert reloader.settings is seen
        assert len(applied.seen) == 1
        assert b'headrace_config_reloads_total{result="rejected"} 3.0' in metrics.render()
        assert b"headrace_config_accepted 0.0" in metrics.render()

        replace_file(file, GOOD.format("three"))
        await until(lambda: reloader.state.accepted)
        assert list(reloader.settings.routes) == ["three"]
        assert reloader.state.restart == ()
        assert b"headrace_config_accepted 1.0" in metrics.render()


async def test_a_file_that_goes_away_changes_nothing(tmp_path: Path) -> None:
    file, applied = tmp_path / "headrace.toml", Applied()
    file.write_text(GOOD.format("one"))
    async with following(file, applied, Metrics()) as reloader:
        file.unlink()
        await until(lambda: "not there" in reloader.state.error)
        assert list(reloader.settings.routes) == ["one"]
        file.write_text(GOOD.format("one"))
        await until(lambda: reloader.state.accepted)


async def test_the_same_file_is_read_again_only_when_asked(tmp_path: Path) -> None:
    file, applied = tmp_path / "headrace.toml", Applied()
    file.write_text(GOOD.format("one"))
    async with following(file, applied, Metrics(), "server.max_body_bytes=9") as reloader:
        await asyncio.sleep(0.1)
        assert applied.seen == []
        os.utime(file)
        await until(lambda: len(applied.seen) == 1)
        reloader.wake()
        await until(lambda: len(applied.seen) == 2)
        assert applied.seen[-1].server.max_body_bytes == 9  # --set is still the last word


async def test_requests_end_on_the_services_they_began_with() -> None:
    closed: list[str] = []

    def closing(name: str) -> Close:
        async def close() -> None:
            closed.append(name)

        return close

    first, second = Services(models={}), Services(models={})
    live = Live(first, closing("first"))
    one, two = live.enter(), live.enter()
    live.swap(second, closing("second"))
    assert live.services is second
    assert one.services is first
    live.leave(one)
    await asyncio.sleep(0.01)
    assert closed == []
    live.leave(two)
    await until(lambda: closed == ["first"])
    three = live.enter()
    live.leave(three)
    await live.aclose()
    assert closed == ["first", "second"]


async def test_each_reading_is_noted_in_order_also_after_the_store_was_away(tmp_path: Path) -> None:
    file, noted, away = tmp_path / "headrace.toml", list[Reading](), [True]

    async def note(reading: Reading) -> None:
        if away[0]:
            raise StoreUnavailable("the database does not answer")
        noted.append(reading)

    file.write_text(GOOD.format("one"))
    async with following(file, Applied(), Metrics(), note=note) as reloader:
        replace_file(file, GOOD.format("two"))
        await until(lambda: "two" in reloader.settings.routes)
        replace_file(file, "[server\n")
        await until(lambda: not reloader.state.accepted)
        away[0] = False
        await until(lambda: len(noted) == 2)
        reloader.wake()
        await until(lambda: len(noted) == 3)
    changed, refused, woken = noted
    assert (changed.by, changed.accepted, changed.error) == ("file watcher", True, "")
    assert {"routes.one.provider", "routes.two.provider"} <= set(changed.changed)
    assert not [key for key in changed.changed if not key.startswith("routes.")]
    assert (refused.accepted, refused.changed) == (False, ())
    assert "TOML" in refused.error
    assert (woken.by, woken.accepted) == ("SIGHUP", False)
