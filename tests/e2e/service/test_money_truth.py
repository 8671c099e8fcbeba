"""The ledger, the provider's own bill and the engine's counters after a mixed load with a crash.

Streams and whole answers, clients that leave, retries, fallbacks, answers that break off, a
provider that ignores its limit, and the gateway killed in the middle.
"""

import asyncio
import contextlib
import datetime
import io
import json
import re
import sqlite3
from collections import Counter
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import pytest
from genai_prices import Usage, calc_price

from billing_provider import BillingProvider, Item, billing_provider
from headrace.cli import main
from money_mix import (
    ALPHA,
    BETA,
    GAMMA,
    SETTINGS,
    Call,
    Done,
    LegRow,
    compare,
    drive,
    leg_rows,
    mix,
    settled,
    wait_settled,
)
from service import Service, running


def headrace(service: Service, *words: str) -> str:
    out = io.StringIO()
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(out):
        main(["--set", f"paths.state_dir={service.state_dir}", *words])
    assert not stop.value.code, out.getvalue()
    return out.getvalue()


def test_a_quick_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, monkeypatch, 800)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_fifty_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, monkeypatch, 50_000)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("MIX_KEY", "secret")
    with billing_provider() as provider:
        (tmp_path / "headrace.toml").write_text(SETTINGS.format(url=provider.url))
        database = tmp_path / "state" / "headrace.db"
        calls, done = mix(count, 1), Done()
        crashing, after = mix(count // 10, 2), mix(count // 10, 3)
        with running(tmp_path, auth=True) as service:
            service.wait_logged("Ctrl-C stops it")
            found = re.search(r"hr-[\w-]{20,}", service.log.read_text())
            assert found
            key = found.group()
            headrace(service, "spend", "price", "sprout", "--input", "1", "--output", "10")
            headrace(service, "spend", "price", f"two/{BETA}", "--input", "0.5", "--output", "2")
            headrace(service, "budgets", "set", "team:default", "1000000")
            asyncio.run(drive(service.url, key, calls, done))
            wait_settled(database, count)
            check_engine(service, key, leg_rows(database))
            asyncio.run(crash(service, key, crashing, done))
        booked, _ = settled(database)
        service.log.unlink()
        with running(tmp_path, auth=True) as again:
            again.wait_logged("booked what worker")
            life = {row.request for row in leg_rows(database)}
            asyncio.run(drive(again.url, key, after, done))
            wait_settled(database, len(life) + len(after))
            own = [row for row in leg_rows(database) if row.request not in life]
            check_engine(again, key, own)
        rows = leg_rows(database)
        assert len(life) >= booked
        assert done.statuses[200] > count
        everything = [*calls, *crashing, *after]
        unresolved = {row.request for row in rows if row.kind == "unresolved"}
        ended = [call for call in everything if done.ids.get(call.mark) not in unresolved]
        report = compare(provider, rows, ended, done)
        assert not report.wrong, report.wrong[:5]
        # Only what was cut short may be a bound: its client left, or its provider broke off.
        cut_short = sum(call.do in ("leave", "busy", "break") for call in ended)
        assert 0 < report.bounded <= cut_short
        assert report.exact > report.bounded
        check_costs(provider, rows, ended, done)
        with contextlib.closing(sqlite3.connect(database)) as connection:
            [hits] = connection.execute(
                "SELECT count(*) FROM transactions WHERE cache = 'hit' AND calls = 0 "
                "AND cost_nanousd = 0"
            ).fetchone()
        assert hits > count // 40
        verified = json.loads(headrace(again, "ledger", "verify", "--json"))
        assert verified["findings"] == []
        assert (verified["reserved_nanousd"], verified["leased"]) == (0, 0)
        check_reconciled(again, tmp_path, provider, database)


def check_reconciled(
    service: Service, directory: Path, provider: BillingProvider, database: Path
) -> None:
    """With the variance of what was cut and of the crash, the books owe what the bills say."""
    settings = ("--config", str(directory / "headrace.toml"))
    for name, model in (("one", ALPHA), ("two", BETA), ("three", GAMMA)):
        items = [item for item in provider.bill if item.model == model]
        dollars = sum((priced(item) for item in items), Decimal(0))
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        bill = directory / f"{name}.csv"
        bill.write_text(f"date,model,cost_usd\n{day},{model},{dollars}\n")
        words = ("ledger", "reconcile", str(bill), "--provider", name, "--json")
        first = json.loads(headrace(service, *settings, *words))
        assert first["variance_nanousd"] == first["posted_nanousd"] != 0
        again = json.loads(headrace(service, *settings, *words))
        assert (again["posted_nanousd"], again["variance_nanousd"]) == (
            0,
            first["variance_nanousd"],
        )
        with contextlib.closing(sqlite3.connect(database)) as connection:
            [owed] = connection.execute(
                "SELECT sum(amount_nanousd) FROM postings WHERE account = ?",
                (f"owed:{name}/{model}",),
            ).fetchone()
        assert -owed == int((dollars * 10**9).to_integral_value(ROUND_CEILING))
    assert "the books balance" in headrace(service, "ledger", "verify")


async def crash(service: Service, key: str, calls: list[Call], done: Done) -> None:
    """Kill -9 with half of the calls sent."""
    stop = asyncio.Event()
    before = done.statuses.total()
    driving = asyncio.create_task(drive(service.url, key, calls, done, stop=stop))
    while done.statuses.total() - before < len(calls) // 2:  # noqa: ASYNC110 - a counter
        await asyncio.sleep(0.01)
    service.process.kill()
    stop.set()
    await asyncio.wait_for(driving, 60)
    await asyncio.to_thread(service.process.wait)


def check_engine(service: Service, key: str, rows: list[LegRow]) -> None:
    """The engine's counters of its life are the ledger's local rows of it."""
    from service import call

    _, text = call(service.url + "/metrics", headers={"authorization": f"Bearer {key}"})
    counted: Counter[str] = Counter()
    for kind, value in re.findall(r'headrace_engine_tokens_total\{kind="(\w+)"\} ([\d.e+]+)', text):
        counted[kind] = int(float(value))
    local = [row for row in rows if row.provider == ""]
    assert [row for row in local if row.estimated] == []
    assert counted["prompt"] > 0
    for kind in ("prompt", "cached", "completion"):
        assert counted[kind] == sum(getattr(row, kind) for row in local), kind


def check_costs(
    provider: BillingProvider, rows: list[LegRow], calls: list[Call], done: Done
) -> None:
    """What one call costs is what `genai-prices` itself makes of the provider's bill."""
    marks = {id: mark for mark, id in done.ids.items()}
    ended = {call.mark for call in calls if call.do in ("ok", "retry")}
    legs = Counter(row.request for row in rows)
    items = {item.mark: item for item in provider.bill}
    checked: Counter[str] = Counter()
    for row in rows:
        mark = marks.get(row.request)
        if mark not in ended or mark not in items or legs[row.request] != 1:
            continue
        item, dollars = items[mark], priced(items[mark])
        assert row.cost == int((dollars * 10**9).to_integral_value(ROUND_CEILING)), row
        checked[item.model] += 1
    assert min(checked[model] for model in (ALPHA, BETA, GAMMA)) > len(calls) // 20


def priced(item: Item) -> Decimal:
    """Dollars, as `genai-prices` itself has them."""
    if item.model == BETA:
        return Decimal(item.prompt) / 2_000_000 + Decimal(item.completion) / 500_000
    vendor = {ALPHA: "openai", GAMMA: "anthropic"}[item.model]
    used = Usage(
        input_tokens=item.prompt, cache_read_tokens=item.cached, output_tokens=item.completion
    )
    return calc_price(used, item.model, provider_id=vendor).total_price
