"""What a hit costs: a part of what its answer did, no tokens, and one line that says so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import fresh
from headrace.store.tables import transactions
from headrace.store.verify import verify
from headrace.types import Leg, Trail
from ledgers import need, opened, usage


@pytest.mark.parametrize(("ppm", "cost"), [(0, 0), (250_000, 7_500), (1_000_000, 30_000), (1, 1)])
async def test_a_hit_costs_its_part_and_no_tokens(tmp_path: Path, ppm: int, cost: int) -> None:
    async with fresh("sqlite", tmp_path) as database, opened(database, tmp_path) as ledger:
        hold = await ledger.hold(need())
        made_by = Leg(provider="", model="m", usage=usage(10, 5), outcome="stop", seconds=1.0)
        trail = Trail(cache="hit", hit_ppm=ppm, kept=(made_by,))
        ledger.settle(hold, usage(10, 5), finish="stop", trail=trail)
        await ledger.flush()
        [row] = await database.read(_rows)
        assert (row.cache, row.cost_nanousd, row.prompt_tokens, row.completion_tokens) == (
            "hit",
            cost,
            0,
            0,
        )
        report = await database.read(verify)
        assert not report.findings


async def test_a_reader_who_came_to_pay_is_billed_for_the_call(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database, opened(database, tmp_path) as ledger:
        hold = await ledger.hold(need())
        call = Leg(provider="", model="m", usage=usage(10, 5), outcome="stop", seconds=1.0)
        ledger.settle(
            hold,
            usage(10, 5),
            finish="stop",
            trail=replace(Trail(), legs=[call], cache="miss", hit_ppm=1),
        )
        await ledger.flush()
        [row] = await database.read(_rows)
        assert (row.cache, row.cost_nanousd, row.completion_tokens) == ("miss", 30_000, 5)


async def _rows(connection: AsyncConnection) -> list[Row[Any]]:
    return list(await connection.execute(select(transactions)))
