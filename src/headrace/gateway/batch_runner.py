"""The batches of the store, worked off: validated, run line by line in idle capacity, finalized.

Every replica runs one of these over the same tables. Invariants: a line or a batch is worked on
only under a lease, renewed long before it ends; who loses it stops. A line given to the local
engine waits there for room; for a provider's model there are few at once, fewer the more other
requests are being answered.
"""

import asyncio
import contextlib
import json
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import HeadraceError, LimitExceeded, ServiceError, StoreUnavailable
from headrace.gateway.batch_input import CHUNK_LINES, Checker, split
from headrace.gateway.batch_line import Job, LineAnswer, run_line
from headrace.gateway.batch_output import line_id, write_outputs
from headrace.gateway.batch_queue import BatchQueue
from headrace.gateway.calls import find
from headrace.gateway.http import closing, stop
from headrace.gateway.live import Live
from headrace.gateway.services import Services
from headrace.gateway.table import DataRoute
from headrace.store import batches
from headrace.store.batches import EndedLine, Line, Result
from headrace.store.blobs import read_all
from headrace.store.quotes import Holder, record
from headrace.types import Caller
from headrace.wire.batch_calls import encode_answer, read_line

LEASE_S = 30
_POLL_S = 1.0
_CLEAN_S = 60.0
_MOST_FAILURES = 3
"""After so many attempts that a server failed, its error is the answer."""
_LONGEST_PAUSE_S = 60
_BATCHES_A_ROUND = 16
_PAGE_LINES = 200
_LOG = logging.getLogger("headrace.gateway")

Identify: TypeAlias = Callable[[str, str, str], Awaitable[Caller]]
"""(key id, feature, route) -> who asked, with the rights of now."""
_At: TypeAlias = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """Of `[batches]`."""

    local_lines: int = 16
    provider_lines: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class _Running:
    task: "asyncio.Task[None]"
    local: bool


class BatchRunner:
    """`run` it as a task."""

    def __init__(
        self,
        live: Live,
        queue: BatchQueue,
        *,
        identify: Identify,
        limits: BatchLimits,
        worker: str = "",
        lease_s: int = LEASE_S,
        poll_s: float = _POLL_S,
    ) -> None:
        """Prepare.

        Args:
            live: The services of now.
            queue: Where batches are.
            identify: Says who asked for a batch.
            limits: How many lines at once.
            worker: The name that the process's journal has too: who finds that journal without its
                process takes over its lines at once.
            lease_s: Whoever is silent for longer loses what it works on.
            poll_s: Between two looks at the store.
        """
        self._live = live
        self._queue = queue
        self._database = queue.database
        self._files = queue.files
        self._identify = identify
        self._limits = limits
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._worker = worker or secrets.token_hex(8)
        self._lines: dict[_At, _Running] = {}
        self._job: asyncio.Task[None] | None = None
        self._renewed_s = 0.0
        self._cleaned_s = float("-inf")

    async def run(self) -> None:
        """Work until cancelled; what runs then is put back."""
        try:
            while True:
                try:
                    await self.round()
                except StoreUnavailable as error:
                    _LOG.warning("batches wait: %s", error.message)
                    await self._stop_if_lost()
                except Exception:  # noqa: BLE001 - the other batches must go on
                    _LOG.exception("a bug in the work on batches")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._queue.woken.wait(), self._poll_s)
                self._queue.woken.clear()
        finally:
            tasks = [running.task for running in self._lines.values()]
            await stop(*tasks, *([self._job] if self._job else []))

    async def round(self) -> None:
        """Renew, move on, begin what there is room for. Raises: StoreUnavailable."""
        await self._renew()
        if await self._database.read(batches.any_live):
            now_s = self._queue.now_s
            await self._database.write(lambda c: batches.advance(c, now_s=now_s))
            await self._begin_job()
            await self._begin_lines()
        loop_s = asyncio.get_running_loop().time()
        if loop_s - self._cleaned_s > _CLEAN_S:
            self._cleaned_s = loop_s
            await self._files.clean()

    @property
    def busy(self) -> bool:
        """Whether anything runs in this process."""
        return bool(self._lines) or self._job is not None

    # --- leases ---------------------------------------------------------------------------------

    async def _renew(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if not self._lines:
            self._renewed_s = now_s
            return
        before = set(self._lines)
        kept = await self._database.write(
            lambda c: batches.renew_lines(c, self._database, self._worker, lease_s=self._lease_s)
        )
        self._renewed_s = now_s
        for at in before - kept:
            running = self._lines.get(at)
            if running is not None:  # else it has ended meanwhile
                running.task.cancel()

    async def _stop_if_lost(self) -> None:
        """Others may have the lines by now, if nothing could be renewed for so long."""
        if asyncio.get_running_loop().time() - self._renewed_s > self._lease_s * 0.8:
            await stop(*(running.task for running in self._lines.values()))

    # --- whole batches --------------------------------------------------------------------------

    async def _begin_job(self) -> None:
        if self._job is not None:
            return
        batch = await self._database.write(
            lambda c: batches.claim_batch(c, self._database, self._worker, lease_s=self._lease_s)
        )
        if batch is not None:
            self._job = asyncio.create_task(self._work_on(batch))

    async def _work_on(self, batch: Row[Any]) -> None:
        try:
            if batch.state == "validating":
                await self._validate(batch)
            else:
                await self._finalize(batch)
        except StoreUnavailable as error:
            _LOG.warning("the batch %s waits: %s", batch.id, error.message)
        except Exception:  # noqa: BLE001 - it is tried again when its lease is over
            _LOG.exception("a bug in the work on the batch %s", batch.id)
        finally:
            self._job = None
            self._queue.woken.set()

    async def _validate(self, batch: Row[Any]) -> None:
        generation = self._live.enter()
        try:
            checker = await self._check(batch, generation.services)
        finally:
            self._live.leave(generation)
        now_s, worker = self._queue.now_s, self._worker
        if checker.faults:
            errors = json.dumps(checker.faults)
            await self._database.write(
                lambda c: batches.fail(c, batch.id, worker, errors=errors, now_s=now_s)
            )
            return
        await self._keep_lines(batch, checker)
        await self._database.write(
            lambda c: batches.start(
                c, batch.id, worker, total=checker.total, model=checker.model, now_s=now_s
            )
        )

    async def _check(self, batch: Row[Any], services: Services) -> Checker:
        await self._database.write(lambda c: batches.clear_lines(c, batch.id))
        caller = Caller()

        def find_model(name: str) -> object:
            return find(services, name, caller)

        checker = Checker(
            endpoint=batch.endpoint,
            max_lines=self._queue.max_lines,
            max_bytes=services.limits.max_body_bytes,
            find=find_model,
        )
        try:
            caller = await self._identify(batch.key, batch.feature, batch.endpoint)
        except StoreUnavailable:
            raise
        except HeadraceError as error:
            checker.refused(error)
            return checker
        content = self._files.blobs.read(batch.input_file)
        async with closing(split(content, max_bytes=checker.max_bytes)) as lines:
            async for line in lines:
                checker.take(line)
                if checker.hopeless:
                    break
                if len(checker.fresh) >= CHUNK_LINES:
                    await self._keep_lines(batch, checker)
        checker.close()
        return checker

    async def _keep_lines(self, batch: Row[Any], checker: Checker) -> None:
        fresh, checker.fresh = checker.fresh, []
        if fresh:
            await self._database.write(lambda c: batches.add_lines(c, batch, fresh))
        await self._renew_batch(batch)

    async def _renew_batch(self, batch: Row[Any]) -> None:
        ours = await self._database.write(
            lambda c: batches.renew_batch(
                c, self._database, batch.id, self._worker, lease_s=self._lease_s
            )
        )
        if not ours:
            raise StoreUnavailable(f"another replica has taken over the batch {batch.id}")

    async def _finalize(self, batch: Row[Any]) -> None:
        now_s = self._queue.now_s
        blobs = self._files.blobs
        made = await write_outputs(blobs, batch, self._ended_lines(batch), now_s=now_s)
        ended = await self._database.write(
            lambda c: batches.end(
                c, batch.id, self._worker, output=made.output, errors=made.errors, now_s=now_s
            )
        )
        if not ended:
            for file in (made.output, made.errors):
                if file is not None:
                    await blobs.delete(file.id)

    async def _ended_lines(self, batch: Row[Any]) -> AsyncIterator[EndedLine]:
        after = 0
        while True:
            page = await self._database.read(
                lambda c, at=after: batches.results(c, batch.id, after=at, limit=_PAGE_LINES)
            )
            if not page:
                return
            for row in page:
                yield row
            after = page[-1].line
            await self._renew_batch(batch)

    # --- lines ----------------------------------------------------------------------------------

    async def _begin_lines(self) -> None:
        found = await self._database.read(batches.going)
        random.shuffle(found)  # every batch gets its turn, whatever the others are
        left = min(len(found), _BATCHES_A_ROUND)
        for batch in found[:_BATCHES_A_ROUND]:
            services = self._live.services
            local = self._is_local(services, batch.model)
            room = self._room(services, local=local)
            if room > 0:
                await self._begin_some(batch.id, -(-room // left), local=local)
            left -= 1

    async def _begin_some(self, id: str, most: int, *, local: bool) -> None:
        claimed = await self._database.write(
            lambda c: batches.claim_lines(
                c,
                self._database,
                self._worker,
                batch=id,
                most=most,
                now_s=self._queue.now_s,
                lease_s=self._lease_s,
            )
        )
        if claimed is None:
            return
        batch, lines = claimed
        for line in lines:
            at = (line.batch, line.line)
            if at not in self._lines:  # else its lease ran out while it runs here: let it end
                self._lines[at] = _Running(
                    task=asyncio.create_task(self._run(batch, line)), local=local
                )

    def _is_local(self, services: Services, model: str) -> bool:
        served = services.models.get(model)
        return served is None or served.codec is not None

    def _room(self, services: Services, *, local: bool) -> int:
        running = sum(1 for one in self._lines.values() if one.local is local)
        most = self._limits.local_lines
        if not local:
            most = max(1, self._limits.provider_lines - services.load.live)
        return most - running

    async def _run(self, batch: Row[Any], line: Line) -> None:
        try:
            answer = await self._ask(batch, line)
            await self._keep(batch, line, answer)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_up(line))
            raise
        except StoreUnavailable as error:
            _LOG.warning("line %d of %s waits: %s", line.line, line.batch, error.message)
            await self._give_up(line)
        except Exception:  # noqa: BLE001 - one line must not end the others
            _LOG.exception("a bug in line %d of %s", line.line, line.batch)
            await self._give_up(line)
        finally:
            self._lines.pop((line.batch, line.line), None)
            self._queue.woken.set()

    async def _ask(self, batch: Row[Any], line: Line) -> LineAnswer:
        data = await read_all(self._files.blobs, batch.input_file, start=line.start, size=line.size)
        job = Job(
            batch=batch.id,
            request_id=_request_id(line),
            endpoint=batch.endpoint,
            body=read_line(data, batch.endpoint).body,
        )

        async def identify(route: DataRoute) -> Caller:
            return await self._identify(batch.key, batch.feature, route.prefix)

        generation = self._live.enter()
        try:
            return await run_line(generation.services, job, identify)
        finally:
            self._live.leave(generation)

    async def _keep(self, batch: Row[Any], line: Line, answer: LineAnswer) -> None:
        """Write the answer, or put the line back where asking again may help."""
        pause_s = _pause_s(answer.error, line)
        if pause_s is not None:
            failed = not _refused(answer.error)
            at_s = self._queue.now_s + pause_s
            await self._until_written(
                lambda c: batches.put_back(c, self._worker, line, not_before_s=at_s, failed=failed)
            )
            return
        text = encode_answer(
            line_id(batch.id, line.line),
            line.custom_id,
            status=answer.status,
            request_id=_request_id(line),
            body=answer.body,
        )
        result = Result(answer.status < 400, text.decode(), answer.usage)
        holder = Holder(request=_request_id(line), batch=batch.id)

        async def keep(connection: AsyncConnection) -> None:
            await batches.finish_line(connection, self._worker, line, result)
            await record(connection, holder, answer.quotes)

        await self._until_written(keep)

    async def _until_written(self, work: Callable[[Any], Awaitable[Any]]) -> None:
        """An answer that was paid for waits for the database, as long as the line is ours."""
        while True:
            try:
                await self._database.write(work)
            except StoreUnavailable as error:
                _LOG.warning("an answer waits to be written: %s", error.message)
                await asyncio.sleep(self._poll_s)
            else:
                return

    async def _give_up(self, line: Line) -> None:
        now_s = self._queue.now_s
        with contextlib.suppress(StoreUnavailable):  # then its lease will end
            await self._database.write(
                lambda c: batches.put_back(c, self._worker, line, not_before_s=now_s, failed=False)
            )


def _request_id(line: Line) -> str:
    """The same for whoever runs this attempt: the ledger books it once."""
    return f"{line.batch.removeprefix('batch_')}-{line.line}-{line.attempt}"


def _refused(error: HeadraceError | None) -> bool:
    """Whether nothing was asked of any model: that is no failure, it may be said any number of
    times."""
    return isinstance(error, LimitExceeded | StoreUnavailable) or (
        isinstance(error, ServiceError) and error.code in ("overloaded", "not_ready")
    )


def _pause_s(error: HeadraceError | None, line: Line) -> int | None:
    """Seconds after which to ask again; None = the answer is final."""
    if error is None or not error.retryable:
        return None
    if not _refused(error) and line.failures + 1 >= _MOST_FAILURES:
        return None
    said: int | None = getattr(error, "retry_after_s", None)
    return min(2**line.failures if said is None else said, _LONGEST_PAUSE_S)
