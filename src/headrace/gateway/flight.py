"""One data request on its way: events and the outcome → one `UsageRecord`.

Invariant: `land` is called once, whatever happened, and the usage is that of every call that was
made for the request, so that metrics and ledger say the same; of a backend that is not metered it
is its own word, or what had been delivered.
"""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from headrace.errors import HeadraceError
from headrace.gateway.caching.asked import CACHE_HEADER
from headrace.gateway.detail import Detail
from headrace.gateway.http import Header, closing
from headrace.observe.metrics import Metrics
from headrace.observe.usage import UsageRecord, UsageSink
from headrace.types import (
    Caller,
    Event,
    Finished,
    FinishReason,
    Priority,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Trail,
    Usage,
    total,
)

CLIENT_LEFT = 499
"""nginx's status for a client that closed the connection; only in records."""
_NOBODY = Caller(key_id="")


class Settled(NamedTuple):
    """What the ledger booked of a request."""

    cost_nanousd: int
    usage: Usage | None = None
    """Where it is other than what the client was told."""


class DetailSink(Protocol):
    """Whatever keeps more of a request than its usage record."""

    def take(self, record: UsageRecord, detail: Detail) -> None:
        """Take one; must neither block nor raise."""
        ...


@dataclass(slots=True)
class _Tally:
    """Of one prompt."""

    prompt_tokens: int = 0
    delivered: int = 0
    usage: Usage | None = None


@dataclass(slots=True, kw_only=True)
class Flight:
    """Mutable on purpose: it is the one place where a request's facts gather."""

    id: str
    route: str
    metrics: Metrics
    sinks: tuple[UsageSink, ...] = ()
    caller: Caller | None = None
    """None = not known yet."""
    model: str = ""
    end_user: str = ""
    streamed: bool = False
    settle: Callable[[Usage, str], Settled | None] | None = None
    """What to do with the usage in the end, set where money or rates were held for it; the record
    then says what was booked."""
    priority: Priority = Priority.INTERACTIVE
    """Given to the request."""
    batch: str = ""
    """Id of the batch that it is a line of."""
    finish: str = ""
    status: int = 0
    error: HeadraceError | None = None
    """With which it ended."""
    trail: Trail = field(default_factory=Trail)
    """Given to the request, so that everybody on its way adds to it."""
    detail: Detail | None = None
    """What a trace says beside the record; None = nobody keeps one."""
    detail_sinks: tuple[DetailSink, ...] = ()
    parts: int = 0
    """Calls that were held for and settled one by one."""
    parts_nanousd: int = 0
    """What they cost."""
    on_started: Callable[[], None] | None = None
    """Called once, before the first byte of the answer: the last moment for its headers."""
    _began: float = field(default_factory=time.monotonic)
    _began_unix: float = field(default_factory=time.time)
    _admitted: float | None = None
    _first: float | None = None
    _tallies: dict[int, _Tally] = field(default_factory=dict[int, _Tally])
    _last: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])

    @property
    def usage(self) -> Usage:
        """As far as it is known."""
        return self._usage()

    async def watch(self, prompt: int, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The same events, each noted on its way."""
        async with closing(events):
            async for event in events:
                self.note(prompt, event)
                yield event

    def headers(self) -> list[Header]:
        """What an answer's head says of its way: whether it is a kept one."""
        cache = self.trail.cache
        return [(CACHE_HEADER, cache.encode())] if cache else []

    def answered(self, usage: Usage) -> None:
        """A call that is no stream ended well, having used this."""
        self._tallies[0] = _Tally(prompt_tokens=usage.prompt_tokens, usage=usage)
        self.finish = FinishReason.STOP.value

    def failed(self, error: HeadraceError) -> None:
        """The request ends with this error."""
        self.error = error
        self.finish = error.code
        self.status = error.status
        if self.detail is not None:
            self.detail.error = error.message
        known = getattr(error, "usage", None)
        # A worker that died tells what a client had got; of several prompts it is unclear whose.
        if isinstance(known, Usage) and len(self._tallies) == 1:
            tally = next(iter(self._tallies.values()))
            tally.usage = tally.usage or known

    def left(self) -> None:
        """The client closed the connection."""
        self.finish = FinishReason.ABORT.value
        self.status = CLIENT_LEFT

    def land(self) -> UsageRecord:
        """Make the record and give it to everybody who books it."""
        caller = self.caller or _NOBODY
        usage, finish = self._usage(), self.finish or "none"
        settled = None if self.settle is None else self.settle(usage, finish)
        if settled is not None and settled.usage is not None:
            usage = settled.usage
        record = UsageRecord(
            id=self.id,
            route=self.route,
            status=self.status or 500,
            finish=finish,
            key_id=caller.key_id,
            org=caller.org,
            team=caller.team,
            user=caller.user,
            feature=caller.feature,
            model=self.model,
            end_user=self.end_user,
            streamed=self.streamed,
            batch=self.batch,
            usage=usage,
            started_s=self._began_unix,
            duration_s=time.monotonic() - self._began,
            admission_s=self._admitted,
            first_token_s=self._first,
            legs=tuple(self.trail.legs),
            notes=tuple(self.trail.notes),
            quotes=tuple(dict.fromkeys(self.trail.quotes)),
            continues=tuple(self.trail.continues),
            cache=self.trail.cache,
            cost_nanousd=None if settled is None else settled.cost_nanousd,
        )
        for sink in (self.metrics, *self.sinks):
            sink.record(record)
        self._tell(record)
        return record

    def mark(self, moment: str) -> None:
        """A moment of the trace is now."""
        if self.detail is not None:
            self.detail.mark(moment)

    def _tell(self, record: UsageRecord) -> None:
        detail = self.detail
        if detail is None:
            return
        if self._first is not None and self._last:
            detail.marks["first"] = self._first
            detail.marks["last"] = max(self._last.values()) - self._began
        detail.end()
        for sink in self.detail_sinks:
            sink.take(record, detail)

    def note(self, prompt: int, event: Event) -> None:
        """An event of a prompt is on its way."""
        now = time.monotonic()
        if self.detail is not None and self.detail.keeps_content:
            self.detail.see(prompt, event)
        tally = self._tallies.setdefault(prompt, _Tally())
        match event:
            case Started():
                tally.prompt_tokens = event.prompt_tokens
                if self._admitted is None:
                    self._admitted = max(now - event.ran_s - self._began, 0.0)
                    if self.on_started is not None:
                        self.on_started()
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                tally.delivered += len(event.token_ids)
                if self._first is None:
                    self._first = now - self._began
                before = self._last.get((prompt, event.index))
                if before is not None:
                    self.metrics.gap(self.route, self.model, now - before)
                self._last[prompt, event.index] = now
            case Finished():
                tally.usage = event.usage or tally.usage
                self.finish = event.reason.value
            case _:
                pass

    def _usage(self) -> Usage:
        if self.trail.legs:
            return total(leg.usage for leg in self.trail.legs)
        return total(
            tally.usage
            or Usage(prompt_tokens=tally.prompt_tokens, completion_tokens=tally.delivered)
            for tally in self._tallies.values()
        )
