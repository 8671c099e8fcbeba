"""Hold before the call, settle after it: budgets and rates that no interleaving oversteps.

`hold` takes the worst that a request may use out of this worker's slices of every limit on its
caller; where a slice is too small, one database transaction lends more of all, or refuses.
On a warm slice nothing is awaited, no database touched. `settle` gives back what was not used.
Both are lines in the worker's journal first; `flush` books them in the database a few times a
second. Invariants: slice = free + held + unbooked; what is held was lent; a hold is settled once;
while the database has not confirmed this worker for a lease's time, nothing is held.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import LimitExceeded, RateLimitExceeded, StoreUnavailable
from headrace.gateway.billing import billed, calls_of
from headrace.gateway.need import Need
from headrace.gateway.slices import Hold, Slice, affordable, amount_of, amounts, refused, used_of
from headrace.store import ledger as books
from headrace.store.changes import Changes
from headrace.store.database import PROMPT_S, Database
from headrace.store.entries import HELD, SETTLED, Charge, Entry
from headrace.store.journal import Journal
from headrace.store.leases import Ask, Grant, Refusal, take, touch
from headrace.store.limits import Limit, Unit, for_caller
from headrace.store.windows import window_at
from headrace.types import Caller, Trail, Usage

LEASE_S = 30
"""Without a word of a worker for so long, its slices are lost."""
SILENT_S = 24
"""A worker that can give no sign of life stops by itself after this, before its lease ends."""
GRACE_S = 600
"""And after this, what it was running is settled at all that was held."""
FLUSH_S = 0.2
NOTE_S = 1.0
"""What runs for longer is noted where other replicas see it."""
IDLE_S = 1.0
"""A slice that nobody took from for so long is returned."""
_SHARE = 4
"""Under load a flush is rarer than that: so many times its own length apart, and a second at most;
what it costs is much the same for a hundred requests and for a thousand."""
_SWEEP_S = 5.0
_PLENTY = 64
"""Of so many requests' worth a slice is not topped up when another runs out."""
_REFUSED_S = 0.1
"""So long a refusal is believed: who asks an empty budget again and again costs no transactions."""
_TRIES = 8
_AWAY_S = 1.0
T = TypeVar("T")
_LOG = logging.getLogger("headrace.gateway")


class _Refused(NamedTuple):
    refusal: Refusal
    least: int
    until: float


class _Batch(NamedTuple):
    ended: list[Entry]
    noted: list[str]
    running: list[Hold]
    unbooked: list[tuple[Slice, int]]
    targets: dict[int, int]


class Ledger:
    """One worker's; `run` it as a task, `close` it after the last settlement."""

    def __init__(
        self,
        database: Database,
        changes: Changes,
        journal: Journal,
        *,
        lease_s: int = LEASE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._journal = journal
        self._lease_s = lease_s
        self._clock = clock
        self._worker = journal.worker
        self._confirmed = -math.inf
        self._limits: dict[tuple[str, str], tuple[Limit, ...]] = {}
        self._generation = 0
        self._slices: dict[int, Slice] = {}
        self._old: list[Slice] = []
        self._ended: list[Entry] = []
        self._running: dict[str, Hold] = {}
        self._unnoted: dict[str, Hold] = {}
        """Running, and not known to the database."""
        self._noted: set[str] = set()
        """Running or just ended, and perhaps known to it."""
        self._refusals: dict[int, _Refused] = {}
        self._away = ""
        self._away_until = -math.inf
        self._database_turn = asyncio.Lock()
        changes.on_change(self._forget)

    async def hold(self, need: Need) -> Hold:
        """Reserve the worst of a request, or a shorter answer where the whole cannot be paid.

        Raises:
            BudgetExceeded, RateLimitExceeded: Not even the least fits; says which limit, what is
                left and when there is more.
            StoreUnavailable: More is needed than this worker has, and the database does not answer.
        """
        limits = self._limits.get((need.caller.key_id, need.caller.feature))
        if limits is None:
            limits = await self._limits_of(need.caller)
        self._check_confirmed(limits)
        for _ in range(_TRIES):
            slices = self._slices_of(limits)
            wanted = amounts(slices, need, need.output_tokens)
            if _enough(slices, wanted):
                return self._take(need, slices, wanted, need.output_tokens)
            self._check_refused(self._asks(slices, wanted, need), need)
            async with self._database_turn:
                # Whoever was before us in the line may have borrowed enough for us too.
                slices = self._slices_of(limits)
                wanted = amounts(slices, need, need.output_tokens)
                if _enough(slices, wanted):
                    continue
                await self._borrow(self._asks(slices, wanted, need), need)
            slices = self._slices_of(limits)
            output = min([need.output_tokens, *(affordable(s, need) for s in slices)])
            if output >= need.least_output:
                return self._take(need, slices, amounts(slices, need, output), output)
        raise RateLimitExceeded(
            "too many requests at once reach for what is left of a limit; send it again",
            retry_after_s=1,
        )

    def settle(
        self, hold: Hold, usage: Usage, *, finish: str, trail: Trail | None = None
    ) -> Entry | None:
        """What a hold's request used; the rest is free at once.

        Args:
            hold: What was held.
            usage: What its client was told; counts where the trail has no legs and no cache hit.
            finish: How it ended.
            trail: What was done for it.

        Returns: What is booked; None where it was settled before.
        """
        if hold.settled:
            return None
        hold.settled = True
        bill, cache = billed(hold, usage, finish=finish, trail=trail)
        usage, cost = bill.usage, bill.cost_nanousd
        charges: list[Charge] = []
        for piece, held in hold.taken:
            used = used_of(piece.limit.unit, usage, cost)
            charges.append(Charge(piece.window_id, held, used))
            piece.held -= held
            piece.unbooked += min(used, held)
            piece.free += max(held - used, 0)
        before = hold.entry
        entry = Entry(
            id=before.id,
            kind=SETTLED,
            at_s=before.at_s,
            org=before.org,
            team=before.team,
            user=before.user,
            key=before.key,
            feature=before.feature,
            model=before.model,
            route=before.route,
            finish=finish,
            batch=before.batch,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_nanousd=cost,
            held_nanousd=before.held_nanousd,
            price_hash=before.price_hash,
            cache=cache,
            estimated=int(bill.estimated),
            compute_us=usage.compute_us,
            kv_byte_s=usage.kv_byte_s,
            calls=len(bill.lines),
            charges=tuple(charges),
            **calls_of(bill),
        )
        self._journal.write(entry)
        self._running.pop(before.id, None)
        self._unnoted.pop(before.id, None)
        self._ended.append(entry)
        return entry

    async def flush(self) -> None:
        """Book what has ended, note what runs, return what idles, say that this worker lives.

        Raises: StoreUnavailable; then all of it is tried again with the next.
        """
        async with self._database_turn:
            batch = self._batch()
            asked = time.monotonic()

            async def work(connection: AsyncConnection) -> None:
                await touch(connection, self._database, self._worker, lease_s=self._lease_s)
                await books.book(
                    connection,
                    self._database,
                    self._worker,
                    entries=batch.ended,
                    noted=batch.noted,
                    running=[hold.entry for hold in batch.running],
                    targets=batch.targets,
                )

            try:
                await self._write(work)
            except BaseException:
                # Perhaps it is all there; saying it again then changes nothing. So for what was
                # returned: it must not come back to life here.
                self._ended[:0] = batch.ended
                raise
            self._confirmed = asked
            self._noted.difference_update(batch.noted)
            for hold in batch.running:
                self._unnoted.pop(hold.entry.id, None)
            for piece, amount in batch.unbooked:
                piece.unbooked -= amount
            self._old = [s for s in self._old if s.free or s.held or s.unbooked]
        self._journal.rewrite_if_large([*self._ended, *(h.entry for h in self._running.values())])

    async def run(self) -> None:
        """Flush and sweep until cancelled."""
        swept = time.monotonic()
        pause_s = FLUSH_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = FLUSH_S
            try:
                if self._has_news():
                    began = time.monotonic()
                    await self.flush()
                    pause_s = min(max(FLUSH_S, _SHARE * (time.monotonic() - began)), NOTE_S)
                if time.monotonic() - swept > _SWEEP_S:
                    swept = time.monotonic()
                    await self.sweep()
            except StoreUnavailable as error:
                _LOG.warning("the ledger waits: %s", error.message)
                await asyncio.sleep(1)
            except Exception:  # noqa: BLE001 - what it holds must not be forgotten
                _LOG.exception("a bug in the ledger's flush; what it holds is in the journal")
                await asyncio.sleep(1)

    async def sweep(self) -> list[str]:
        """Deal with dead workers, as `headrace.store.ledger.sweep`."""
        return await self._write(lambda c: books.sweep(c, self._database, grace_s=GRACE_S))

    async def close(self) -> None:
        """Book everything, return every slice and remove the journal.

        Raises: StoreUnavailable; the journal then stays for the next start to recover.
        """
        for piece in [*self._slices.values(), *self._old]:
            piece.used_s = -math.inf
        self._away_until = 0.0  # nobody comes after this: it is asked, however lately it was away
        await self.flush()
        if not self._running:
            self._journal.close()

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """As `Database.write`, but a database that was away a moment ago is not waited for again:
        whoever stands in line for it is refused at once, not one after the other."""
        if time.monotonic() < self._away_until:
            raise StoreUnavailable(self._away)
        try:
            return await self._database.write(work, patience_s=PROMPT_S)
        except StoreUnavailable as error:
            self._away = error.message
            self._away_until = time.monotonic() + _AWAY_S
            raise

    def _batch(self) -> _Batch:
        now, monotonic = self._clock(), time.monotonic()
        pieces = [*self._slices.values(), *self._old]
        for piece in pieces:
            if piece.free > 0 and (now >= piece.ends_s or monotonic - piece.used_s > IDLE_S):
                piece.free = 0  # what is no target is returned
        ended, self._ended = self._ended, []
        running = [hold for hold in self._unnoted.values() if monotonic - hold.began > NOTE_S]
        noted = [entry.id for entry in ended if entry.id in self._noted]
        self._noted.update(hold.entry.id for hold in running)
        return _Batch(
            ended=ended,
            noted=noted,
            running=running,
            unbooked=[(piece, piece.unbooked) for piece in pieces if piece.unbooked],
            targets={p.window_id: p.free + p.held for p in pieces if p.window_id},
        )

    def _has_news(self) -> bool:
        now = time.monotonic()
        return bool(
            self._ended
            or any(now - hold.began > NOTE_S for hold in islice(self._unnoted.values(), 1))
            or any(piece.free > 0 for piece in self._old)
            or now - self._confirmed > self._lease_s / 4
            or any(p.free > 0 and now - p.used_s > IDLE_S for p in self._slices.values())
        )

    def _forget(self) -> None:
        self._limits.clear()
        self._refusals.clear()
        self._generation += 1

    async def _limits_of(self, caller: Caller) -> tuple[Limit, ...]:
        key = (caller.key_id, caller.feature)
        found = self._limits.get(key)
        if found is None:
            generation = self._generation
            found = await self._database.read(lambda c: for_caller(c, caller), patience_s=PROMPT_S)
            if generation == self._generation:
                if len(self._limits) > 100_000:
                    self._limits.clear()
                self._limits[key] = found
        return found

    def _check_confirmed(self, limits: Sequence[Limit]) -> None:
        silent_s = time.monotonic() - self._confirmed
        if limits and math.isfinite(silent_s) and silent_s > self._lease_s * (SILENT_S / LEASE_S):
            raise StoreUnavailable(
                f"the database has not confirmed this worker's slices for {silent_s:.0f} s; "
                "requests under a limit are refused until it does"
            )

    def _check_refused(self, asks: Sequence[Ask], need: Need) -> None:
        """A limit that had too little a moment ago is not asked again for as much."""
        for ask in asks:
            known = self._refusals.get(ask.limit_id)
            if (
                known is not None
                and 0 < ask.least >= known.least
                and time.monotonic() < known.until
            ):
                raise self._refused(known.refusal, need)

    def _slices_of(self, limits: Sequence[Limit]) -> list[Slice]:
        now = self._clock()
        found: list[Slice] = []
        for limit in limits:
            piece = self._slices.get(limit.id)
            if piece is None or not piece.starts_s <= now < piece.ends_s:
                if piece is not None:
                    self._old.append(piece)
                piece = Slice(limit, *window_at(limit.window, limit.zone, now))
                self._slices[limit.id] = piece
            elif piece.limit is not limit:
                piece.limit = limit
            found.append(piece)
        return found

    def _asks(self, slices: Sequence[Slice], wanted: Sequence[int], need: Need) -> list[Ask]:
        asks: list[Ask] = []
        for piece, want in zip(slices, wanted, strict=True):
            if piece.free > _PLENTY * want:
                continue  # else more of all at once: they run out together
            least = amount_of(piece.limit.unit, need, need.least_output)
            asks.append(
                Ask(
                    limit_id=piece.limit.id,
                    starts_s=piece.starts_s,
                    ends_s=piece.ends_s,
                    counts_from_s=piece.counts_from_s,
                    least=max(least - piece.free, 0),
                    want=max(want - piece.free, 0),
                    usual=want,
                )
            )
        return asks

    async def _borrow(self, asks: Sequence[Ask], need: Need) -> None:
        """Slices of all of these, in one's turn. Raises: As `hold`, where one has too little."""
        self._check_refused(asks, need)
        asked = time.monotonic()

        async def work(connection: AsyncConnection) -> list[Grant] | Refusal:
            await touch(connection, self._database, self._worker, lease_s=self._lease_s)
            return await take(connection, self._worker, asks)

        answer = await self._write(work)
        self._confirmed = asked
        if isinstance(answer, Refusal):
            least = next(a.least for a in asks if a.limit_id == answer.limit_id)
            until = time.monotonic() + _REFUSED_S
            self._refusals[answer.limit_id] = _Refused(answer, least, until)
            raise self._refused(answer, need)
        for ask, grant in zip(sorted(asks, key=lambda a: a.limit_id), answer, strict=True):
            for piece in (self._slices[ask.limit_id], *self._old):
                if piece.limit.id == ask.limit_id and piece.starts_s == ask.starts_s:
                    piece.window_id = grant.window_id
                    piece.free += grant.amount
                    piece.used_s = asked
                    break

    def _take(
        self, need: Need, slices: Sequence[Slice], amounts: Sequence[int], output: int
    ) -> Hold:
        now = time.monotonic()
        caller = need.caller
        taken: list[tuple[Slice, int]] = []
        charges: list[Charge] = []
        for piece, amount in zip(slices, amounts, strict=True):
            piece.free -= amount
            piece.held += amount
            piece.used_s = now
            taken.append((piece, amount))
            lasting = 0 if piece.limit.unit is Unit.CONCURRENCY else amount
            charges.append(Charge(piece.window_id, amount, lasting))
        entry = Entry(
            id=need.id,
            kind=HELD,
            at_s=int(self._clock()),
            org=caller.org,
            team=caller.team,
            user=caller.user,
            key=caller.key_id,
            feature=caller.feature,
            model=need.model,
            route=need.route,
            batch=need.batch,
            prompt_tokens=need.input_tokens,
            completion_tokens=output,
            held_nanousd=need.tariff.bound(need.input_tokens, output),
            price_hash=need.tariff.hash,
            provider=need.tariff.own.provider,
            upstream=need.tariff.own.model,
            charges=tuple(charges),
        )
        self._journal.write(entry)
        clamped = output < need.output_tokens
        hold = Hold(entry, output, clamped, need.tariff, taken, now)
        self._running[need.id] = self._unnoted[need.id] = hold
        return hold

    def _refused(self, refusal: Refusal, need: Need) -> LimitExceeded:
        return refused(refusal, self._slices[refusal.limit_id], need, now_s=self._clock())


def _enough(slices: Sequence[Slice], wanted: Sequence[int]) -> bool:
    return all(piece.free >= want for piece, want in zip(slices, wanted, strict=True))
