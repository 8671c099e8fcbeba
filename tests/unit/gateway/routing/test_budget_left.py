"""What is left of a caller's tightest budget, on both databases."""

from pathlib import Path

import pytest
from sqlalchemy import insert

from databases import KINDS, fresh
from headrace.gateway.routing.budgets import Budgets
from headrace.store.limits import Unit
from headrace.store.tables import windows
from headrace.store.windows import window_at
from headrace.testing import FakeClock
from headrace.types import Caller
from ledgers import CALLER, NOW, limit


@pytest.mark.parametrize("kind", KINDS)
async def test_the_tightest_budget_less_what_was_spent_or_lost(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        clock = FakeClock(now_s=NOW)
        budgets = Budgets(database, clock=clock)
        assert await budgets.left(CALLER) is None
        await limit(database, Unit.REQUESTS, 3)
        month = await limit(database, Unit.MONEY, 1000)
        await limit(database, Unit.MONEY, 5000, scope="org")
        # Known a moment ago is known: a rule does not ask the database for each request.
        assert await budgets.left(CALLER) is None
        clock.advance(2)
        assert await budgets.left(CALLER) == 1000

        now = window_at("month", "", NOW)
        before = window_at("month", "", now.starts_s - 1)
        rows = [
            {
                "limit_id": month.id,
                "starts_s": w.starts_s,
                "ends_s": w.ends_s,
                "spent": s,
                "lost": l,
            }
            for w, s, l in ((now, 300, 100), (before, 900, 0))
        ]
        await database.write(lambda c: c.execute(insert(windows), rows))
        clock.advance(2)
        assert await budgets.left(CALLER) == 600
        assert await budgets.left(Caller(key_id="key_2", org="other", team="another")) is None
