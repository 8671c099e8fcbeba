"""The books, checked against themselves: nothing is believed that can be added up.

Each finding is a sentence; none means that postings of every transaction sum to zero, what windows
say was spent is what the transactions that name them used, what they say is lent is what workers
hold, what is reserved is what runs, every transaction's money is in its postings, a request of
several calls is their sum, and what bills differ by is what is posted of it.
"""

from collections import Counter
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.bills import variances
from headrace.store.entries import decode
from headrace.store.tables import holds, leases, legs, postings, transactions, windows


class Report(NamedTuple):
    transactions: int
    postings: int
    spent_nanousd: int
    reserved_nanousd: int
    """Of requests that run now; zero at rest."""
    leased: int
    """Windows of which workers hold slices; zero at rest."""
    findings: list[str]


async def verify(connection: AsyncConnection) -> Report:
    """Check everything, in one snapshot where the transaction gives one."""
    findings: list[str] = []
    unbalanced = await connection.execute(
        select(postings.c.transaction_id, func.sum(postings.c.amount_nanousd))
        .group_by(postings.c.transaction_id)
        .having(func.sum(postings.c.amount_nanousd) != 0)
        .limit(20)
    )
    for id, total in unbalanced:
        findings.append(f"the postings of transaction {id} sum to {int(total)}, not to zero")
    balances: dict[str, int] = {}
    rows = await connection.execute(
        select(postings.c.account, func.sum(postings.c.amount_nanousd)).group_by(postings.c.account)
    )
    for account, total in rows:
        balances[account] = int(total)
    used: Counter[int] = Counter()
    costs: Counter[str] = Counter()
    count = 0
    stream = await connection.stream(
        select(transactions.c.team, transactions.c.cost_nanousd, transactions.c.charges)
    )
    async for team, cost, charges in stream:
        count += 1
        costs[team] += cost
        for pair in charges.split(",") if charges else ():
            window, _, amount = pair.partition(":")
            used[int(window)] += int(amount)
    for team, cost in costs.items():
        booked = balances.get(f"spend:{team}", 0)
        if booked != cost:
            findings.append(f"team {team}: transactions cost {cost}, postings say {booked}")
    findings += await _windows(connection, used)
    findings += await _calls(connection)
    said = await variances(connection)
    posted = {name: total for name, total in balances.items() if name.startswith("variance:")}
    for account in sorted(said.keys() | posted.keys()):
        if said.get(account, 0) != posted.get(account, 0):
            findings.append(
                f"bills differ by {said.get(account, 0)} on {account}, postings say "
                f"{posted.get(account, 0)}"
            )
    running = await connection.execute(select(holds.c.record))
    reserved = sum(decode(row.record).held_nanousd for row in running)
    booked = sum(total for account, total in balances.items() if account.startswith("reserved:"))
    if booked != reserved:
        findings.append(f"running requests hold {reserved}, postings say {booked}")
    return Report(
        transactions=count,
        postings=int(await connection.scalar(select(func.count()).select_from(postings)) or 0),
        spent_nanousd=sum(costs.values()),
        reserved_nanousd=reserved,
        leased=int(await connection.scalar(select(func.count()).select_from(leases)) or 0),
        findings=findings,
    )


async def _calls(connection: AsyncConnection) -> list[str]:
    """Requests of several calls are their sums."""
    findings: list[str] = []
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_nanousd")
    sums = [func.coalesce(func.sum(legs.c[name]), 0).label(f"legs_{name}") for name in names]
    query = (
        select(transactions.c.id, *(transactions.c[name] for name in names), *sums)
        .join(legs, legs.c.transaction_id == transactions.c.id, isouter=True)
        .where(transactions.c.calls > 1)
        .group_by(transactions.c.id)
    )
    async for row in await connection.stream(query):
        for name in names:
            if int(getattr(row, name)) != int(getattr(row, f"legs_{name}")):
                findings.append(f"the calls of transaction {row.id} do not add up to its {name}")
    return findings


async def _windows(connection: AsyncConnection, used: Counter[int]) -> list[str]:
    findings: list[str] = []
    held: Counter[tuple[int, bool]] = Counter()
    for row in await connection.execute(select(leases)):
        held[row.window_id, row.lost] += row.amount
    for row in await connection.execute(select(windows)):
        for what, said, found in (
            ("spent", row.spent, used[row.id]),
            ("lent", row.leased, held[row.id, False]),
            ("lost", row.lost, held[row.id, True]),
        ):
            if said != found:
                findings.append(
                    f"window {row.id} of limit {row.limit_id} says {said} {what}; the rows: {found}"
                )
    return findings
