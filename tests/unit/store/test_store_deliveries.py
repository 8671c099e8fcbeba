"""A delivery is taken once, worked off by one, and outlives whoever claims it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from databases import KINDS, fresh
from headrace.errors import LimitExceeded
from headrace.store import deliveries
from headrace.store.database import Database
from headrace.store.deliveries import DONE, KEPT_S, QUEUED, RUNNING, Delivery

NOW = 1_800_000_000


def delivery(id: str, *items: str, source: str = "docs", key: str = "k") -> Delivery:
    return Delivery("acme", "red", "notes", source, id, key, items=items)


@dataclass
class Box:
    database: Database

    async def take(self, new: Delivery, *, now_s: int = NOW) -> str:
        return await self.database.write(lambda c: deliveries.take(c, new, now_s=now_s))

    async def claim(self, worker: str, *, now_s: int = NOW) -> list[str]:
        found = await self.database.write(
            lambda c: deliveries.claim(c, worker, now_s=now_s, lease_s=60)
        )
        return sorted(one.id for one in found)

    async def end(self, worker: str, state: str, *ids: str, why: str = "", at_s: int = 0) -> None:
        mine = [delivery(id) for id in ids]
        await self.database.write(
            lambda c: deliveries.end(c, worker, mine, state, why=why, not_before_s=at_s)
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_taken_once_and_worked_off_together(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        box = Box(database)
        assert await box.take(delivery("one", "a.md", "b.md")) == QUEUED
        assert await box.take(delivery("one", "other.md")) == QUEUED  # it is the same one
        await box.take(delivery("two", "c.md"), now_s=NOW + 1)
        await box.take(delivery("far", "c.md", source="far"), now_s=NOW + 1)
        await box.take(delivery("theirs", "c.md", key="other"), now_s=NOW + 1)
        [*found] = await database.write(
            lambda c: deliveries.claim(c, "w1", now_s=NOW + 2, lease_s=60)
        )
        assert sorted((one.id, one.items) for one in found) == [
            ("one", ("a.md", "b.md")),
            ("two", ("c.md",)),
        ]
        assert await box.claim("w2", now_s=NOW + 2) == ["far"]
        assert await box.claim("w2", now_s=NOW + 2) == ["theirs"]
        assert await box.claim("w2", now_s=NOW + 2) == []
        assert await box.take(delivery("one", "a.md")) == RUNNING
        await box.end("w1", DONE, "one", "two")
        assert await box.take(delivery("one", "a.md")) == DONE
        assert await box.claim("w1", now_s=NOW + 3) == []
        await database.write(lambda c: deliveries.sweep(c, now_s=NOW + KEPT_S + 1))
        assert await box.take(delivery("one", "a.md"), now_s=NOW + KEPT_S + 1) == QUEUED


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_dead_worker_had_is_claimed_anew(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        box = Box(database)
        await box.take(delivery("one", "a.md"))
        assert await box.claim("w1") == ["one"]
        assert await box.claim("w2", now_s=NOW + 60) == []
        await database.write(
            lambda c: deliveries.renew(c, "w1", [delivery("one")], until_s=NOW + 100)
        )
        assert await box.claim("w2", now_s=NOW + 61) == []
        assert await box.claim("w2", now_s=NOW + 101) == ["one"]
        await box.end("w1", DONE, "one")  # too late: it is another's
        assert await box.take(delivery("one")) == RUNNING
        await box.end("w2", QUEUED, "one", why="the model is away", at_s=NOW + 200)
        assert await box.claim("w1", now_s=NOW + 199) == []
        [again] = await database.write(
            lambda c: deliveries.claim(c, "w1", now_s=NOW + 200, lease_s=60)
        )
        assert again.failures == 1


async def test_a_team_cannot_fill_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_WAITING", 2)
    async with fresh("sqlite", tmp_path) as database:
        box = Box(database)
        await box.take(delivery("one"))
        await box.take(delivery("two"))
        with pytest.raises(LimitExceeded, match="2 deliveries wait already"):
            await box.take(delivery("three"))
        assert await box.take(delivery("one")) == QUEUED
