"""Hold and settle against real databases: never over, nothing lost, zero at rest."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import KINDS, fresh, fresh_url
from headrace.errors import BudgetExceeded, LimitExceeded, RateLimitExceeded, StoreUnavailable
from headrace.gateway.ledger import NOTE_S, Ledger
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.entries import HELD
from headrace.store.journal import Journal, orphans
from headrace.store.ledger import sweep
from headrace.store.limits import Unit
from headrace.store.recover import recover
from headrace.store.tables import transactions, windows, workers
from headrace.store.verify import Report, verify
from ledgers import PRICE, limit, need, opened, usage


async def checked(database: Database) -> Report:
    report = await database.read(verify)
    assert report.findings == []
    return report


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hold_settles_for_what_was_used(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await limit(database, Unit.MONEY, 1_000_000)
        await limit(database, Unit.REQUESTS, 100, scope="org", window="minute")
        async with opened(database, tmp_path / "j") as ledger:
            hold = await ledger.hold(need())
            assert not hold.clamped
            assert hold.entry.held_nanousd == 10 * 1000 + 20 * 4000
            ledger.settle(hold, usage(10, 5, cached=4), finish="stop")
            ledger.settle(hold, usage(10, 5), finish="twice")  # does nothing
        report = await checked(database)
        assert report.spent_nanousd == 6 * 1000 + 4 * 100 + 5 * 4000
        assert (report.transactions, report.reserved_nanousd, report.leased) == (1, 0, 0)
        [row] = await database.read(lambda c: _rows(c, transactions))
        assert (row.finish, row.completion_tokens, row.price_hash) == ("stop", 5, PRICE.hash)
        spent = [row.spent for row in await database.read(lambda c: _rows(c, windows))]
        assert spent == [report.spent_nanousd, 1]


async def test_slices_go_back_also_right_after_the_database_was_away(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await limit(database, Unit.MONEY, 10**12)
        async with opened(database, tmp_path / "j") as ledger:
            ledger.settle(await ledger.hold(need()), usage(), finish="stop")
            assert (await checked(database)).leased == 1
            real = database.write

            async def away(*_: object, **__: object) -> None:
                raise StoreUnavailable("the database is away")

            database.write = away
            with pytest.raises(StoreUnavailable):
                await ledger.flush()
            database.write = real
        report = await checked(database)
        assert (report.transactions, report.leased) == (1, 0)


async def test_a_warm_slice_touches_no_database(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await limit(database, Unit.MONEY, 10**12)
        async with opened(database, tmp_path / "j") as ledger:
            ledger.settle(await ledger.hold(need()), usage(), finish="stop")
            asked: list[object] = []
            real = database.write
            database.write = lambda work, **_: asked.append(work) or real(work)
            for _ in range(30):
                ledger.settle(await ledger.hold(need()), usage(), finish="stop")
            assert asked == []


async def test_who_waits_for_a_loan_shares_it(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await limit(database, Unit.MONEY, 10**12)
        async with opened(database, tmp_path / "j") as ledger:
            asked: list[object] = []
            real = database.write

            def write(work: Any, **more: Any) -> Any:
                asked.append(work)
                return real(work, **more)

            database.write = write
            holds = await asyncio.gather(*(ledger.hold(need()) for _ in range(30)))
            assert len(asked) == 1
            for hold in holds:
                ledger.settle(hold, usage(), finish="stop")
        await checked(database)


async def test_the_answer_is_clamped_to_what_is_left(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await limit(database, Unit.MONEY, 10 * 1000 + 7 * 4000 + 3999)
        async with opened(database, tmp_path / "j") as ledger:
            hold = await ledger.hold(need())
            assert (hold.output_tokens, hold.clamped) == (7, True)
            with pytest.raises(BudgetExceeded) as caught:
                await ledger.hold(need())
            ledger.settle(hold, usage(10, 7), finish="length")
            details = caught.value.details
            assert (details["scope"], details["window"], details["left"]) == ("team", "month", 3999)
            assert "team default, $0.000041999, has $0.000003999 left" in caught.value.message
            assert caught.value.retry_after_s


async def test_every_level_counts_and_none_is_charged_alone(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await limit(database, Unit.MONEY, 10**9, scope="org")
        await limit(database, Unit.OUTPUT_TOKENS, 100, window="minute")
        await limit(
            database, Unit.INPUT_TOKENS, 15, scope="feature", subject="default/help", window="day"
        )
        async with opened(database, tmp_path / "j") as ledger:
            hold = await ledger.hold(need())
            with pytest.raises(RateLimitExceeded, match="15 input tokens, has 5 input tokens left"):
                await ledger.hold(need())
            ledger.settle(hold, usage(), finish="stop")
        await checked(database)


async def test_concurrency_is_returned_and_never_spent(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await limit(database, Unit.CONCURRENCY, 2)
        async with opened(database, tmp_path / "j") as ledger:
            for _ in range(3):
                holds = [await ledger.hold(need()), await ledger.hold(need())]
                with pytest.raises(RateLimitExceeded, match="when a request ends"):
                    await ledger.hold(need())
                for hold in holds:
                    ledger.settle(hold, usage(), finish="stop")
        await checked(database)


@pytest.mark.parametrize("kind", KINDS)
async def test_racing_workers_never_exceed_and_lose_nothing(kind: str, tmp_path: Path) -> None:
    budget = 3_000_000
    async with fresh_url(kind, tmp_path) as url:
        replicas = [await Database.open(url) for _ in range(3)]
        await limit(replicas[0], Unit.MONEY, budget)
        await limit(replicas[0], Unit.MONEY, budget * 2, scope="org", window="rolling:3600")
        true = 0

        async def one(ledger: Ledger, rng: random.Random) -> None:
            nonlocal true
            for _ in range(20):
                try:
                    hold = await ledger.hold(need(output_tokens=rng.randint(1, 40)))
                except LimitExceeded:
                    continue
                await asyncio.sleep(0)
                used = usage(10, rng.randint(0, hold.output_tokens))
                true += PRICE.cost(used)
                ledger.settle(hold, used, finish="stop")
                if rng.random() < 0.05:
                    await ledger.flush()

        async def worker(at: int, database: Database) -> None:
            async with opened(database, tmp_path / "j") as ledger:
                await asyncio.gather(*(one(ledger, random.Random(at * 100 + k)) for k in range(8)))

        await asyncio.gather(*(worker(at, database) for at, database in enumerate(replicas)))
        report = await checked(replicas[0])
        assert report.spent_nanousd == true <= budget
        assert report.leased == report.reserved_nanousd == 0
        assert true > budget * 0.9
        for database in replicas:
            await database.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dead_workers_journal_is_booked(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await limit(database, Unit.MONEY, 10**7)
        await limit(database, Unit.CONCURRENCY, 10)
        journal = Journal(tmp_path / "j", "dead")
        ledger = Ledger(database, Changes(database), journal)
        ended = await ledger.hold(need())
        ledger.settle(ended, usage(10, 5), finish="stop")
        await ledger.flush()
        late = await ledger.hold(need())
        ledger.settle(late, usage(10, 6), finish="stop")
        running = await ledger.hold(need())
        assert list(orphans(tmp_path / "j")) == []  # it lives: its journal is locked
        _die(journal)
        [remains] = await recover(database, tmp_path / "j")
        assert [entry.id for entry in remains.running] == [running.entry.id]
        report = await checked(database)
        assert report.spent_nanousd == 2 * 10_000 + 11 * 4000 + running.entry.held_nanousd
        assert (report.leased, report.reserved_nanousd) == (0, 0)
        assert await recover(database, tmp_path / "j") == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_workers_slices_stay_taken_until_it_is_found(
    kind: str, tmp_path: Path
) -> None:
    async with fresh(kind, tmp_path) as database:
        await limit(database, Unit.MONEY, 1_000_000)
        journal = Journal(tmp_path / "j", "silent")
        silent = Ledger(database, Changes(database), journal, lease_s=-5)
        running = await silent.hold(need())
        running.began -= NOTE_S  # as if it had been running for so long
        await silent.flush()
        assert (await checked(database)).reserved_nanousd == running.entry.held_nanousd
        await database.write(lambda c: sweep(c, database, grace_s=600))
        [window] = await database.read(lambda c: _rows(c, windows))
        assert window.leased == 0
        assert window.lost >= running.entry.held_nanousd
        async with opened(database, tmp_path / "other") as other:
            with pytest.raises(BudgetExceeded):  # not a nano-dollar of it is lent twice
                await other.hold(need(output_tokens=(1_000_000 - window.lost) // 4000, least=240))
        await checked(database)
        # It comes back: its slices are its own again, and it settles.
        silent.settle(running, usage(), finish="stop")
        await silent.close()
        report = await checked(database)
        assert (report.spent_nanousd, report.leased, report.reserved_nanousd) == (30_000, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_buried_worker_ran_is_settled_at_all_it_held(
    kind: str, tmp_path: Path
) -> None:
    async with fresh(kind, tmp_path) as database:
        await limit(database, Unit.MONEY, 1_000_000)
        silent = Ledger(database, Changes(database), Journal(tmp_path / "j", "s"), lease_s=-5)
        running = await silent.hold(need())
        running.began -= NOTE_S  # as if it had been running for so long
        await silent.flush()
        for _ in range(2):
            await database.write(lambda c: sweep(c, database, grace_s=0))
        [row] = await database.read(lambda c: _rows(c, workers))
        assert row.state == "buried"
        report = await checked(database)
        assert report.spent_nanousd == running.entry.held_nanousd
        assert report.reserved_nanousd == 0
        silent.settle(running, usage(), finish="stop")  # too late; the books stand
        await silent.close()
        report = await checked(database)
        assert (report.spent_nanousd, report.leased) == (running.entry.held_nanousd, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_flush_whose_end_is_unknown_books_once(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await limit(database, Unit.MONEY, 1_000_000)
        async with opened(database, tmp_path / "j") as ledger:
            ledger.settle(await ledger.hold(need()), usage(), finish="stop")
            real = database.write

            async def lost(work: Any, **_: Any) -> None:
                await real(work)
                raise OSError("the connection broke after COMMIT")

            database.write = lost
            with pytest.raises(OSError, match="COMMIT"):
                await ledger.flush()
            database.write = real
            ledger.settle(await ledger.hold(need()), usage(), finish="stop")
        report = await checked(database)
        assert (report.transactions, report.spent_nanousd) == (2, 60_000)


def test_a_torn_line_is_as_if_never_written(tmp_path: Path) -> None:
    (tmp_path / "a.journal").write_bytes(b'{"id":"1","kind":"held","at_s":1}\n{"id":"2","ki')
    [orphan] = orphans(tmp_path)
    remains = orphan.read()
    assert [(entry.id, entry.kind) for entry in remains.running] == [("1", HELD)]
    assert remains.ended == []


def _die(journal: Journal) -> None:
    """What the system does to a killed process's files."""
    import os

    os.close(journal._lock)
    os.close(journal._file)


async def _rows(connection: AsyncConnection, table: Table) -> list[Row[Any]]:
    return list(await connection.execute(select(table)))
