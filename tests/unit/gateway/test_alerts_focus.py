"""What is nearly used up is said once; spend comes in FOCUS columns and adds up to the books."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from databases import KINDS, fresh
from headrace.config import AlertSettings
from headrace.errors import ConfigError, UpstreamError
from headrace.gateway import focus
from headrace.gateway.alerts import AlertPolicy, Alerts, due
from headrace.gateway.tariff import Tariff
from headrace.providers.webhook import post_json
from headrace.store.bills import BillLine, book_bill
from headrace.store.calls import DAY_S
from headrace.store.database import Database
from headrace.store.forecast import Forecast, forecast
from headrace.store.limits import Limit, Unit
from headrace.store.spend import Standing, spend
from headrace.store.tables import transactions
from headrace.store.windows import FOREVER_S, window_at
from headrace.types import Target, Trail, Usage
from ledgers import NOW, PRICE, limit, need, opened
from upstreams import Say, upstream

BUDGET = Limit(
    id=1, scope="team", subject="red", unit=Unit.REQUESTS, window="day", zone="", amount=1000
)


def standing(spent: int, *, starts: int = 0, ends: int = 86_400, kept: Limit = BUDGET) -> Standing:
    return Standing(kept, starts, ends, spent, 0, 0)


def test_a_pace_is_continued_to_the_windows_end() -> None:
    found = forecast(standing(300), now_s=21_600)  # a quarter of the day
    assert (found.pace_per_day, found.at_end) == (1200, 1200)
    assert found.used_up_s == 72_000
    slow = forecast(standing(100), now_s=21_600)
    assert (slow.at_end, slow.used_up_s) == (400, None)


def test_the_first_minutes_and_windows_without_end_say_nothing() -> None:
    assert forecast(standing(900), now_s=600).pace_per_day is None
    assert forecast(standing(900, ends=FOREVER_S), now_s=80_000).at_end is None
    assert forecast(standing(1000), now_s=600).used_up_s == 600
    nothing = forecast(standing(0), now_s=43_200)
    assert (nothing.at_end, nothing.used_up_s) == (0, None)


def test_only_the_highest_share_is_said() -> None:
    policy = AlertPolicy()
    rules = [[a.rule for a in due(forecast(standing(n), now_s=600), policy)] for n in (1, 500, 999)]
    assert rules == [[], ["share:50"], ["share:80"]]
    full = due(forecast(standing(1000), now_s=600), policy)
    assert [a.rule for a in full] == ["share:100"]
    assert (
        "team red has used 100 % of its day limit: 1000 requests of 1000 requests" in full[0].text
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (AlertSettings(shares="50,all"), "list of percents"),
        (AlertSettings(shares="120"), "list of percents"),
        (AlertSettings(webhook="ftp://x"), "http or https"),
    ],
)
def test_wrong_settings_are_refused(settings: AlertSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlertPolicy.of(settings)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_rule_is_said_once_by_one_replica(kind: str, tmp_path: Path) -> None:
    sent: list[Mapping[str, Any]] = []
    fails = True

    async def post(url: str, body: Mapping[str, Any]) -> None:
        if fails:
            raise UpstreamError("away")
        sent.append(body)

    async with fresh(kind, tmp_path) as database:
        await limit(database, Unit.REQUESTS, 2)
        await spent(database, tmp_path / "j")
        settings = AlertSettings(shares="50,80", forecast=False, webhook="http://x/hook")
        replicas = [Alerts(database, settings, post=post) for _ in range(2)]
        assert [await replica.look() for replica in replicas] == [[], []]  # nobody took it
        fails = False
        assert [len(await replica.look()) for replica in replicas] == [1, 0]
        assert [body["rule"] for body in sent] == ["share:50"]
        assert sent[0]["limit"]["subject"] == "default"
        await spent(database, tmp_path / "j")
        assert [len(await replica.look()) for replica in replicas] == [1, 0]
        assert [body["rule"] for body in sent] == ["share:50", "share:80"]


async def test_a_webhook_is_tried_three_times() -> None:
    with upstream(
        [Say(b"no", status=500), Say(b"no", status=500), Say(b"{}", kind="application/json")]
    ) as server:
        await post_json(server.url + "/hook", {"text": "hi"})
        assert [asked.json for asked in server.asked] == [{"text": "hi"}] * 3
    with (
        upstream(Say(b"no", status=302)) as server,
        pytest.raises(UpstreamError, match="status 302"),
    ):
        await post_json(server.url, {})


@pytest.mark.parametrize("kind", KINDS)
async def test_focus_rows_add_up_to_the_books(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await spent(database, tmp_path / "j")
        await spent(database, tmp_path / "j")
        at_s = NOW - NOW % DAY_S
        await database.write(lambda c: c.execute(update(transactions).values(at_s=at_s)))
        line = BillLine("big", at_s // DAY_S, "", 0, 0, 0, 0, 1, True)
        await database.write(lambda c: book_bill(c, "p", [line], now_s=NOW))
        found = await database.read(focus.charges)
        rows = list(csv.DictReader(io.StringIO(focus.as_csv(found))))
        assert tuple(rows[0]) == focus.COLUMNS
        assert [row["ChargeCategory"] for row in rows] == ["Usage", "Usage", "Adjustment"]
        own, theirs, adjusted = rows
        assert (own["ProviderName"], own["ResourceName"], own["x_Requests"]) == (
            "headrace",
            "m",
            "2",
        )
        assert (theirs["SkuId"], theirs["SubAccountId"]) == ("p/big", "default")
        assert json.loads(theirs["Tags"])["feature"] == "help"
        assert theirs["ChargePeriodStart"] == "2025-11-24T00:00:00Z"
        assert theirs["BillingPeriodEnd"] == "2025-12-01T00:00:00Z"
        used = Decimal(own["BilledCost"]) + Decimal(theirs["BilledCost"])
        [whole] = await database.read(lambda c: spend(c, by=["team"]))
        assert used * 10**9 == whole.cost_nanousd
        assert Decimal(adjusted["BilledCost"]) + Decimal(theirs["BilledCost"]) == Decimal("1e-9")
        mine = await database.read(lambda c: focus.charges(c, org="default", team="default"))
        assert [charge.category for charge in mine] == ["Usage", "Usage"]
        lines = await database.read(lambda c: spend(c, by=["provider", "upstream"]))
        assert {line.group: line.requests for line in lines} == {("", "m"): 2, ("p", "big"): 2}


async def spent(database: Database, directory: Path) -> None:
    """One request of two calls: the local model and a provider's."""
    targets = [Target(provider="", model="m"), Target(provider="p", model="big")]
    async with opened(database, directory) as ledger:
        tariff = Tariff(dict.fromkeys(targets, PRICE), 2)
        hold = await ledger.hold(replace(need(), tariff=tariff))
        trail = Trail()
        for target in targets:
            used = Usage(prompt_tokens=10, completion_tokens=5)
            trail.leg(target, used, outcome="stop", seconds=0.1)
        ledger.settle(hold, Usage(), finish="stop", trail=trail)


def test_a_rolling_window_counts_from_before_its_start() -> None:
    rolling = replace(BUDGET, window="rolling:3600")
    window = window_at("rolling:3600", "", 10_000)
    found = Standing(rolling, window.starts_s, window.ends_s, 500, 0, 0)
    made = forecast(found, now_s=10_000, seen_from_s=window.ends_s - 3600)
    assert isinstance(made, Forecast)
    assert made.pace_per_day is not None
    assert abs(made.pace_per_day - 500 * 24) < 2000
