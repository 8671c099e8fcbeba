"""The pages of spend and of requests before the real gateway: ledger, limits, traces, explain."""

import csv
import io
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from chromium import keep, launched, visited
from headrace.errors import Overloaded
from headrace.gateway.prices import Override, set_override
from headrace.store import identity, limits
from headrace.store.identity import NewKey
from headrace.store.limits import Unit
from headrace.store.tables import transactions, windows
from headrace.store.windows import window_at
from headrace.testing.scripted import Request, Step, reply
from headrace.types import ChatRequest, Started
from service import call
from whole_gateway import Whole, serving_all

DAY_S = 86_400
MARKUP = '<img src=x onerror="window.hacked=1">'
MODELS = ("sprout", "qwen3-8b", "gpt-5-mini", "claude-haiku-4-5")


@dataclass(frozen=True)
class Shown:
    whole: Whole
    member: str
    """The key of a member of team red."""


async def seed(connection: AsyncConnection) -> None:
    now_s = int(time.time())
    await identity.add_org(connection, "acme", now_s=now_s)
    for team in ("red", "blue"):
        await identity.add_team(connection, team, org="acme", now_s=now_s)
    rows = [
        {
            "id": f"{day}-{team}-{model}",
            "kind": "request",
            "at_s": now_s - day * DAY_S,
            "org": "acme",
            "team": team,
            "model": MODELS[model],
            "feature": "search" if model % 2 else "chat",
            "route": "/v1/chat/completions",
            "finish": "stop",
            "prompt_tokens": 4000 + 900 * model,
            "cached_tokens": 1500,
            "completion_tokens": 700 + 40 * day,
            "cost_nanousd": (1 + (day * (3 + model) + model) % 7)
            * 130_000_000
            * (2 if team == "red" else 1),
        }
        for day in range(28)
        for team in ("red", "blue")
        for model in range(4)
    ]
    await connection.execute(insert(transactions), rows)
    for scope, subject, unit, window, amount in (
        ("team", "red", Unit.MONEY, "month", 250_000_000_000),
        ("team", "blue", Unit.REQUESTS, "day", 1000),
        ("org", "acme", Unit.OUTPUT_TOKENS, "rolling:3600", 40_000),
    ):
        await limits.set_limit(
            connection,
            scope=scope,
            subject=subject,
            unit=unit,
            window=window,
            amount=amount,
            now_s=now_s,
        )
    day = "rolling:86400"
    nearly = await limits.set_limit(
        connection,
        scope="team",
        subject="blue",
        unit=Unit.MONEY,
        window=day,
        amount=100 * 10**9,
        now_s=now_s,
    )
    now = window_at(day, "", now_s)
    used = {"spent": 92 * 10**9, "leased": 3 * 10**9}
    await connection.execute(
        insert(windows).values(limit_id=nearly.id, starts_s=now.starts_s, ends_s=now.ends_s, **used)
    )
    await set_override(connection, Override("m", 0, 2 * 10**12, 10**12, 8 * 10**12))


def script(request: Request) -> Iterable[Step]:
    assert isinstance(request, ChatRequest)
    if request.messages[-1].text == "full":
        raise Overloaded("the queue is full", retry_after_s=3)
    for step in answer(request):
        if isinstance(step, Started):  # the ids that the codec of the tests makes of it
            step = replace(step, prompt_ids=tuple(request.messages[-1].text.encode()))
        yield step


def answer(request: Request) -> Iterable[Step]:
    return reply(request, ["The mill wheel ", "turns. ", MARKUP], pause_s=0.02)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as made:
        yield made


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    made: list[str] = []

    async def seeded(connection: AsyncConnection) -> None:
        await seed(connection)
        new = NewKey(org="acme", team="red", name="of red")
        made.append((await identity.make_key(connection, new, now_s=int(time.time()))).token)

    directory = tmp_path_factory.mktemp("console")
    with serving_all(directory, script, pages_of=seeded) as whole:
        for text in ("What turns the wheel?", "full"):
            say(whole, made[0], text)
        yield Shown(whole, made[0])


def say(whole: Whole, key: str, text: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True}
    call(
        whole.url + "/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}"},
    )


def give(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Show", exact=True).click()


def test_spend_is_shown_by_day_and_group(browser: Browser, shown: Shown) -> None:
    with visited(browser, shown.whole.url, "/spend") as page:
        give(page, shown.whole.key)
        expect(page.get_by_role("row")).to_have_count(3)  # its head and two teams
        expect(page.locator("#bars .day")).to_have_count(30)
        expect(page.locator("#rows th").first).to_have_text("red")
        expect(page.locator("#totals")).to_contain_text("$")
        keep(page, "spend.png")
        page.get_by_label("Grouped by").select_option("model")
        expect(page.get_by_role("row")).to_have_count(6)  # with the model that is asked here
        page.locator("#view").get_by_text("Requests").click()
        expect(page.locator("#share-name")).to_have_text("Share of requests")
        expect(page.locator("#rows tr").first).to_contain_text("24.8 %")
        page.get_by_label("Time", exact=True).select_option("7")
        expect(page.locator("#bars .day")).to_have_count(7)
        assert "by=model&days=7&measure=requests" in page.url
        page.reload()
        expect(page.locator("#bars .day")).to_have_count(7)  # the address says it, the tab the key
        page.locator("#bars .day").last.focus()
        note = page.locator(".note")
        expect(note).to_be_visible()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#bars .day").nth(5)).to_be_focused()
        expect(note).to_contain_text("gpt-5-mini")
        keep(page, "spend-day.png")


def test_budgets_say_what_is_left_and_where_it_leads(browser: Browser, shown: Shown) -> None:
    with visited(browser, shown.whole.url, "/spend", dark=True) as page:
        give(page, shown.whole.key)
        cards = page.locator(".card")
        expect(cards).to_have_count(4)
        expect(cards.first).to_contain_text("$95.00 of $100.00")  # the fullest
        expect(cards.first).to_contain_text("$92.00 settled · $3.00 reserved · $5.00 left")
        expect(cards.first).to_contain_text("at this pace")
        expect(cards.first).to_have_class("card near")
        red = cards.filter(has_text="team red")
        expect(red).to_contain_text("of $250.00")
        expect(red).to_contain_text("settled")
        expect(cards.filter(has_text="org acme")).to_contain_text("output tokens")
        cards.last.scroll_into_view_if_needed()
        keep(page, "spend-dark.png")


def test_files_have_what_the_table_has(browser: Browser, shown: Shown) -> None:
    with visited(browser, shown.whole.url, "/spend") as page:
        give(page, shown.whole.key)
        with page.expect_download() as got:
            page.get_by_role("button", name="Download CSV").click()
        rows = list(csv.DictReader(io.StringIO(Path(got.value.path()).read_text())))
        assert {row["team"] for row in rows} == {"red", "blue"}
        assert sum(int(row["requests"]) for row in rows) >= 28 * 8
        assert all(len(row["cost_usd"].partition(".")[2]) == 9 for row in rows)
        with page.expect_download() as got:
            page.get_by_role("button", name="Download FOCUS").click()
        focus = list(csv.DictReader(io.StringIO(Path(got.value.path()).read_text())))
        assert {row["SubAccountName"] for row in focus} == {"red", "blue"}
        assert {row["BillingCurrency"] for row in focus} == {"USD"}


def test_a_member_sees_its_own_and_is_told_of_the_rest(browser: Browser, shown: Shown) -> None:
    with visited(browser, shown.whole.url, "/spend") as page:
        give(page, shown.member)
        expect(page.locator("#rows tr")).to_have_count(1)
        expect(page.locator("#rows")).to_contain_text("red")
        page.get_by_role("button", name="Download FOCUS").click()
        expect(page.locator("#files-say")).to_contain_text("needs team_admin")


def test_wrong_key_nothing_spent_and_a_service_that_is_gone(browser: Browser, shown: Shown) -> None:
    with visited(browser, shown.whole.url, "/spend") as page:
        expect(page.get_by_label("API key")).to_be_focused()
        give(page, "sk-wrong")
        expect(page.get_by_role("alert")).to_contain_text("API key")
        expect(page.locator("#sheet")).to_be_hidden()
        page.route("**/v1/admin/spend?*", lambda route: route.fulfill(json={"data": []}))
        give(page, shown.whole.key)
        expect(page.get_by_text("Nothing was spent in this time.")).to_be_visible()
        page.unroute_all()
        page.route("**/v1/admin/spend?*", lambda route: route.abort())
        page.get_by_label("Time", exact=True).select_option("7")
        expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
        page.unroute_all()
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#bars .day")).to_have_count(7)
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 0]


def test_requests_are_listed_filtered_and_explained(browser: Browser, shown: Shown) -> None:
    with visited(browser, shown.whole.url, "/requests") as page:
        give(page, shown.member)
        expect(page.locator(".trace")).to_have_count(2)
        keep(page, "requests.png")
        page.get_by_label("Outcome").select_option("failed")
        expect(page.locator(".trace")).to_have_count(1)
        expect(page.locator(".trace")).to_contain_text("429")
        page.get_by_label("Outcome").select_option("200")
        expect(page.locator(".trace .chip")).to_have_text(["200"])
        page.get_by_label("Model").fill("another")
        page.get_by_role("button", name="Look again").click()
        expect(page.get_by_text("No request fits.")).to_be_visible()
        page.get_by_label("Model").fill("m")
        page.keyboard.press("Enter")
        page.locator(".trace").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#one h2")).to_contain_text("200 stop")
        names = page.locator(".spans .name").all_inner_texts()
        assert names[0] == "POST /v1/chat/completions"
        assert {"identify", "receive", "admission", "chat m", "prefill", "decode"} <= set(names)
        said = page.locator(".said")
        expect(said.first).to_contain_text("What turns the wheel?")
        expect(said.last).to_have_text(f"The mill wheel turns. {MARKUP}")
        assert page.evaluate("window.hacked") is None
        expect(page.get_by_role("region", name="Table of parameter")).to_contain_text("temperature")
        expect(page.get_by_role("region", name="Table of account")).to_contain_text("−$0.0")
        keep(page, "request.png")
        page.go_back()
        expect(page.locator(".trace")).to_have_count(1)
        assert "outcome=200" in page.url


def test_what_is_not_kept_or_not_there_is_said(browser: Browser, shown: Shown) -> None:
    with visited(browser, shown.whole.url, "/requests?id=nosuch") as page:
        give(page, shown.member)
        expect(page.get_by_role("alert")).to_contain_text("there is no trace of the request")
        page.get_by_role("link", name="All requests").click()
        expect(page.locator(".trace")).to_have_count(2)


@pytest.mark.parametrize("path", ["/spend", "/requests"])
def test_phone_needs_no_sideways_scrolling(browser: Browser, shown: Shown, path: str) -> None:
    with visited(browser, shown.whole.url, path, width=360, height=740, dark=True) as page:
        give(page, shown.whole.key)
        if path == "/requests":
            page.locator(".trace").last.click()
            expect(page.locator(".spans li").first).to_be_visible()
        else:
            expect(page.locator(".card")).to_have_count(4)
        main = "document.querySelector('main')"
        assert page.evaluate(f"{main}.scrollWidth <= {main}.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        keep(page, f"phone-{path[1:]}.png")


@pytest.mark.parametrize("path", ["/spend", "/requests"])
def test_every_control_of_a_sheet_has_a_name(browser: Browser, shown: Shown, path: str) -> None:
    with visited(browser, shown.whole.url, path) as page:
        give(page, shown.whole.key)
        expect(page.locator(".card, .trace").first).to_be_visible()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, select, button, a")]
              .filter(at => !(at.labels?.length || at.textContent.trim())).map(at => at.name)"""
        )
        assert nameless == []
