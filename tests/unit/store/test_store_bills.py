"""A bill's difference is posted once, corrected by what changed, and never in two kinds."""

from dataclasses import replace as changed
from pathlib import Path

import pytest
from sqlalchemy import select

from databases import KINDS, fresh
from headrace.errors import Conflict
from headrace.gateway.tariff import Tariff
from headrace.store.bills import BillLine, book_bill
from headrace.store.calls import DAY_S
from headrace.store.database import Database
from headrace.store.tables import transactions
from headrace.store.verify import verify
from headrace.types import Target, Trail, Usage
from ledgers import NOW, PRICE, need, opened

TARGET = Target(provider="p", model="big")


async def spent(database: Database, directory: Path) -> int:
    """One request of two calls, booked. Returns: What the second one cost."""
    async with opened(database, directory) as ledger:
        asked = changed(need(), tariff=Tariff({TARGET: PRICE}, 2))
        hold = await ledger.hold(asked)
        trail = Trail()
        for completion in (0, 5):
            used = Usage(prompt_tokens=10, completion_tokens=completion)
            trail.leg(TARGET, used, outcome="stop", seconds=0.1)
        entry = ledger.settle(hold, Usage(), finish="stop", trail=trail)
        assert entry is not None
        assert entry.calls == 2
        return entry.cost_nanousd


def line(cost: int, *, day: int, upstream: str = "big", request: str = "") -> BillLine:
    return BillLine(upstream, day, request, 0, 0, 0, 0, cost, True)


@pytest.mark.parametrize("kind", KINDS)
async def test_differences_are_posted_once(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        cost = await spent(database, tmp_path / "j")
        rows = await database.read(verify)
        assert rows.findings == []
        day = await _day(database)

        async def book(*lines: BillLine, partial: bool = False) -> tuple[int, int]:
            found = await database.write(
                lambda c: book_bill(c, "p", lines, now_s=NOW, partial=partial)
            )
            assert (await database.read(verify)).findings == []
            return found.variance_nanousd, found.posted_nanousd

        assert await book(line(cost + 7, day=day)) == (7, 7)
        assert await book(line(cost + 7, day=day)) == (7, 0)
        assert await book(line(cost, day=day, upstream="big-2026-01-01")) == (0, -7)
        parts = (line(cost, day=day), line(3, day=day, upstream="big-2026-01-01"))
        assert await book(*parts) == (3, 3)
        assert await book(line(9, day=day, upstream="other"), partial=True) == (9, 9)
        # A whole bill that is silent on what is booked says that it is worth nothing.
        assert await book(line(9, day=day, upstream="other")) == (9 - cost, -cost - 3)
        with pytest.raises(Conflict, match="same kind"):
            await book(line(cost, day=day, request="r"))
        with pytest.raises(Conflict, match="same kind"):
            await book(line(cost, day=day, upstream=""))


async def _day(database: Database) -> int:
    at_s = await database.read(lambda c: c.scalar(select(transactions.c.at_s)))
    assert at_s is not None
    return at_s // DAY_S
