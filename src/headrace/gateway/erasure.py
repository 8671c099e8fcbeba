"""One deletion of all text of somebody: traces, stored responses, kept answers and, where asked,
files and batches; from the tables, from the memory of workers and from the files' bytes.

Invariant: money stays; rows of the ledger have no text. What is answered while the deletion runs
may be kept after it: end what runs first (revoke the key), then delete.
"""

from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import InvalidParameter
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.file_store import FileStore
from headrace.gateway.traces import Traces
from headrace.store import texts
from headrace.store import traces as trace_store
from headrace.store.database import Database, bump
from headrace.store.texts import Whose
from headrace.store.traces import Which

_CHUNK = 500


class Erased(NamedTuple):
    """How many of each are gone."""

    traces: int
    responses: int
    answers: int
    files: int
    batches: int
    busy: int
    """Batches that have not ended and keep their files: cancel them, and delete again."""
    scrubbed: bool
    """False = somebody read from a database just then; deleted text may be in its log: again."""


class Erasure:
    """What keeps texts, together."""

    def __init__(
        self,
        database: Database,
        *,
        traces: Traces | None,
        files: FileStore | None,
        shelf: Shelf | None,
    ) -> None:
        """
        Args:
            database: Of responses, answers, files.
            traces: None = none are kept.
            files: None = there are none.
            shelf: Of this worker; others forget theirs when they see that something changed.
        """
        self._database = database
        self._traces = traces
        self._files = files
        self._shelf = shelf

    async def erase(self, which: Which, *, files: bool) -> Erased:
        """Delete everything that matches.

        Args:
            which: By id, organization, team, key, end user or time.
            files: Files and batches too, which have no end user and no request.

        Raises:
            InvalidParameter: An end user or a request where there are no traces, which alone know
                what is theirs; or with `files`.
            StoreUnavailable: Some of it may be gone; ask again.
        """
        single = which.id is not None or which.end_user is not None
        if single and files:
            raise InvalidParameter(
                "files and batches have a key and no end user or request: say org, team or key",
                param="files",
            )
        if single and self._traces is None:
            raise InvalidParameter(
                "texts of an end user or a request are found by its traces, and this service keeps "
                "none; say org, team or key"
            )
        whose = Whose(which.org, which.team, which.key, which.since_s, which.until_s)
        if self._shelf is not None:
            await self._shelf.flush()
        traces, responses = await self._by_traces(which)
        gone = texts.Files([], 0, 0)
        if not single:
            write = self._database.write
            responses += await write(lambda c: texts.remove_responses(c, whose))
            if files:
                gone = await write(lambda c: texts.remove_files(c, whose))
        if self._files is not None:
            for id in gone.gone:
                await self._files.blobs.delete(id)
        answers = await self._database.write(lambda c: _answers(c, whose))
        if self._shelf is not None:
            self._shelf.forget()
        return Erased(
            traces=traces,
            responses=responses,
            answers=answers,
            files=len(gone.gone),
            batches=gone.batches,
            busy=gone.busy,
            scrubbed=await self._scrub(),
        )

    async def _by_traces(self, which: Which) -> tuple[int, int]:
        """Traces, and the responses of their requests: those first, for traces name them."""
        if self._traces is None:
            return 0, 0
        await self._traces.flush()
        database, removed, responses = self._traces.database, 0, 0
        while rows := await database.read(lambda c: trace_store.find(c, which, limit=_CHUNK)):
            ids = [row.id for row in rows]
            responses += await self._database.write(
                lambda c, ids=ids: texts.remove_responses_of(c, ids)
            )
            removed += await database.write(lambda c, ids=ids: trace_store.remove_ids(c, ids))
        return removed, responses

    async def _scrub(self) -> bool:
        own = self._database
        tables = texts.PG_TABLES if own.postgres else texts.TABLES
        clean = await own.scrub(*tables)
        if self._traces is not None:
            clean = await self._traces.database.scrub(*trace_store.TABLES) and clean
        return clean


async def _answers(connection: AsyncConnection, whose: Whose) -> int:
    removed = await texts.remove_answers(connection, whose)
    await bump(connection)  # every worker forgets what it has in memory
    return removed
