"""The database restarted, silent or gone while a gateway is under load: what is promised for it.

Slices that were lent go on being spent; what needs the database is refused with 503 and a time to
come back; running streams end as ever; nothing goes through for nothing, nothing is booked twice or
lost, and the gateway is there again by itself.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.gateway.prices import Override, set_override
from headrace.store import identity, limits
from headrace.store.database import Database
from headrace.store.limits import Unit
from headrace.store.tables import transactions
from headrace.store.verify import Report, verify
from service import Service, running
from upstreams import Asked, Say, upstream
from wires import Wire, own_postgres, wire_to

_SETTINGS = """
[model]
path = "none"
[store]
url = "{store}"
[providers.lab]
kind = "compatible"
url = "{upstream}"
[routes.big]
provider = "lab"
context_tokens = 4096
"""
_SAID = (
    b'data: {"id":"c","model":"big","created":1,"choices":[{"index":0,"delta":{"role":"assistant",'
    b'"content":"hello"},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","model":"big","created":1,"choices":[],"usage":{"prompt_tokens":3,'
    b'"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)
COST = 3 * 1000 + 10_000
"""Nano-dollars an answer."""


@dataclass
class Load:
    """Clients that ask again and again; what they were answered, and when."""

    url: str
    key: str
    seen: list[tuple[float, int, str | None]] = field(
        default_factory=list[tuple[float, int, str | None]]
    )
    _stop: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        while not self._stop.is_set():
            status, after = ask(self.url, self.key)
            self.seen.append((time.monotonic(), status, after))
            self._stop.wait(0.02)

    def between(self, since: float, until: float) -> Counter[int]:
        return Counter(status for at, status, _ in list(self.seen) if since <= at < until)

    @contextlib.contextmanager
    def on(self, clients: int) -> Generator[None]:
        threads = [threading.Thread(target=self.work, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)


def ask(url: str, key: str, **more: object) -> tuple[int, str | None]:
    import urllib.error
    import urllib.request

    body = {"model": "big", "messages": [{"role": "user", "content": "hi"}], **more}
    request = urllib.request.Request(
        url + "/v1/chat/completions",
        data=json.dumps({"max_tokens": 4, **body}).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
            if more.get("stream"):
                assert "[DONE]" in text, text
            return answer.status, None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["retry-after"]


def wait_for(url: str, key: str, timeout_s: float) -> float:
    """Seconds until a request is answered."""
    began = time.monotonic()
    while ask(url, key)[0] != 200:
        assert time.monotonic() - began < timeout_s, "it did not come back"
        time.sleep(0.1)
    return time.monotonic() - began


@dataclass
class House:
    service: Service
    wire: Wire
    warm: str
    """A key with slices to spare."""
    tight: str
    """One whose slice is a few requests."""
    unseen: list[str]
    """Keys that the gateway has never met."""

    @property
    def url(self) -> str:
        return self.service.url


@contextlib.contextmanager
def house(directory: Path, target: str | int, path: str) -> Generator[House]:
    """A gateway whose database is at the other end of a wire."""

    def say(asked: Asked) -> Say:
        slowly = "slowly" in asked.json["messages"][0]["content"]
        return Say(body=_SAID, hang_s=2.5 if slowly else 0.0)

    with upstream(say) as fake, wire_to(target) as wire:
        store = f"postgresql://postgres@127.0.0.1:{wire.port}/{path}"
        tokens = asyncio.run(_furnish(store))
        text = _SETTINGS.format(store=store, upstream=fake.url)
        (directory / "headrace.toml").write_text(text)
        with running(directory, auth=True) as service:
            made = House(service, wire, tokens[0], tokens[1], tokens[2:])
            for key in (made.warm, made.tight):
                assert ask(made.url, key)[0] == 200
            yield made


async def _furnish(store: str) -> list[str]:
    database = await Database.open(store)
    now_s = int(time.time())

    async def work(connection: AsyncConnection) -> list[str]:
        await identity.ensure_default(connection, now_s=now_s)
        await set_override(connection, Override("lab/big", 0, 10**9, 10**9, 10**10))
        made = [
            await identity.make_key(
                connection,
                identity.NewKey(name=f"k{at}", org="default", team="default"),
                now_s=now_s,
            )
            for at in range(5)
        ]
        for scope, subject, unit, amount in (
            ("team", "default", Unit.MONEY, 10**12),
            ("key", made[1].key.id, Unit.REQUESTS, 40),
        ):
            await limits.set_limit(
                connection,
                scope=scope,
                subject=subject,
                unit=unit,
                window="month",
                amount=amount,
                now_s=now_s,
            )
        return [each.token for each in made]

    try:
        return await database.write(work)
    finally:
        await database.close()


def books(store: str) -> tuple[Report, int]:
    """What the ledger says, and how many requests were paid for."""

    async def whole() -> tuple[Report, int]:
        database = await Database.open(store)
        try:
            query = select(func.count()).where(transactions.c.cost_nanousd == COST)
            paid = await database.read(lambda c: c.scalar(query))
            return await database.read(verify), int(paid or 0)
        finally:
            await database.close()

    return asyncio.run(whole())


def outage(
    house: House, load: Load, begin: Callable[[], None], seconds: float, *, unseen: str
) -> float:
    """Let the database be away; returns how long it took until it was there again."""
    time.sleep(1.4)  # the tight key's slice goes back
    began = time.monotonic()
    slow: list[tuple[int, str | None]] = []
    said = [{"role": "user", "content": "slowly"}]
    streaming = threading.Thread(
        target=lambda: slow.append(ask(house.url, house.warm, messages=said, stream=True))
    )
    streaming.start()
    time.sleep(0.3)
    begin()
    time.sleep(0.2)
    refused = [ask(house.url, key) for key in (unseen, house.tight)]
    assert [status for status, _ in refused] == [503, 503], refused
    assert all(after is not None and int(after) >= 1 for _, after in refused)
    time.sleep(max(0.0, began + 0.5 + seconds - time.monotonic()))
    statuses = load.between(began, time.monotonic())
    assert set(statuses) <= {200, 503}, statuses
    assert statuses[200] > 0  # slices that were lent
    ready, reason = house.service.get("/readyz")
    if seconds < 20:
        assert ready == 200
    else:  # longer than slices are believed: everything under a limit is refused, and it says so
        assert (ready, "has not answered" in reason) == (503, True)
        assert set(load.between(time.monotonic() - 2, time.monotonic())) == {503}
    house.wire.mend()
    back_s = max(wait_for(house.url, key, 30) for key in (unseen, house.tight))
    streaming.join(30)
    assert slow == [(200, None)]
    assert house.service.get("/readyz")[0] == 200
    return back_s


def test_silent_cut_and_restarted_under_load(tmp_path: Path) -> None:
    with own_postgres(tmp_path / "pg") as postgres:
        with house(tmp_path, postgres.socket, "postgres") as made:
            load = Load(made.url, made.warm)
            with load.on(4):
                for begin, unseen in zip(
                    (made.wire.stall, made.wire.cut), made.unseen, strict=False
                ):
                    assert outage(made, load, begin, 1.5, unseen=unseen) < 15
                before = time.monotonic()
                postgres.restart()
                assert wait_for(made.url, made.unseen[2], 30) < 15
                time.sleep(0.5)
                assert set(load.between(before, time.monotonic())) <= {200, 503}
            asked = 2 + sum(status == 200 for _, status, _ in load.seen)
            asked += 2 * (1 + 2) + 1  # outages: a stream and two keys that came back; the restart
        report, paid = books(postgres.url)
    assert report.findings == []
    assert (report.reserved_nanousd, report.leased) == (0, 0)
    assert report.transactions == paid == asked


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stall", "cut"])
def test_thirty_seconds_without_a_database(how: str, tmp_path: Path) -> None:
    with own_postgres(tmp_path / "pg") as postgres:
        with house(tmp_path, postgres.socket, "postgres") as made:
            load = Load(made.url, made.warm)
            began = time.monotonic()
            with load.on(4):
                back_s = outage(made, load, getattr(made.wire, how), 30.0, unseen=made.unseen[0])
                time.sleep(1.0)
            statuses = load.between(began, time.monotonic())
            asked = 2 + statuses[200] + 3
        report, paid = books(postgres.url)
    print(f"{how}: back after {back_s:.1f} s; {dict(statuses)}")
    assert report.findings == []
    assert (report.reserved_nanousd, report.leased) == (0, 0)
    assert report.transactions == paid == asked
