"""An index that is too far behind a source is told of once, by one replica, until a sync."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from databases import KINDS, fresh
from headrace.config import AlertSettings
from headrace.errors import UpstreamError
from headrace.gateway.source_alerts import SourceAlerts
from headrace.observe.gauges import SourceAge
from headrace.store.source_alerts import KEPT_S

LATE = SourceAge(
    org="acme",
    team="red",
    index="notes",
    source="docs",
    complete_s=1000.7,
    behind_s=90.0,
    objective_s=60.0,
    why="the directory is not there",
)
SETTINGS = AlertSettings(webhook="http://x/hook")


class World:
    """Sources that a test sets, a webhook that may fail, a clock."""

    def __init__(self) -> None:
        self.ages: Sequence[SourceAge] = [LATE]
        self.sent: list[Mapping[str, Any]] = []
        self.fails = False
        self.now_s = 2000.0

    async def look(self) -> Sequence[SourceAge]:
        return self.ages

    async def post(self, url: str, body: Mapping[str, Any]) -> None:
        if self.fails:
            raise UpstreamError("away")
        self.sent.append(body)

    def clock(self) -> float:
        return self.now_s


@pytest.mark.parametrize("kind", KINDS)
async def test_one_replica_tells_once_until_a_sync_moves_it_on(kind: str, tmp_path: Path) -> None:
    world = World()
    async with fresh(kind, tmp_path) as database:
        replicas = [
            SourceAlerts(
                world.look, SETTINGS, database=database, post=world.post, clock=world.clock
            )
            for _ in range(2)
        ]

        async def told() -> list[int]:
            return [len(await replica.look()) for replica in replicas]

        world.fails = True
        assert await told() == [0, 0]  # nobody took it
        world.fails = False
        assert await told() == [1, 0]
        assert await told() == [0, 0]
        [body] = world.sent
        assert body["rule"] == "freshness"
        assert body["index"] == {"org": "acme", "team": "red", "name": "notes"}
        assert body["text"] == (
            "the index 'notes' of acme/red is 90 s behind, source 'docs', and may be 60 s; "
            "the directory is not there"
        )
        world.ages = [replace(LATE, behind_s=10.0, complete_s=1900.0)]
        assert await told() == [0, 0]
        world.ages = [replace(LATE, complete_s=1900.0)]
        assert await told() == [1, 0]
        world.now_s += KEPT_S + 1  # nobody did anything for a month
        assert await told() == [1, 0]


async def test_a_service_without_a_store_tells_for_itself() -> None:
    world = World()
    never = replace(LATE, behind_s=None, complete_s=0.0, org="", team="", why="")
    world.ages = [never, replace(LATE, source="any", objective_s=0.0)]
    alerts = SourceAlerts(world.look, SETTINGS, database=None, post=world.post, clock=world.clock)
    world.fails = True
    assert await alerts.look() == []
    world.fails = False
    said = "the index 'notes' was never synced whole, source 'docs', and may be 60 s; no sync ran"
    assert await alerts.look() == [said]
    assert await alerts.look() == []
    world.ages = []
    assert await alerts.look() == []
    world.ages = [never]
    assert await alerts.look() == [said]  # it was kept meanwhile
