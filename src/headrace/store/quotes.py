"""What quotes which documents of indexes, which of them are gone since, and what has to follow.

A document is noted as gone for `KEPT_S`, so that what was under way when it went, and is written
after it, is found too. Invariant: what is due was made with a text that is not the document's now.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, delete, exists, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.store.database import bump
from headrace.store.files import LIVE_STATES
from headrace.store.tables import answers, batches, files, forgotten, quotes, responses
from headrace.store.upsert import upsert
from headrace.types import Quote

KEPT_S = 3 * 86_400
"""Longer than a batch runs."""
EVERY = ""
"""Instead of a document's id: all of its index."""
_AT_ONCE = 200


class Holder(NamedTuple):
    """What quotes: a request, with all that is kept of it, or a kept answer."""

    request: str = ""
    answer: str = ""
    batch: str = ""
    """That the request was a line of."""


async def record(
    connection: AsyncConnection,
    holder: Holder,
    found: Sequence[Quote],
    *,
    continues: Sequence[str] = (),
) -> None:
    """Note what it quotes; once more is the same as once.

    Args:
        connection: Of the store.
        holder: What was made.
        found: Documents that it was made with.
        continues: Requests whose quotes are its own too.
    """
    postgres = connection.dialect.name == "postgresql"
    made = holder._asdict()
    rows = [
        {
            "org": one.org,
            "team": one.team,
            "name": one.index,
            "document": one.document,
            "created_s": one.seen_s,
            **made,
        }
        for one in dict.fromkeys(found)
    ]
    if rows:
        await connection.execute(upsert(quotes, postgres=postgres).on_conflict_do_nothing(), rows)
    if continues:
        c = quotes.c
        of = (c.org, c.team, c.name, c.document)
        inherited = (
            select(*of, *(literal(value) for value in made.values()), func.min(c.created_s))
            .where(c.request.in_(continues))
            .group_by(*of)
        )
        names = [column.name for column in of] + [*made, "created_s"]
        add = upsert(quotes, postgres=postgres).from_select(names, inherited)
        await connection.execute(add.on_conflict_do_nothing())


async def forget(
    connection: AsyncConnection,
    org: str,
    team: str,
    index: str,
    documents: Sequence[str],
    *,
    now_s: int,
) -> None:
    """Note documents that are gone, or say something else; every worker is woken."""
    rows = [
        {"org": org, "team": team, "name": index, "document": document, "at_s": now_s}
        for document in dict.fromkeys(documents)
    ]
    if not rows:
        return
    add = upsert(forgotten, postgres=connection.dialect.name == "postgresql")
    keys = ["org", "team", "name", "document"]
    later: Any = add.on_conflict_do_update(index_elements=keys, set_={"at_s": add.excluded["at_s"]})
    await connection.execute(later, rows)
    await bump(connection)


async def due(connection: AsyncConnection) -> list[Holder]:
    """Some of those that quote what is gone; lines of a batch that runs wait for its end."""
    q, f = quotes.c, forgotten.c
    same = and_(q.org == f.org, q.team == f.team, q.name == f.name)
    gone = and_(same, or_(q.document == f.document, f.document == EVERY), q.created_s <= f.at_s)
    runs = select(batches.c.id).where(batches.c.state.in_(LIVE_STATES))
    query = (
        select(q.request, q.answer, q.batch)
        .select_from(quotes.join(forgotten, gone))
        .where(q.batch.not_in(runs))
        .distinct()
        .limit(_AT_ONCE)
    )
    return [Holder(*row) for row in await connection.execute(query)]


async def remove_answers(connection: AsyncConnection, ids: Sequence[str]) -> int:
    """Delete kept answers; every worker forgets its own. How many there were."""
    gone = await connection.execute(delete(answers).where(answers.c.id.in_(ids)))
    await bump(connection)
    return gone.rowcount


async def remove_outputs(connection: AsyncConnection, ended: Sequence[str]) -> list[str]:
    """Delete the rows of the files that batches wrote; their ids, whose bytes are to go."""
    c = batches.c
    found = await connection.execute(
        select(c.output_file, c.error_file).where(c.id.in_(ended), c.state.not_in(LIVE_STATES))
    )
    ids = [id for row in found for id in row if id]
    gone = delete(files).where(files.c.id.in_(ids)).returning(files.c.id)
    return list(await connection.scalars(gone))


async def drop(connection: AsyncConnection, holders: Sequence[Holder]) -> None:
    """They quote nothing any more."""
    for holder in holders:
        await connection.execute(
            delete(quotes).where(
                quotes.c.request == holder.request, quotes.c.answer == holder.answer
            )
        )


async def sweep(connection: AsyncConnection, *, now_s: int, traces_s: int) -> None:
    """Delete what no longer says anything: of answers and responses that are gone by themselves and
    of traces that are older than any is kept, and notes of documents that are gone for long."""
    await connection.execute(delete(forgotten).where(forgotten.c.at_s < now_s - KEPT_S))
    q = quotes.c
    answered = exists().where(answers.c.id == q.answer)
    responded = exists().where(responses.c.id == literal("resp_").concat(q.request))
    old = and_(q.created_s < now_s - traces_s, q.request != "", q.batch == "", ~responded)
    past = and_(q.created_s < now_s - KEPT_S, q.answer != "", ~answered)
    await connection.execute(delete(quotes).where(or_(old, past)))
