"""Requests in flight become one plan a step, and what the step sampled becomes token events.

    plan = scheduler.plan(budget)                 # {sequence: rows}, at most `budget` rows
    events = scheduler.commit(plan, results)      # [(request id, TokenEvent)]

There is no prefill and no decode: a sequence has known tokens that are not computed yet, and a step
computes some of them. Sequences that lack one token go first, then chunks of prompts, then new
sequences in order of arrival. Where blocks run out, the youngest gives up its own and starts over
later (recompute), so the oldest always goes on and, because `submit` refuses what cannot fit the
pool alone, every request ends.

Batch requests (`Priority.BATCH`) run in what is left: they are planned after all others, begin only
while no other waits, and count as younger than any, so their rows, places and blocks are the first
to be taken. What the others get in a step, and when, is what they would get without them.

Invariant: `Counters` balance at any moment (the equation is its docstring), and every block is held
by a running sequence or free. Plain Python: no tensors, no clock but the one given.

Sources: Orca (Yu et al. 2022), Sarathi-Serve (Agrawal et al. 2024), vLLM V1's {request: tokens}.
"""

import heapq
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from headrace.config import EngineSettings
from headrace.engine.admission import Queue, resolve_max_tokens
from headrace.engine.blocks import BlockManager
from headrace.engine.counters import Counters, Tally
from headrace.engine.prefix import PrefixCache
from headrace.engine.request import EngineRequest, Group, RowResult, Sequence, State, StopFactory
from headrace.errors import HeadraceError, InvalidParameter
from headrace.types import FinishReason, Priority, TokenEvent, TokenLogprob

Events: TypeAlias = list[tuple[str, TokenEvent]]

_NOTHING = RowResult()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One step: how many of its uncomputed tokens each sequence runs."""

    rows: Mapping[Sequence, int]

    @property
    def total(self) -> int:
        return sum(self.rows.values())


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A plan being made."""

    left: int
    rows: dict[Sequence, int] = field(default_factory=dict[Sequence, int])
    preempted: bool = False
    yielded: bool = False
    """As `preempted`, of a batch request's sequence."""

    def add(self, sequence: Sequence, rows: int) -> None:
        if rows:
            self.rows[sequence] = rows
            self.left -= rows

    def drop(self, sequence: Sequence) -> None:
        self.yielded = True
        self.preempted = self.preempted or not sequence.yields
        self.left += self.rows.pop(sequence, 0)


class Scheduler:
    """Continuous batching over a `BlockManager`.

    Args:
        blocks: The pool.
        settings: Limits.
        context_tokens: Longest sequence of the model.
        domain: What separates prefix caches besides the salt: model fingerprint, adapter.
        watch_stops: Makes the watch for a choice's stop strings; None = such requests are refused.
        clock: Seconds; deadlines are on it.
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        settings: EngineSettings,
        context_tokens: int,
        domain: tuple[str, ...] = (),
        watch_stops: StopFactory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.blocks = blocks
        self.context_tokens = context_tokens
        self._settings = settings
        self._prefix = PrefixCache(blocks, domain=domain, shared=settings.prefix_cache)
        self._watch_stops = watch_stops
        self._clock = clock
        self._watermark = max(1, blocks.total // 100)
        self._groups: dict[str, Group] = {}
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        # Both by age_key: the oldest is first in, the youngest is preempted.
        self._deadlines: list[tuple[float, int, str]] = []
        self._arrivals = 0
        self._queues = {priority: Queue() for priority in Priority}
        # Apart, so that a batch that fills its own is no reason to refuse anybody else.
        self._tally = Tally()
        self._planned_s = 0.0
        self._busy_s = 0.0

    # --- what can be asked ---------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        return bool(self._groups)

    @property
    def running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place, preempted ones and further choices included."""
        return len(self._waiting)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of requests that have not begun."""
        return sum(queue.tokens for queue in self._queues.values())

    def counters(self) -> Counters:
        """A snapshot."""
        return self._tally.snapshot()

    # --- admission -----------------------------------------------------------------------------

    def submit(self, request: EngineRequest) -> None:
        """Queue a request.

        `max_tokens` None becomes what the context and the pool have room for.

        Raises:
            InvalidParameter: An empty prompt, an id in flight, or stop strings without a tokenizer.
            ContextLengthExceeded: It cannot fit the context, or the pool, even alone.
            Overloaded: The queue is full.
        """
        scheduled = self._tally.scheduled
        try:
            if request.id in self._groups:
                raise InvalidParameter(f"request id {request.id!r} is in flight", param="id")
            if request.sampling.stop and self._watch_stops is None:
                raise InvalidParameter(
                    "`stop` needs a tokenizer; use `stop_token_ids`", param="stop"
                )
            max_tokens = resolve_max_tokens(
                request,
                context_tokens=self.context_tokens,
                pool_tokens=self.blocks.total * self.blocks.block_tokens,
            )
            rate = self._busy_s / scheduled if scheduled else 0.0
            queue = self._queues[request.priority]
            queue.check(request, self._settings, seconds_per_token=rate)
        except HeadraceError:
            self._tally.refused += 1
            raise
        group = Group(request=request, arrival=self._arrivals, max_tokens=max_tokens)
        self._arrivals += 1
        for index in range(request.sampling.n):
            sequence = Sequence(group=group, index=index, state=State.HELD)
            if index:
                sequence.first_run = len(request.prompt)
            if request.sampling.stop and self._watch_stops is not None:
                sequence.stop_push = self._watch_stops(request.sampling)
            group.sequences.append(sequence)
        self._groups[request.id] = group
        queue.enter(request)
        self._tally.requests += 1
        self._wait(group.sequences[0])
        if request.deadline_s is not None:
            if len(self._deadlines) > 2 * len(self._groups) + 64:  # mostly of ended requests
                self._deadlines = [item for item in self._deadlines if item[2] in self._groups]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (request.deadline_s, group.arrival, request.id))

    def refuse(self) -> None:
        """Count a request that was refused before it came here."""
        self._tally.refused += 1

    # --- a step --------------------------------------------------------------------------------

    def plan(self, budget: int) -> Plan:
        """Choose the rows of the next step; empty only when nothing is in flight.

        Args:
            budget: Most rows, at least 1.
        """
        self._planned_s = self._clock()
        draft = _Draft(left=budget)
        running = tuple(self._running)
        first_batch = next((at for at, other in enumerate(running) if other.yields), len(running))
        beside = self._settings.mixed_prefill_tokens
        chunks = self._plan_tokens(running[:first_batch], draft)
        if draft.rows and beside:
            draft.left = min(draft.left, beside)
        self._plan_chunks(chunks, draft)
        self._plan_new(draft, batch=False)
        if draft.rows and beside:
            draft.left = min(draft.left, beside)
        chunks = self._plan_tokens(running[first_batch:], draft)
        self._plan_chunks(chunks, draft)
        self._plan_new(draft, batch=True)
        return Plan(rows=draft.rows)

    def _plan_tokens(self, running: Iterable[Sequence], draft: _Draft) -> list[Sequence]:
        """Plan those that lack one token. Returns: The others, in order."""
        chunks: list[Sequence] = []
        for sequence in running:
            if len(sequence) - sequence.computed != 1:
                chunks.append(sequence)
            elif draft.left and sequence.state is State.RUNNING:
                draft.add(sequence, self._grow(sequence, 1, draft))
        return chunks

    def _plan_chunks(self, chunks: Iterable[Sequence], draft: _Draft) -> None:
        for sequence in chunks:
            lacking = len(sequence) - sequence.computed
            if draft.left and sequence.state is State.RUNNING:
                draft.add(sequence, self._grow(sequence, min(lacking, draft.left), draft))

    def _plan_new(self, draft: _Draft, *, batch: bool) -> None:
        """Begin what waits, of one priority; batch requests only where no other waits."""
        while (
            draft.left
            and self._waiting
            and self._waiting[0].yields is batch
            and not (draft.yielded if batch else draft.preempted)
            and self._make_place(self._waiting[0], draft)
        ):
            sequence = self._waiting.pop(0)
            insort(self._running, sequence, key=_age)
            lacking = len(sequence) - sequence.computed
            draft.add(sequence, self._grow(sequence, min(lacking, draft.left), draft))

    def attribute(self, plan: Plan, step_us: int, *, block_bytes: int) -> None:
        """Share a step among those that it ran and those that held memory, before it is booked.

        Its time goes by the rows that each ran and adds up exactly; memory by the blocks that each
        running sequence holds, whether it ran or not.

        Args:
            plan: What ran.
            step_us: How long, in microseconds.
            block_bytes: Of a KV block.
        """
        left_us, left_rows = step_us, plan.total
        for sequence, rows in plan.rows.items():
            share = left_us * rows // left_rows
            left_us -= share
            left_rows -= rows
            sequence.group.compute_us += share
        for sequence in self._running:
            sequence.group.kv_byte_us += len(sequence.blocks) * block_bytes * step_us

    def commit(self, plan: Plan, results: Mapping[Sequence, RowResult]) -> Events:
        """Book a step that ran.

        Args:
            plan: What `plan` returned, whole.
            results: Of every sequence that sampled, scored or failed.
        """
        self._tally.steps += 1
        self._busy_s += max(0.0, self._clock() - self._planned_s)
        events: Events = []
        for sequence, rows in plan.rows.items():
            if sequence.state is not State.RUNNING:
                continue  # its request ended meanwhile, and was settled then
            self._book(sequence, rows)
            result = results.get(sequence, _NOTHING)
            if result.failure is not None:
                events += self._end(sequence.group, FinishReason.ERROR, error=result.failure)
                continue
            if result.prompt_scores:
                sequence.prompt_scores += result.prompt_scores
            self._prefix.publish(sequence)
            if sequence.index == 0 and sequence.computed == len(sequence.request.prompt):
                events += self._prompt_done(sequence)
            if result.token is not None:
                events += self._push(sequence, result.token, result)
        return events

    def fail(self, plan: Plan, error: str) -> Events:
        """End the requests of a step that raised; the others go on."""
        self._tally.steps += 1
        self._tally.failed_steps += 1
        events: Events = []
        for sequence in plan.rows:
            if sequence.state is State.RUNNING:
                events += self._end(sequence.group, FinishReason.ERROR, error=error)
        return events

    # --- ends from outside ---------------------------------------------------------------------

    def cancel(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> Events:
        """End a request now; none of its blocks is held afterwards. Unknown ids are no error."""
        group = self._groups.get(request_id)
        return [] if group is None else self._end(group, reason)

    def expire(self) -> Events:
        """End the requests whose deadline has passed."""
        events: Events = []
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, arrival, request_id = heapq.heappop(self._deadlines)
            group = self._groups.get(request_id)
            if group is not None and group.arrival == arrival:
                events += self._end(group, FinishReason.DEADLINE)
        return events

    # --- places and blocks ---------------------------------------------------------------------

    def _wait(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        insort(self._waiting, sequence, key=_age)

    def _make_place(self, sequence: Sequence, draft: _Draft) -> bool:
        """Admit a waiting sequence, in the place of batch ones where that is what it takes."""
        most = self._settings.max_running
        if len(self._running) < most and self._admit(sequence):
            return True
        if sequence.yields or not self._fits_without_batch(sequence):
            return False
        while self._running and self._running[-1].yields:
            self._yield_last(draft)
            if len(self._running) < most and self._admit(sequence):
                return True
        raise AssertionError("it fits without batch sequences, and there are none")

    def _fits_without_batch(self, sequence: Sequence) -> bool:
        """Whether it could be admitted if no batch sequence were running; False where none is."""
        others = [other for other in self._running if not other.yields]
        if len(others) == len(self._running) or len(others) >= self._settings.max_running:
            return False
        blocks = self.blocks
        kept = {block for other in others for block in other.blocks}
        hits = self._prefix.find(sequence)
        missing = blocks.blocks_for(len(sequence)) - len(hits)
        room = blocks.total
        if others:
            room -= len(kept) + self._promised(others) + self._watermark
        return sum(1 for block in hits if block not in kept) + missing <= room

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence the blocks that the cache has of it, if all of it has room."""
        blocks = self.blocks
        # With nothing running there is room for whatever `submit` let in.
        room = self._room() if self._running else blocks.total
        if room < 0:
            return False  # whatever the cache has of it
        hits = self._prefix.find(sequence)
        missing = blocks.blocks_for(len(sequence)) - len(hits)
        if blocks.idle(hits) + missing > room:
            return False
        blocks.share(hits)
        sequence.state = State.RUNNING
        sequence.blocks = list(hits)
        sequence.published = len(hits)
        sequence.computed = len(hits) * blocks.block_tokens
        group = sequence.group
        if not group.started:
            group.started = True
            group.began_s = self._planned_s
            self._queues[group.request.priority].leave(group.request)
            self._tally.prompt += len(group.request.prompt)
        fresh_hits = max(0, sequence.computed - sequence.first_run)
        sequence.first_run += fresh_hits
        group.cached_tokens += fresh_hits
        self._tally.cached += fresh_hits
        return True

    def _room(self) -> int:
        """Blocks that are neither in reserve nor promised to what is running."""
        return self.blocks.free - self._promised(self._running) - self._watermark

    def _promised(self, running: Iterable[Sequence]) -> int:
        """Blocks that these will need for the tokens they have now."""
        blocks_for = self.blocks.blocks_for
        return sum(max(0, blocks_for(len(other)) - len(other.blocks)) for other in running)

    def _grow(self, sequence: Sequence, rows: int, draft: _Draft) -> int:
        """How many of `rows` have a place; for the first, younger sequences give up theirs, batch
        sequences for all."""
        blocks = self.blocks
        while True:
            places = len(sequence.blocks) * blocks.block_tokens - sequence.computed
            if places >= rows:
                return rows
            lacking = blocks.blocks_for(rows - places)
            if lacking > blocks.free and self._running[-1].yields and not sequence.yields:
                self._yield_last(draft)
                continue
            sequence.blocks += blocks.allocate(min(lacking, blocks.free))
            places = len(sequence.blocks) * blocks.block_tokens - sequence.computed
            if places > 0:
                return min(rows, places)
            if self._running[-1] is sequence:
                return 0  # the older ones go on, and will make room by ending
            self._yield_last(draft)

    def _yield_last(self, draft: _Draft) -> None:
        """Preempt the youngest."""
        youngest = self._running[-1]
        self._preempt(youngest)
        draft.drop(youngest)

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.computed = 0
        self._tally.preemptions += 1
        self._wait(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Take it out of its list and its blocks from it."""
        for members in (self._running, self._waiting):
            at = bisect_left(members, sequence.age_key, key=_age)
            if at < len(members) and members[at] is sequence:
                del members[at]
        self.blocks.release(sequence.blocks)
        sequence.blocks = []

    # --- booking -------------------------------------------------------------------------------

    def _book(self, sequence: Sequence, rows: int) -> None:
        sequence.computed += rows
        again = rows - max(0, sequence.computed - max(sequence.first_run, sequence.computed - rows))
        sequence.first_run = max(sequence.first_run, sequence.computed)
        sequence.group.recomputed_tokens += again
        self._tally.recomputed += again
        self._tally.scheduled += rows

    def _prompt_done(self, first: Sequence) -> Events:
        """Choice 0 has run the prompt: the others may begin, or all end where none samples."""
        if not first.samples:
            return self._end(first.group, FinishReason.LENGTH)
        for sequence in first.group.sequences:
            if sequence.state is State.HELD:
                self._wait(sequence)
        return []

    def _push(self, sequence: Sequence, token: int, result: RowResult) -> Events:
        """Book a sampled token and decide whether it is the choice's last."""
        group, sampling = sequence.group, sequence.request.sampling
        position = len(sequence.completion)
        sequence.completion.append(token)
        group.completion_tokens += 1
        self._tally.completion += 1
        finish: FinishReason | None = None
        stop: str | int | None = None
        if token in group.end_ids and position >= sampling.min_tokens:
            finish = FinishReason.STOP
            if sampling.ignore_eos or token not in sequence.request.eos_ids:
                stop = token
        elif sequence.stop_push is not None and (stop := sequence.stop_push((token,))) is not None:
            finish = FinishReason.STOP
        elif position + 1 >= group.max_tokens:
            finish = FinishReason.LENGTH
        if finish is not None:
            self._close(sequence)
        ended = finish is not None and self._settle(group, finish)
        event = TokenEvent(
            index=sequence.index,
            tokens=(token,),
            logprobs=() if result.logprob is None else (result.logprob,),
            prompt_logprobs=_prompt_logprobs(sequence) if position == 0 else None,
            finish=finish,
            stop=stop,
            usage=group.usage if ended else None,
            ran_us=self._ran_us(group) if position == 0 and sequence.index == 0 else None,
        )
        return [(group.request.id, event)]

    def _ran_us(self, group: Group) -> int:
        return round(max(0.0, self._clock() - group.began_s) * 1e6)

    def _end(self, group: Group, reason: FinishReason, *, error: str | None = None) -> Events:
        """End every choice that is still open."""
        events: Events = []
        for sequence in tuple(group.sequences):
            if sequence.state is State.FINISHED:
                continue
            self._close(sequence)
            ended = self._settle(group, reason)
            event = TokenEvent(
                index=sequence.index,
                prompt_logprobs=(
                    _prompt_logprobs(sequence) if reason is FinishReason.LENGTH else None
                ),
                finish=reason,
                usage=group.usage if ended else None,
                error=error,
                ran_us=(
                    self._ran_us(group)
                    if group.started and sequence.index == 0 and not sequence.completion
                    else None
                ),
            )
            events.append((group.request.id, event))
        return events

    def _close(self, sequence: Sequence) -> None:
        """The end of a choice: what it booked and never ran is settled, its blocks are free."""
        if sequence.group.started:
            self._tally.unrun += len(sequence) - sequence.first_run
        self._leave(sequence)
        sequence.state = State.FINISHED

    def _settle(self, group: Group, reason: FinishReason) -> bool:
        """Whether that was the request's last choice; then it is forgotten."""
        if any(sequence.state is not State.FINISHED for sequence in group.sequences):
            return False
        if not group.started:
            self._queues[group.request.priority].leave(group.request)
        del self._groups[group.request.id]
        group.sequences.clear()  # no cycle is left: a long prompt's memory goes now, not some time
        self._tally.finish(reason)
        return True

    # --- the invariants ------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Check blocks, lists and counters against each other.

        Raises: HeadraceError: They disagree, which is a bug.
        """
        live = [sequence for group in self._groups.values() for sequence in group.sequences]
        self.blocks.check_integrity(sequence.blocks for sequence in live)
        for state, members in ((State.RUNNING, self._running), (State.WAITING, self._waiting)):
            expected = [sequence for sequence in live if sequence.state is state]
            if sorted(expected, key=_age) != members:
                raise HeadraceError(f"{len(members)} sequences listed {state}, not {len(expected)}")
        tally = self._tally
        pending = _pending(self._groups.values())
        booked = tally.prompt + tally.completion + tally.recomputed
        run = tally.cached + tally.scheduled + tally.unrun
        if booked != run + pending:
            raise HeadraceError(f"tokens do not balance: {booked} != {run} + {pending}; {tally}")
        for priority, queue in self._queues.items():
            queued = [
                group.request
                for group in self._groups.values()
                if not group.started and group.request.priority is priority
            ]
            tokens = sum(len(request.prompt) for request in queued)
            if (queue.requests, queue.tokens) != (len(queued), tokens):
                raise HeadraceError(f"{queue} counted, {len(queued)} requests of {tokens} queued")
        if tally.requests != len(self._groups) + sum(tally.finished.values()):
            raise HeadraceError(f"{len(self._groups)} requests live do not balance: {tally}")


def _age(sequence: Sequence) -> tuple[bool, int, int]:
    return sequence.age_key


def _pending(groups: Iterable[Group]) -> int:
    """Tokens that live sequences have booked and not run yet."""
    return sum(
        len(sequence) - sequence.first_run
        for group in groups
        if group.started
        for sequence in group.sequences
        if sequence.state is not State.FINISHED
    )


def _prompt_logprobs(sequence: Sequence) -> tuple[TokenLogprob | None, ...] | None:
    if sequence.index or sequence.request.sampling.prompt_logprobs is None:
        return None
    return (None, *sequence.prompt_scores)
