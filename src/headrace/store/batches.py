"""Batches: many requests that run some time, each once, whichever replicas live that long.

    validating -> in_progress -> finalizing -> completed | expired
        |             |              ^
        v             v              |
      failed      cancelling --------+-------> cancelled

Lines are claimed with a lease, like the work on a batch itself: who is silent for longer than that
loses them to others, and what it writes then is refused, because the row is not its own any more.
Invariants: a line has one result; the files of a batch and its end are one transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import Conflict, InvalidParameter, NotFound
from headrace.store.database import Database
from headrace.store.files import LIVE_STATES, File, Owner, Page, add_output, fetch_page, get_file
from headrace.store.tables import batch_lines, batches
from headrace.types import Usage

WAITING, RUNNING, COMPLETED, FAILED = "waiting", "running", "completed", "failed"
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewBatch:
    """What a batch is made from."""

    id: str
    owner: Owner
    key: str
    feature: str
    created_s: int
    expires_s: int
    endpoint: str
    input_file: str
    metadata: str
    """JSON; empty = none."""
    output_ttl_s: int | None


class NewLine(NamedTuple):
    """One request of an input file."""

    line: int
    custom_id: str
    start: int
    size: int


class Line(NamedTuple):
    """A claimed one."""

    batch: str
    line: int
    custom_id: str
    start: int
    size: int
    attempt: int
    failures: int


class Result(NamedTuple):
    """How a line ended."""

    good: bool
    text: str
    """As it will be in the output or error file, without the newline."""
    usage: Usage


class EndedLine(NamedTuple):
    """A line of a batch that goes on no more."""

    line: int
    custom_id: str
    state: str
    result: str


class Going(NamedTuple):
    """A batch whose lines may be claimed."""

    id: str
    model: str


async def add_batch(connection: AsyncConnection, new: NewBatch) -> Row[Any]:
    """Raises: NotFound where the file is not the team's; InvalidParameter where it is for
    something else."""
    file = await get_file(connection, new.input_file, new.owner, now_s=new.created_s)
    if file.purpose != "batch":
        raise InvalidParameter(
            f"`input_file_id`: the file {file.id} has the purpose {file.purpose}, not batch",
            param="input_file_id",
        )
    values = {
        name: getattr(new, name)
        for name in ("id", "key", "feature", "created_s", "expires_s", "endpoint", "input_file")
    }
    await connection.execute(
        insert(batches).values(
            **values,
            org=new.owner.org,
            team=new.owner.team,
            metadata=new.metadata,
            output_ttl_s=new.output_ttl_s,
            state="validating",
        )
    )
    return await get_batch(connection, new.id, new.owner)


async def get_batch(connection: AsyncConnection, id: str, owner: Owner) -> Row[Any]:
    """The row, with its counts and tokens as they are now. Raises: NotFound."""
    row = (await connection.execute(_counted(batches.c.id == id, _of(owner)))).one_or_none()
    if row is None:
        raise NotFound(f"there is no batch {id[:80]!r}")
    return row


async def list_batches(
    connection: AsyncConnection, owner: Owner, page: Page
) -> tuple[list[Row[Any]], bool]:
    """A page of a team's batches, the newest first, and whether there are more.

    Raises: NotFound for an `after` that is not the team's.
    """
    rows, more = await fetch_page(connection, batches, [_of(owner)], page, what="batch")
    ids = [row.id for row in rows]
    found = {row.id: row for row in await connection.execute(_counted(batches.c.id.in_(ids)))}
    return [found[id] for id in ids], more


async def cancel(connection: AsyncConnection, id: str, owner: Owner, *, now_s: int) -> Row[Any]:
    """Begin no more of its requests, and end those that run.

    Raises: NotFound; Conflict where it has ended.
    """
    query = select(batches.c.state).where(batches.c.id == id, _of(owner)).with_for_update()
    state = await connection.scalar(query)
    if state in ("validating", "in_progress"):
        await connection.execute(
            update(batches)
            .where(batches.c.id == id)
            .values(state="cancelling", outcome="cancelled", cancelling_s=now_s)
        )
    elif state is not None and state != "cancelling":
        raise Conflict(f"the batch {id} is {state}; only one that has not ended can be cancelled")
    return await get_batch(connection, id, owner)


async def any_live(connection: AsyncConnection) -> bool:
    """Whether there is a batch that has not ended."""
    query = select(batches.c.id).where(batches.c.state.in_(LIVE_STATES)).limit(1)
    return await connection.scalar(query) is not None


# --- the work on a batch ------------------------------------------------------------------------


async def advance(connection: AsyncConnection, *, now_s: int) -> None:
    """Move those on whose time is over, or whose lines have all ended."""
    going = batches.c.state == "in_progress"
    open_lines = exists().where(
        batch_lines.c.batch == batches.c.id, batch_lines.c.state.in_((WAITING, RUNNING))
    )
    for outcome, reached in (("completed", ~open_lines), ("expired", batches.c.expires_s <= now_s)):
        await connection.execute(
            update(batches)
            .where(going, reached)
            .values(state="finalizing", outcome=outcome, finalizing_s=now_s)
        )
    await connection.execute(
        update(batches)
        .where(batches.c.state == "validating", batches.c.expires_s <= now_s)
        .values(state="finalizing", outcome="expired", finalizing_s=now_s)
    )


async def claim_batch(
    connection: AsyncConnection, database: Database, worker: str, *, lease_s: int
) -> Row[Any] | None:
    """One that is to be validated or finalized, ours for the time of a lease."""
    running = exists().where(
        batch_lines.c.batch == batches.c.id,
        batch_lines.c.state == RUNNING,
        batch_lines.c.lease_until_s >= database.now_s,
    )
    due = or_(
        batches.c.state == "validating",
        and_(batches.c.state.in_(("finalizing", "cancelling")), ~running),
    )
    mine = (
        select(batches.c.id)
        .where(due, or_(batches.c.owner == "", batches.c.lease_until_s < database.now_s))
        .order_by(batches.c.created_s)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    id = await connection.scalar(mine)
    if id is None:
        return None
    claimed = (
        update(batches)
        .where(batches.c.id == id)
        .values(owner=worker, lease_until_s=database.now_s + lease_s)
        .returning(batches)
    )
    return (await connection.execute(claimed)).one()


async def renew_batch(
    connection: AsyncConnection, database: Database, id: str, worker: str, *, lease_s: int
) -> bool:
    """Whether it is still ours, for another lease."""
    changed = await connection.execute(
        update(batches)
        .where(batches.c.id == id, batches.c.owner == worker)
        .values(lease_until_s=database.now_s + lease_s)
    )
    return bool(changed.rowcount)


async def clear_lines(connection: AsyncConnection, id: str) -> None:
    """Forget lines of a validation that broke off."""
    await connection.execute(delete(batch_lines).where(batch_lines.c.batch == id))


async def add_lines(connection: AsyncConnection, batch: Row[Any], lines: Sequence[NewLine]) -> None:
    """Insert some."""
    of = {name: getattr(batch, name) for name in ("org", "team", "key", "created_s")}
    rows = [{"batch": batch.id, "state": WAITING, **of, **line._asdict()} for line in lines]
    await connection.execute(insert(batch_lines), rows)


async def start(
    connection: AsyncConnection, id: str, worker: str, *, total: int, model: str, now_s: int
) -> None:
    """A batch that is valid; one that was cancelled meanwhile stays so."""
    await connection.execute(
        update(batches)
        .where(batches.c.id == id, batches.c.owner == worker)
        .values(
            state=case((batches.c.state == "validating", "in_progress"), else_=batches.c.state),
            total=total,
            model=model,
            in_progress_s=now_s,
            owner="",
        )
    )


async def fail(
    connection: AsyncConnection, id: str, worker: str, *, errors: str, now_s: int
) -> None:
    """A batch that is not valid. `errors` is JSON."""
    changed = await connection.execute(
        update(batches)
        .where(batches.c.id == id, batches.c.owner == worker, batches.c.state == "validating")
        .values(state="failed", errors=errors, failed_s=now_s, owner="")
    )
    if changed.rowcount:
        await clear_lines(connection, id)


async def results(
    connection: AsyncConnection, id: str, *, after: int, limit: int
) -> list[EndedLine]:
    """Some of its lines, in order."""
    c = batch_lines.c
    query = (
        select(c.line, c.custom_id, c.state, c.result)
        .where(c.batch == id, c.line > after)
        .order_by(c.line)
        .limit(limit)
    )
    return [EndedLine(*row) for row in await connection.execute(query)]


async def end(
    connection: AsyncConnection,
    id: str,
    worker: str,
    *,
    output: File | None,
    errors: File | None,
    now_s: int,
) -> bool:
    """The end: files, counts and state in one; whether it was still ours to end."""
    query = select(batches.c.outcome).where(batches.c.id == id, batches.c.owner == worker)
    outcome = await connection.scalar(query.with_for_update())
    if outcome is None:
        return False
    c = batch_lines.c
    counts = (
        select(
            func.count().label("total"),
            _sum(case((c.state == COMPLETED, 1), else_=0)).label("completed"),
            *(_sum(c[name]).label(name) for name in _TOKENS),
        )
        .select_from(batch_lines)
        .where(c.batch == id)
    )
    sums = (await connection.execute(counts)).mappings().one()
    for file in (output, errors):
        if file is not None:
            await add_output(connection, file)
    await connection.execute(
        update(batches)
        .where(batches.c.id == id)
        .values(
            state=outcome,
            output_file="" if output is None else output.id,
            error_file="" if errors is None else errors.id,
            completed=sums["completed"],
            failed=sums["total"] - sums["completed"],
            **{name: sums[name] for name in _TOKENS},
            **{f"{outcome}_s": now_s},
            owner="",
        )
    )
    await clear_lines(connection, id)
    return True


# --- the lines ----------------------------------------------------------------------------------


async def going(connection: AsyncConnection) -> list[Going]:
    """Batches whose lines may be claimed."""
    query = select(batches.c.id, batches.c.model).where(batches.c.state == "in_progress")
    return [Going(*row) for row in await connection.execute(query)]


async def claim_lines(
    connection: AsyncConnection,
    database: Database,
    worker: str,
    *,
    batch: str,
    most: int,
    now_s: int,
    lease_s: int,
) -> tuple[Row[Any], list[Line]] | None:
    """Some of a batch's lines that nobody runs, and the batch; None where it does not go on."""
    row = (
        await connection.execute(
            select(batches).where(batches.c.id == batch, batches.c.state == "in_progress")
        )
    ).one_or_none()
    if row is None:
        return None
    c = batch_lines.c
    free = or_(
        and_(c.state == WAITING, c.not_before_s <= now_s),
        and_(c.state == RUNNING, c.lease_until_s < database.now_s),
    )
    wanted = (
        select(c.batch, c.line)
        .where(c.batch == batch, free)
        .order_by(c.line)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    claimed = (
        update(batch_lines)
        .where(tuple_(c.batch, c.line).in_(wanted))
        .values(state=RUNNING, owner=worker, lease_until_s=database.now_s + lease_s)
        .returning(*(c[name] for name in Line._fields))
    )
    return row, sorted(Line(*found) for found in await connection.execute(claimed))


async def renew_lines(
    connection: AsyncConnection, database: Database, worker: str, *, lease_s: int
) -> set[tuple[str, int]]:
    """Which lines are still ours, for another lease: not those of a batch that goes on no more."""
    c = batch_lines.c
    goes_on = select(batches.c.id).where(batches.c.state == "in_progress")
    kept = (
        update(batch_lines)
        .where(c.owner == worker, c.state == RUNNING, c.batch.in_(goes_on))
        .values(lease_until_s=database.now_s + lease_s)
        .returning(c.batch, c.line)
    )
    return {(row.batch, row.line) for row in await connection.execute(kept)}


async def finish_line(connection: AsyncConnection, worker: str, line: Line, result: Result) -> bool:
    """Write how a line ended; whether it was still ours."""
    usage = result.usage
    changed = await connection.execute(
        update(batch_lines)
        .where(*_ours(worker, line))
        .values(
            state=COMPLETED if result.good else FAILED,
            result=result.text,
            owner="",
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        )
    )
    return bool(changed.rowcount)


async def put_back(
    connection: AsyncConnection, worker: str, line: Line, *, not_before_s: int, failed: bool
) -> None:
    """Let a line be tried again, as another attempt."""
    await connection.execute(
        update(batch_lines)
        .where(*_ours(worker, line))
        .values(
            state=WAITING,
            owner="",
            attempt=batch_lines.c.attempt + 1,
            failures=batch_lines.c.failures + int(failed),
            not_before_s=not_before_s,
        )
    )


async def release(connection: AsyncConnection, worker: str) -> None:
    """A worker is dead: what it had is others' at once, not after its lease."""
    for table in (batch_lines, batches):
        await connection.execute(
            update(table).where(table.c.owner == worker).values(lease_until_s=0)
        )


def _ours(worker: str, line: Line) -> tuple[ColumnElement[bool], ...]:
    c = batch_lines.c
    return (
        c.batch == line.batch,
        c.line == line.line,
        c.owner == worker,
        c.state == RUNNING,
        c.attempt == line.attempt,
    )


def _of(owner: Owner) -> ColumnElement[bool]:
    return and_(batches.c.org == owner.org, batches.c.team == owner.team)


def _sum(column: Any) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


def _counted(*wanted: ColumnElement[bool]) -> Select[Any]:
    """Batches with the counts and tokens of the lines they still have."""
    c = batch_lines.c
    sums = (
        select(
            c.batch,
            _sum(case((c.state == COMPLETED, 1), else_=0)).label("lines_completed"),
            _sum(case((c.state == FAILED, 1), else_=0)).label("lines_failed"),
            *(_sum(c[name]).label(f"lines_{name}") for name in _TOKENS),
        )
        .where(c.batch.in_(select(batches.c.id).where(*wanted)))
        .group_by(c.batch)
        .subquery()
    )
    names = ("completed", "failed", *_TOKENS)
    now = [
        (batches.c[name] + func.coalesce(sums.c[f"lines_{name}"], 0)).label(f"{name}_now")
        for name in names
    ]
    joined = batches.outerjoin(sums, sums.c.batch == batches.c.id)
    return select(batches, *now).select_from(joined).where(*wanted)
