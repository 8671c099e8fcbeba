"""Records on their way into the trace store: a bounded queue, written in batches, off the hot path.

`take` only appends; redaction, encoding and SQL run in a task and its threads. Invariants: what
waits is bounded in number and in bytes; what had no place or could not be written is counted in
`headrace_traces_dropped_total`; no content is stored that was not redacted; while the database is
away, records wait and requests do not.
"""

import asyncio
import contextlib
import logging
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.config import TraceSettings
from headrace.data import pii
from headrace.errors import ConfigError, DataError, StoreUnavailable
from headrace.gateway.backlog import Backlog, Waiting
from headrace.gateway.detail import Detail
from headrace.gateway.http import stop
from headrace.gateway.trace_body import Clean, content, encode
from headrace.observe.pipeline import Pipeline
from headrace.observe.usage import UsageRecord
from headrace.store import quotes
from headrace.store import traces as store
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.quotes import Holder
from headrace.store.traces import MILLION, Content, Policy, TraceRow
from headrace.types import Caller

BATCH = 500
FLUSH_S = 0.5
PURGE_S = 3600.0
SCRUB_S = 86_400.0
_RETRY_S = 1.0
_CLOSE_S = 10.0
_DRAWN = 10
_CONTENT, _TRACE = slice(-10, None), slice(-20, -10)
"""Digits of an id that say whether its content, and whether it, is kept."""
_HEX = frozenset("0123456789abcdef")
_LOG = logging.getLogger("headrace.traces")


class Rules(NamedTuple):
    """Settings that held."""

    settings: TraceSettings
    clean: Clean


def rules(settings: TraceSettings) -> Rules:
    """Check the settings.

    Raises: ConfigError naming the one that cannot be.
    """
    for name in ("rate", "content_rate"):
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"traces.{name} = {value} is not a part of one; it takes 0 to 1")
    for name, low in (
        ("retention_days", 1),
        ("max_content_bytes", 1024),
        ("max_queued", 1),
        ("max_queued_bytes", 1 << 20),
    ):
        value = getattr(settings, name)
        if value < low:
            raise ConfigError(f"traces.{name} = {value} is too small; it takes {low} or more")
    if settings.redact == "off":
        return Rules(settings, _as_it_is)
    try:
        scrub = pii.load(settings.redact)
    except DataError as error:
        raise ConfigError(f"traces.redact: {error.message}") from error
    return Rules(settings, lambda text: scrub(text).text)


def _as_it_is(text: str) -> str:
    return text


class Traces:
    """One worker's; `run` it as a task, `close` it after the last request."""

    def __init__(
        self,
        database: Database,
        policies: Database,
        changes: Changes | None,
        found: Rules,
        *,
        pipeline: Pipeline,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with no policy known: until `refresh`, no content is kept.

        Args:
            database: Where traces are.
            policies: Where organizations' and teams' policies are.
            changes: Says when those have changed; None = they are read by `refresh` alone.
            found: The settings.
            pipeline: Counts what is written and what is not.
            clock: Unix time.
        """
        self.database = database
        self.policies = policies
        self._rules = found
        self._pipeline = pipeline
        self._clock = clock
        self._known: dict[tuple[str, str], Policy] | None = None
        self._stale = True
        self._backlog = Backlog(pipeline)
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._scrubbed = time.monotonic()
        if changes is not None:
            changes.on_change(self._forget)

    def use(self, found: Rules) -> None:
        """Other settings, from now on."""
        self._rules = found

    def keeps(self, caller: Caller, id: str) -> bool:
        """Whether a request's content is sampled: a pure function of its id and the rate."""
        if self._known is None:
            return False
        ppm = round(self._rules.settings.content_rate * MILLION)
        for scope, subject in (("org", caller.org), ("team", caller.team)):
            policy = self._known.get((scope, subject))
            if policy is not None and policy.content_ppm is not None:
                ppm = policy.content_ppm
        return ppm > 0 and _draw(id, _CONTENT) < ppm

    @property
    def retention_days(self) -> int:
        """Of whom no policy says otherwise."""
        return self._rules.settings.retention_days

    @property
    def max_characters(self) -> int:
        """Of a prompt or an answer that is kept."""
        return self._rules.settings.max_content_bytes

    def take(self, record: UsageRecord, detail: Detail) -> None:
        """Queue one; where there is no place the newest is dropped and counted.

        Of a caller that nobody knows there is no trace: strangers must not fill a database.
        """
        if not record.key_id:
            return
        settings = self._rules.settings
        failed = record.status >= 400
        if not failed and _draw(record.id, _TRACE) >= settings.rate * MILLION:
            self._pipeline.dropped("rate", 1)
            return
        most, most_bytes = settings.max_queued, settings.max_queued_bytes
        self._backlog.put(record, detail, most=most, most_bytes=most_bytes)
        if len(self._backlog) >= BATCH:
            self._news.set()

    async def refresh(self) -> None:
        """Read the policies. Raises: StoreUnavailable; what was known stays."""
        self._stale = False
        found = await self.policies.read(store.all_policies)
        self._known = {(policy.scope, policy.subject): policy for policy in found}

    async def flush(self) -> None:
        """Write everything that waits.

        Raises: StoreUnavailable; what was not written waits on.
        """
        async with self._turn:
            while batch := self._backlog.take(BATCH):
                try:
                    await self._write_batch(batch)
                except BaseException:
                    self._backlog.restore(batch)
                    raise
                self._backlog.done(batch)

    async def purge(self) -> int:
        """Delete what is older than it may be; how many.

        Raises: StoreUnavailable.
        """
        policies = await self.policies.read(store.all_policies)
        days, now_s = self._rules.settings.retention_days, int(self._clock())
        total = 0
        while True:
            removed = await self.database.write(
                lambda c: store.expire(c, policies, default_days=days, now_s=now_s)
            )
            total += removed
            if not removed:
                break
        if total:
            self._pipeline.expired(total)
            if time.monotonic() - self._scrubbed >= SCRUB_S:
                await self.database.scrub(*store.TABLES)
                self._scrubbed = time.monotonic()
        return total

    async def run(self) -> None:
        """Write, and delete what is too old, until cancelled."""
        purged = -PURGE_S
        while True:
            try:
                if self._stale:
                    await self.refresh()
                await self.flush()
                if time.monotonic() - purged >= PURGE_S:
                    purged = time.monotonic()
                    await self.purge()
            except StoreUnavailable as error:
                self._stale = True
                _LOG.warning("%d traces wait: %s", len(self._backlog), error.message)
                await asyncio.sleep(_RETRY_S)
            except Exception:  # noqa: BLE001 - the next ones must still be written
                _LOG.exception("a bug in the trace store")
                await asyncio.sleep(_RETRY_S)
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), FLUSH_S)

    async def close(self) -> None:
        """Write what waits, for a while; the rest is counted as dropped."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.flush()
        except (StoreUnavailable, TimeoutError) as error:
            _LOG.warning("%d traces are lost: %s", len(self._backlog), error)
            self._backlog.abandon()

    async def _write_batch(self, batch: Sequence[Waiting]) -> None:
        try:
            await self._write(batch)
        except StoreUnavailable:
            raise
        except Exception:  # noqa: BLE001 - counted and logged below
            if len(batch) > 1:  # one that cannot be written must not take the others along
                for item in batch:
                    await self._write_batch([item])
                return
            _LOG.exception("a bug: the trace of request %s is lost", batch[0].record.id)
            self._pipeline.dropped("error", 1)
        else:
            self._pipeline.written(len(batch))

    async def _write(self, batch: Sequence[Waiting]) -> None:
        rows, contents = await asyncio.to_thread(self._rows, batch)
        quoting = [item.record for item in batch if item.record.quotes or item.record.continues]
        if quoting:  # first: what is stored must be found where a document goes
            await self.policies.write(lambda c: _quoted(c, quoting))
        await self.database.write(lambda c: store.write(c, self.database, rows, contents))

    def _rows(self, batch: Sequence[Waiting]) -> tuple[list[TraceRow], list[Content]]:
        clean = self._rules.clean
        rows = [encode(item.record, item.detail, clean) for item in batch]
        contents = [content(item.record, item.detail, clean) for item in batch]
        return rows, [found for found in contents if found is not None]

    def _forget(self) -> None:
        self._stale = True
        self._news.set()


@contextlib.asynccontextmanager
async def open_traces(
    settings: TraceSettings,
    url: str,
    *,
    database: Database,
    database_url: str,
    changes: Changes,
    pipeline: Pipeline,
) -> AsyncGenerator[Traces]:
    """The trace store of a running gateway, written until the end of the block.

    Args:
        settings: As `rules`.
        url: Where traces are.
        database: The gateway's store.
        database_url: Where that is; where it is the same, there is one database.
        changes: The gateway store's.
        pipeline: Counts.

    Raises:
        ConfigError, StoreUnavailable: As `rules` and `Database.open`.
    """
    found = rules(settings)
    own = await Database.open(url, pool_size=2) if url != database_url else None
    traces = Traces(own or database, database, changes, found, pipeline=pipeline)
    task = asyncio.create_task(traces.run())
    try:
        yield traces
    finally:
        await stop(task)
        await traces.close()
        if own is not None:
            await own.close()


async def _quoted(connection: AsyncConnection, records: Sequence[UsageRecord]) -> None:
    for one in records:
        await quotes.record(
            connection,
            Holder(request=one.id, batch=one.batch),
            one.quotes,
            continues=one.continues,
        )


def _draw(id: str, where: slice) -> int:
    """A number below a million that depends on nothing but ten digits of an id, evenly; it begins
    with the time, so they are of its end."""
    digits = id[where]
    if len(digits) == _DRAWN and all(character in _HEX for character in digits):
        return int(digits, 16) % MILLION
    return zlib.crc32(f"{where.start}{id}".encode()) % MILLION  # an id that is not ours
