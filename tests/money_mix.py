"""A mixed load on a real gateway over a provider that keeps its own bill, and what must agree."""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from billing_provider import BillingProvider

ALPHA, BETA, GAMMA = "gpt-5-mini", "house-model", "claude-sonnet-4-5"
SETTINGS = """
[providers.one]
kind = "openai"
url = "{url}"
key = "env:MIX_KEY"
breaker_failures = 0
[providers.two]
kind = "compatible"
url = "{url}"
continuous_usage = true
prices = "own"
breaker_failures = 0
[providers.three]
kind = "anthropic"
url = "{url}"
key = "env:MIX_KEY"
breaker_failures = 0
[routes.alpha]
provider = "one"
model = "gpt-5-mini"
fallback = ["gamma"]
[routes.beta]
provider = "two"
model = "house-model"
[routes.kept]
provider = "two"
model = "house-model"
cache_ttl_s = 600
[routes.gamma]
provider = "three"
model = "claude-sonnet-4-5"
"""
_DOES = {
    "ok": 60,
    "retry": 3,
    "fallback": 4,
    "leave": 8,
    "busy": 4,
    "break": 3,
    "overrun": 2,
}
WORKERS = 24


@dataclass(frozen=True)
class Call:
    """One request of the mix."""

    mark: str
    model: str
    do: str
    tokens: int
    stream: bool
    leave_after: int = 0
    """Pieces of content after which its client is gone; 0 = it stays."""
    cached: bool = False
    anthropic: bool = False
    same: str = ""
    """Mark that it shares with others, which a cache then answers."""

    def body(self) -> dict[str, Any]:
        told = (
            f"mark={self.same or self.mark} do={self.do} n={self.tokens}" + " cached" * self.cached
        )
        more: dict[str, Any] = {"max_tokens": max(1, self.tokens // 2)}
        if self.do != "overrun":
            more = {"max_tokens": self.tokens + 5}
        if self.model == "sprout":
            told = "hi"
            more = {"max_tokens": self.tokens}
            if not self.anthropic:
                more["ignore_eos"] = True
        if self.same:
            more["temperature"] = 0
        content: Any = [{"role": "user", "content": told}]
        return {"model": self.model, "messages": content, "stream": self.stream, **more}


@dataclass
class Done:
    """What the clients saw."""

    ids: dict[str, str] = field(default_factory=dict[str, str])
    """Mark -> the gateway's id of the request."""
    statuses: Counter[int] = field(default_factory=Counter[int])
    lost: int = 0
    """Calls whose gateway was gone."""


def mix(count: int, seed: int) -> list[Call]:
    """Calls of every kind, in an order of their own."""
    chance = random.Random(seed)
    calls: list[Call] = []
    for at in range(count):
        model = chance.choices(["alpha", "beta", "gamma", "sprout"], [40, 25, 25, 10])[0]
        do = chance.choices(list(_DOES), list(_DOES.values()))[0]
        if do == "fallback":
            model = "alpha"
        if model == "sprout":
            do = "leave" if do == "leave" else "ok"
        if do == "ok" and chance.random() < 0.08:
            calls.append(_kept(seed, at, chance))
            continue
        leaves = do in ("leave", "busy")
        tokens = chance.randint(2, 12)
        if leaves:
            tokens = chance.randint(8, 16) if model != "sprout" else 40
        if do == "overrun":
            tokens = 40
        calls.append(
            Call(
                mark=f"{seed}-{at}",
                model=model,
                do=do,
                tokens=tokens,
                stream=leaves or do in ("break", "overrun") or chance.random() < 0.5,
                leave_after=chance.randint(1, 3) if leaves else 0,
                cached=chance.random() < 0.3,
                anthropic=model in ("gamma", "sprout") and chance.random() < 0.3,
            )
        )
        if do == "leave" and model != "sprout":
            calls[-1] = replace_leave(calls[-1])
    return calls


def _kept(seed: int, at: int, chance: random.Random) -> Call:
    """One of a few calls that come again and again."""
    number = chance.randrange(5)
    return Call(
        mark=f"{seed}-{at}",
        model="kept",
        do="ok",
        tokens=3 + number,
        stream=chance.random() < 0.5,
        same=f"{seed}-kept-{number}",
    )


def replace_leave(call: Call) -> Call:
    """It leaves when all that comes before the provider's pause has come."""
    return replace(call, leave_after=call.tokens // 2)


async def drive(
    url: str, key: str, calls: Sequence[Call], done: Done, *, stop: asyncio.Event | None = None
) -> None:
    """Send them, `WORKERS` at a time; after `stop` no more."""
    waiting = list(reversed(calls))
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0, force_close=False)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def work() -> None:
            while waiting and not (stop is not None and stop.is_set()):
                call = waiting.pop()
                try:
                    await _send(session, url, key, call, done)
                except (aiohttp.ClientError, ConnectionError, TimeoutError):
                    done.lost += 1

        await asyncio.gather(*(work() for _ in range(WORKERS)))


async def _send(session: aiohttp.ClientSession, url: str, key: str, call: Call, done: Done) -> None:
    path = "/v1/messages" if call.anthropic else "/v1/chat/completions"
    headers = {"authorization": f"Bearer {key}"}
    async with session.post(url + path, json=call.body(), headers=headers) as answer:
        done.ids[call.mark] = answer.headers.get("x-request-id", "")
        done.statuses[answer.status] += 1
        if not call.leave_after:
            await answer.read()
            return
        seen = 0
        async for line in answer.content:
            seen += b'"content":"' in line or b'"text_delta"' in line
            if seen >= call.leave_after:
                answer.close()
                return


class LegRow(NamedTuple):
    request: str
    kind: str
    provider: str
    upstream: str
    estimated: bool
    prompt: int
    cached: int
    completion: int
    cost: int


def leg_rows(database: Path) -> list[LegRow]:
    """Every call that the ledger books."""
    columns = "prompt_tokens, cached_tokens, completion_tokens, cost_nanousd"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            f"SELECT id, kind, provider, upstream, estimated, {columns} FROM transactions "
            "WHERE calls <= 1 UNION ALL "
            "SELECT t.id, t.kind, l.provider, l.upstream, l.estimated, "
            + ", ".join(f"l.{name}" for name in columns.split(", "))
            + " FROM legs l JOIN transactions t ON t.id = l.transaction_id"
        )
        return [LegRow._make((*row[:4], bool(row[4]), *row[5:])) for row in rows]


def settled(database: Path) -> tuple[int, int]:
    """Transactions and holds."""
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        [ended] = connection.execute("SELECT count(*) FROM transactions").fetchone()
        [held] = connection.execute("SELECT count(*) FROM holds").fetchone()
        return ended, held


def wait_settled(database: Path, count: int, *, timeout_s: float = 30.0) -> None:
    """Until so many requests are booked and none is held."""
    until = time.monotonic() + timeout_s
    while (found := settled(database)) != (count, 0):
        assert time.monotonic() < until, f"{found} of {count} requests are booked"
        time.sleep(0.05)


@dataclass
class Findings:
    exact: int = 0
    bounded: int = 0
    cut: int = 0
    """Calls of a provider that went on past its limit, booked at that."""
    over_tokens: int = 0
    """Of bounds, beyond the bill."""
    wrong: list[str] = field(default_factory=list[str])


def compare(
    provider: BillingProvider, rows: Sequence[LegRow], calls: Sequence[Call], done: Done
) -> Findings:
    """The provider's bill beside the ledger, request by request.

    Of requests that ended, or that were cut where the provider keeps a running count: the same, to
    the token. Of others that were cut: never less than the bill; but where a provider writes more
    than it was asked for, what was held for the request is what it costs.
    """
    found = Findings()
    by_request: dict[tuple[str, str], list[LegRow]] = {}
    for row in rows:
        by_request.setdefault((row.request, row.upstream), []).append(row)
    billed: dict[tuple[str, str], list[int]] = {}
    for item in provider.bill:
        sums = billed.setdefault((item.mark, item.model), [0, 0, 0])
        for at, tokens in enumerate((item.prompt, item.cached, item.completion)):
            sums[at] += tokens
    found.wrong += _compare_kept(rows, calls, done, billed)
    for call in calls:
        if call.model in ("sprout", "kept") or call.mark not in done.ids:
            continue
        for model in (ALPHA, BETA, GAMMA):
            legs = by_request.get((done.ids[call.mark], model), [])
            ours = [
                sum(getattr(leg, n) for leg in legs) for n in ("prompt", "cached", "completion")
            ]
            theirs = billed.get((call.mark, model), [0, 0, 0])
            if not legs and not any(theirs):
                continue
            cut = any(leg.estimated for leg in legs)
            running = model == BETA and call.do in ("leave", "break")
            if call.do == "overrun":
                found.cut += 1
                if ours[2] != call.tokens // 2 or ours[0] < theirs[0]:
                    found.wrong.append(f"{call} at {model}: ledger {ours} beyond what was held")
                continue
            if cut and not running:
                found.bounded += 1
                found.over_tokens += ours[0] + ours[2] - theirs[0] - theirs[2]
                if ours[0] < theirs[0] or ours[2] < theirs[2] - in_flight(call):
                    found.wrong.append(f"{call} at {model}: ledger {ours} under the bill {theirs}")
            else:
                found.exact += 1
                if ours != theirs:
                    found.wrong.append(f"{call} at {model}: ledger {ours}, bill {theirs}")
    return found


def _compare_kept(
    rows: Sequence[LegRow],
    calls: Sequence[Call],
    done: Done,
    billed: Mapping[tuple[str, str], list[int]],
) -> list[str]:
    """What a cache answered is in nobody's bill, and what was asked of the provider is booked once.

    Not of the calls that a crash took along, whose ids nobody has.
    """
    ours: dict[str, list[int]] = {}
    same = {done.ids[call.mark]: call.same for call in calls if call.same and call.mark in done.ids}
    for row in rows:
        if row.request in same and row.upstream == BETA:
            sums = ours.setdefault(same[row.request], [0, 0, 0])
            for at, tokens in enumerate((row.prompt, row.cached, row.completion)):
                sums[at] += tokens
    return [
        f"kept {mark}: ledger {ours.get(mark)}, bill {billed.get((mark, BETA))}"
        for mark in sorted(set(same.values()))
        if not mark.startswith("2-") and ours.get(mark) != billed.get((mark, BETA))
    ]


def in_flight(call: Call) -> int:
    """Tokens that a provider may have written before it saw that nobody reads: no gateway can know
    of them; reconciling its bill does."""
    return call.tokens if call.do == "busy" else 0
