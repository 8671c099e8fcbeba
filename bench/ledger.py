"""Budgets raced by several processes, killed at random moments; and how fast the ledger books.

    python bench/ledger.py race --url postgresql://postgres@127.0.0.1/postgres
    python bench/ledger.py race --url sqlite:////tmp/race.db --replicas 2
    python bench/ledger.py rate --url postgresql://postgres@127.0.0.1/postgres

`race`: each replica is a process with its own ledger; 100,000 attempts reserve under three limits
(feature, team, organization) whose money ends before the attempts do. What a provider would bill is
written to a file beside, between hold and settle, by the attempt itself; the parent kills replicas
with SIGKILL and starts them again. In the end the ledger is held against that bill.
`rate`: hold, settle and flush, two postings a request, until the database has all of them.

PostgreSQL gets a database of its own, dropped afterwards. `--out FILE` keeps the result.
"""

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.bench.results import write_result
from headrace.errors import LimitExceeded, StoreUnavailable
from headrace.gateway.ledger import Ledger
from headrace.gateway.need import Need
from headrace.gateway.price import Price, Rate
from headrace.gateway.tariff import Tariff
from headrace.store import identity, limits
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.journal import Journal
from headrace.store.limits import Unit
from headrace.store.recover import recover
from headrace.store.spend import standings
from headrace.store.tables import transactions
from headrace.store.verify import verify
from headrace.types import Caller, Target, Usage

CALLER = Caller(key_id="key_race", org="default", team="default", feature="race")
PRICE = Price(
    (Rate(input=150_000_001, cached=75_000_000, written=150_000_001, output=600_000_007),)
)
TARIFF = Tariff.single(PRICE, Target(provider="", model="m"))
TASKS = 32
MEAN_COST = 30_000
"""Nano-dollars an attempt uses, about."""


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("race", "rate", "replica"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--attempts", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.mode == "replica":
        await replica(options.url, options.directory, options.attempts, options.seed)
        return
    async with own_database(options.url) as url:
        work = race if options.mode == "race" else rate
        result = await work(url, options)
    for name, value in result.items():
        print(f"{name:>22}  {value}")
    if options.out is not None:
        arguments = {n: getattr(options, n) for n in ("mode", "replicas", "attempts", "kills")}
        arguments["database"] = options.url.partition(":")[0]
        write_result(options.out, what="ledger", arguments=arguments, result=result)


async def race(url: str, options: argparse.Namespace) -> dict[str, Any]:
    database = await Database.open(url)
    budget = options.attempts * MEAN_COST * 9 // 10
    await set_limits(database, budget)
    began = time.monotonic()
    killed = 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        each = options.attempts // options.replicas
        running = [start(url, directory, each, at) for at in range(options.replicas)]
        rng = random.Random(options.seed)
        before = sizes(directory, options.replicas)
        line_bytes = 32
        while any(process.poll() is None for process in running):
            await asyncio.sleep(rng.uniform(0.05, 0.25))
            after = sizes(directory, options.replicas)
            busy = [at for at in range(options.replicas) if after[at] > before[at]]
            before = after
            due = options.attempts * line_bytes * (killed + 1) // (options.kills + 2)
            if busy and killed < options.kills and sum(after) > due:
                at = rng.choice(busy)  # in the middle of its work, not of its imports
                running[at].send_signal(signal.SIGKILL)
                running[at].wait()
                killed += 1
                running[at] = start(url, directory, each, at)
        assert all(process.returncode == 0 for process in running), "a replica failed"
        took_s = time.monotonic() - began
        recovered = await recover(database, directory / "journals")
        bills, attempts = read_bills(directory, options.replicas)
        result = await judge(database, bills, budget)
    await database.close()
    return {
        "attempts": attempts,
        "killed": killed,
        "seconds": round(took_s, 1),
        "attempts_a_second": round(attempts / took_s),
        "journals_left": len(recovered),
        **result,
    }


async def judge(database: Database, bills: dict[str, int], budget: int) -> dict[str, Any]:
    """The ledger against the bill; raises where anything is over, lost or does not add up."""
    report = await database.read(verify)
    assert report.findings == [], report.findings
    assert report.reserved_nanousd == 0
    assert report.leased == 0

    async def booked(connection: AsyncConnection) -> dict[str, tuple[str, int]]:
        columns = (transactions.c.id, transactions.c.kind, transactions.c.cost_nanousd)
        return {id: (kind, cost) for id, kind, cost in await connection.execute(select(*columns))}

    rows = await database.read(booked)
    lost = [id for id in bills if id not in rows]
    assert not lost, f"{len(lost)} billed requests are not in the ledger"
    wrong = [id for id, bill in bills.items() if rows[id][0] == "settled" and rows[id][1] != bill]
    assert not wrong, f"{len(wrong)} requests cost something else in the ledger"
    under = [id for id, bill in bills.items() if rows[id][1] < bill]
    assert not under, f"{len(under)} requests were billed more than the ledger has"
    standing = await database.read(lambda c: standings(c, now_s=time.time()))
    for found in standing:
        assert found.spent + found.leased + found.lost <= found.limit.amount, found
    unresolved = [cost for kind, cost in rows.values() if kind == "unresolved"]
    return {
        "budget_nanousd": budget,
        "spent_nanousd": report.spent_nanousd,
        "billed_nanousd": sum(bills.values()),
        "unspent_nanousd": budget - report.spent_nanousd,
        "transactions": report.transactions,
        "postings": report.postings,
        "unresolved": len(unresolved),
        "over": max(0, report.spent_nanousd - budget),
        "lost": len(lost),
        "findings": len(report.findings),
    }


async def replica(url: str, directory: Path, attempts: int, seed: int) -> None:
    """One process: make the attempts that the bill file does not have yet."""
    bill = directory / f"bill-{seed}"
    done = len(bill.read_bytes().splitlines()) if bill.exists() else 0
    handle = os.open(bill, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    database = await Database.open(url)
    await recover(database, directory / "journals")
    ledger = Ledger(
        database, Changes(database), Journal(directory / "journals", secrets.token_hex(8))
    )
    flushing = asyncio.create_task(ledger.run())
    rng = random.Random(seed * 1000 + done)
    left = attempts - done

    async def task() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            input_tokens, output_tokens = rng.randint(1, 200), rng.randint(1, 100)
            need = make_need(input_tokens, output_tokens)
            try:
                hold = await ledger.hold(need)
            except (LimitExceeded, StoreUnavailable):
                os.write(handle, b"refused\n")
                continue
            used = Usage(
                prompt_tokens=input_tokens, completion_tokens=rng.randint(0, hold.output_tokens)
            )
            os.write(handle, f"{need.id} {PRICE.cost(used)}\n".encode())
            if rng.random() < 0.1:
                await asyncio.sleep(rng.uniform(0, 0.1))
            ledger.settle(hold, used, finish="stop")

    await asyncio.gather(*(task() for _ in range(TASKS)))
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    await ledger.close()
    await database.close()


async def rate(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Requests in batches of a thousand, each held, settled and booked."""
    database = await Database.open(url)
    await set_limits(database, 1 << 50)
    with tempfile.TemporaryDirectory() as name:
        ledger = Ledger(database, Changes(database), Journal(Path(name), "rate"))
        samples: list[float] = []
        cpu, began = time.process_time(), time.monotonic()
        done = 0
        while done < options.attempts:
            start_s = time.monotonic()
            for _ in range(1000):
                hold = await ledger.hold(make_need(100, 50))
                used = Usage(prompt_tokens=100, completion_tokens=40)
                ledger.settle(hold, used, finish="stop")
            await ledger.flush()
            done += 1000
            samples.append(2000 / (time.monotonic() - start_s))
        took_s = time.monotonic() - began
        cpu_s = time.process_time() - cpu
        await ledger.close()
    report = await database.read(verify)
    assert report.findings == []
    assert report.postings == 2 * done
    await database.close()
    samples.sort()
    return {
        "requests": done,
        "postings": report.postings,
        "postings_a_second": round(report.postings / took_s),
        "median_batch_postings_a_second": round(samples[len(samples) // 2]),
        "client_cpu_us_a_request": round(cpu_s / done * 1e6, 1),
    }


def make_need(input_tokens: int, output_tokens: int) -> Need:
    return Need(
        id=secrets.token_hex(12),
        caller=CALLER,
        model="m",
        route="/v1/chat/completions",
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        tariff=TARIFF,
    )


def start(url: str, directory: Path, attempts: int, at: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, "replica", "--url", url, "--directory", str(directory)]
    return subprocess.Popen([*command, "--attempts", str(attempts), "--seed", str(at)])


def sizes(directory: Path, replicas: int) -> list[int]:
    paths = [directory / f"bill-{at}" for at in range(replicas)]
    return [path.stat().st_size if path.exists() else 0 for path in paths]


def read_bills(directory: Path, replicas: int) -> tuple[dict[str, int], int]:
    bills: dict[str, int] = {}
    attempts = 0
    for at in range(replicas):
        for line in (directory / f"bill-{at}").read_text().splitlines():
            attempts += 1
            id, _, cost = line.partition(" ")
            if cost:
                bills[id] = int(cost)
    return bills, attempts


async def set_limits(database: Database, budget: int) -> None:
    now_s = int(time.time())

    async def work(connection: AsyncConnection) -> None:
        await identity.ensure_default(connection, now_s=now_s)
        for scope, subject, window, amount in (
            ("team", "default", "month", budget),
            ("org", "default", "rolling:86400", budget * 2),
            ("feature", "default/race", "total", budget * 3),
        ):
            await limits.set_limit(
                connection,
                scope=scope,
                subject=subject,
                unit=Unit.MONEY,
                window=window,
                amount=amount,
                now_s=now_s,
            )

    await database.write(work)


@contextlib.asynccontextmanager
async def own_database(url: str) -> AsyncGenerator[str]:
    if not url.startswith("postgresql"):
        yield url
        return
    name = f"headrace_bench_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    try:
        yield url.rpartition("/")[0] + "/" + name
    finally:
        connection = await asyncpg.connect(url)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
