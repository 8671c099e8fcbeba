"""Three decorators of a `Backend`: asking again, not asking what is down, asking another.

| | when | what |
|---|---|---|
| `Retrying` | a retryable error before the provider began | again, after a pause (Retry-After) |
| `Breaker` | so many failures in a row | refuses at once, for a while; then lets one request try |
| `Fallback` | a service's error before the first content | the next backend |

Invariants: once content has gone to the client nothing is asked again and nothing is spliced: what
follows is the rest of the same answer or one error. The caller's own errors (400) and its deadline
go up at once. Closing the stream closes the one below.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    NotFound,
    NotReady,
    PlaceForbidden,
    ServiceError,
    Unauthorized,
    UpstreamError,
    UpstreamTimeout,
)
from headrace.providers.gathering import gatherer
from headrace.types import Backend, ChatRequest, Event, Started, TokenCounter

_LOG = logging.getLogger("headrace.providers")
_ADDRESS = re.compile(r"\bhttps?://[^\s,;]*[^\s,;:.]")

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often and how long."""

    attempts: int = 3
    """In all; 1 = never again."""
    first_pause_s: float = 0.5
    """Doubled each time; half to the whole of it is waited."""
    longest_pause_s: float = 20.0
    """A provider that asks for more patience is not waited for: its error goes up."""

    def pause_s(
        self, error: ServiceError, attempt: int, chance: Callable[[], float]
    ) -> float | None:
        """How long to wait after attempt number so many; None = the error goes up."""
        if attempt >= self.attempts or not error.retryable or error.begun:
            return None
        pause = min(self.first_pause_s * 2 ** (attempt - 1), self.longest_pause_s)
        pause *= 0.5 + 0.5 * chance()
        if error.retry_after_s is not None:
            if error.retry_after_s > self.longest_pause_s:
                return None
            pause = max(pause, float(error.retry_after_s))
        return pause


class Retrying:
    """Asks the same backend again."""

    def __init__(
        self,
        backend: Backend,
        policy: RetryPolicy,
        *,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._backend = backend
        self._gather = gatherer(backend)
        self._policy = policy
        self._sleep = sleep
        self._chance = chance

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        attempt = 0
        while True:
            attempt += 1
            heard = False
            try:
                async with closing(self._backend.stream(request)) as events:
                    async for event in events:
                        heard = True
                        yield event
                    return
            except ServiceError as error:
                pause = self._policy.pause_s(error, attempt, self._chance)
                if heard or pause is None:
                    raise
            await self._sleep(pause)

    async def gather(self, request: ChatRequest, into: list[Event]) -> None:
        """The same events into a list."""
        before, attempt = len(into), 0
        while True:
            attempt += 1
            try:
                await self._gather(request, into)
                return
            except ServiceError as error:
                pause = self._policy.pause_s(error, attempt, self._chance)
                if len(into) > before or pause is None:
                    raise
            await self._sleep(pause)


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerPolicy:
    """When it opens and for how long."""

    failures: int = 5
    """In a row; 0 = it never opens."""
    open_s: float = 10.0
    """The first time; doubled each time a trial fails."""
    longest_open_s: float = 300.0


class Circuit:
    """Does not try what fails; the same instance must see all the tries.

    Closed: tries pass, failures in a row are counted. Open: all are refused until the time is
    over. Then one try is the trial, the others are still refused; its first sign of life closes the
    circuit, its failure opens it for twice as long. A trial that is left decides nothing.
    """

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._policy = policy
        self._clock = clock
        self._failures = 0
        self._open_s = policy.open_s
        self._trial_at: float | None = None
        """When the next trial may be; None = closed."""
        self._trying = False
        self._last = ""

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        if self._trial_at is None:
            return "closed"
        return "open" if self._clock() < self._trial_at else "half-open"

    def attempt(self) -> "_Attempt":
        """One try, whose errors count; call what it gives once, at the first sign of life.

        Raises: NotReady, on entering, where nothing is tried now.
        """
        return _Attempt(self)

    def heard(self, *, trial: bool) -> None:
        """A sign of life."""
        self._trying = self._trying and not trial
        self._trial_at, self._open_s = None, self._policy.open_s

    def ended(self, error: BaseException | None, *, trial: bool) -> None:
        """A try is over, in this way."""
        if error is None:
            self._failures = 0
        elif isinstance(error, ServiceError) and not isinstance(error, DeadlineExceeded):
            self._failed(error, trial=trial)  # with a deadline the caller's own time was short
        if trial:
            self._trying = False

    def admit(self) -> bool:
        """Begin a try; whether it is the trial. Raises: NotReady."""
        if self._trial_at is None:
            return False
        wait = self._trial_at - self._clock()
        if wait <= 0 and not self._trying:
            self._trying = True
            return True
        error = NotReady(
            f"{self._name} is not asked for now, after {self._failures} failures in a row; "
            f"the last: {self._last}"
        )
        error.retry_after_s = max(1, int(wait) + 1)
        raise error

    def _failed(self, error: ServiceError, *, trial: bool) -> None:
        self._failures += 1
        self._last = error.message[:300]
        if trial:
            self._open_s = min(self._open_s * 2, self._policy.longest_open_s)
        elif not 0 < self._policy.failures <= self._failures or self._trial_at is not None:
            return
        self._trial_at = self._clock() + self._open_s


class _Attempt:
    """Of a `Circuit`."""

    __slots__ = ("_circuit", "_trial")

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._trial = False

    async def __aenter__(self) -> Callable[[], None]:
        self._trial = self._circuit.admit()
        return self._heard

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._circuit.ended(error, trial=self._trial)

    def _heard(self) -> None:
        self._circuit.heard(trial=self._trial)


class Breaker:
    """A `Backend` behind a `Circuit`."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        policy: BreakerPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._circuit = Circuit(name, policy, clock=clock)
        self._backend = backend
        self._gather = gatherer(backend)

    def tell(self) -> str:
        """As `state`."""
        return self.state

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return self._circuit.state

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        alive = False
        async with (
            self._circuit.attempt() as heard,
            closing(self._backend.stream(request)) as events,
        ):
            async for event in events:
                if not alive:
                    alive = True
                    heard()
                yield event

    async def gather(self, request: ChatRequest, into: list[Event]) -> None:
        """The same events into a list."""
        before = len(into)
        async with self._circuit.attempt() as heard:
            try:
                await self._gather(request, into)
            finally:
                if len(into) > before:
                    heard()


class Named:
    """Says which provider an error is of, and keeps the operator's errors from the client.

    A provider that refuses our key or does not know our model is nothing that a client did wrong.
    """

    def __init__(self, name: str, backend: Backend) -> None:
        self._name = name
        self._backend = backend
        self._gather = gatherer(backend)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        try:
            async with closing(self._backend.stream(request)) as events:
                async for event in events:
                    yield event
        except (Unauthorized, NotFound) as error:
            raise operators(self._name, error) from error
        except ServiceError as error:
            named(self._name, error)
            raise

    async def gather(self, request: ChatRequest, into: list[Event]) -> None:
        """The same events into a list."""
        try:
            await self._gather(request, into)
        except (Unauthorized, NotFound) as error:
            raise operators(self._name, error) from error
        except ServiceError as error:
            named(self._name, error)
            raise


class Fallback:
    """Asks the backends in order until one answers."""

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        names: Sequence[str] = (),
        slow_after_s: float = 0.0,
    ) -> None:
        """
        Args:
            backends: At least one.
            names: What notes call them.
            slow_after_s: No content by then: the next is asked, if there is one; 0 = never.
        """
        self._backends = tuple(backends)
        self._names = tuple(names) or tuple(f"target {n}" for n in range(1, len(backends) + 1))
        self._slow_after_s = slow_after_s

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`. `Started` is held until the backend's first content, since it
        tells which one answers; nothing that a client sees is late for it."""
        errors: list[ServiceError] = []
        last = len(self._backends) - 1
        for at, backend in enumerate(self._backends):
            spoken = False
            try:
                async with closing(backend.stream(request)) as events:
                    within_s = self._slow_after_s if at < last else 0.0
                    begun = await opening(events, within_s=within_s)
                    spoken = True
                    for event in begun:
                        yield event
                    async for event in events:
                        yield event
                    return
            except DeadlineExceeded:
                raise
            except ServiceError as error:
                if spoken:
                    raise
                errors.append(error)
                self._note(request, at, error)
        # What another place could have answered is a better reason than what it may not see.
        told = [e for e in errors if not isinstance(e, PlaceForbidden)] or errors
        if len(errors) > 1:
            told[-1].retell("; then ".join(error.message for error in errors))
        raise told[-1]

    def _note(self, request: ChatRequest, at: int, error: ServiceError) -> None:
        following = self._names[at + 1 :][:1]
        then = f"; {following[0]} is asked" if following else "; there is no other"
        request.trail.note(
            "fallback",
            f"{self._names[at]} did not answer ({error.message[:300]}){then}",
            failed=self._names[at],
            error=error.code,
        )


async def opening(events: AsyncIterator[Event], *, within_s: float = 0.0) -> list[Event]:
    """The events up to the first that is content; the others are still to be read.

    Args:
        events: A backend's.
        within_s: How long it may take; 0 = as long as it takes.

    Raises: UpstreamTimeout; then the stream is over.
    """
    read: list[Event] = []
    limit = asyncio.timeout(within_s or None)
    try:
        async with limit:
            async for event in events:
                read.append(event)
                if not isinstance(event, Started):
                    break
    except TimeoutError:
        if not limit.expired():
            raise
        raise UpstreamTimeout(f"no content within {within_s:g} s") from None
    return read


def named(name: str, error: ServiceError) -> None:
    """Make an error a client's view of it: the provider's name; its address is for the log."""
    public = _ADDRESS.sub("its server", error.message)
    if public != error.message:
        _LOG.warning("provider %s: %s", name, error.message)
    error.retell(f"provider {name}: {public}")


def operators(name: str, error: HeadraceError) -> UpstreamError:
    """A client's view of an error that only the operator can mend."""
    made = UpstreamError(
        f"provider {name} refuses this service itself ({error.code}); its operator must mend it"
    )
    made.begun = True  # asking again changes nothing
    return made


class closing:
    """Close a stream of events on the way out, so that it frees what it holds now."""

    __slots__ = ("_events",)

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events

    async def __aenter__(self) -> AsyncIterator[Event]:
        return self._events

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(self._events, AsyncGenerator):
            await self._events.aclose()


class CountedBy:
    """A provider's counter, with the operator's errors kept from the client."""

    def __init__(self, name: str, counter: TokenCounter) -> None:
        self._name = name
        self._counter = counter

    async def count(self, request: ChatRequest) -> int:
        """As `TokenCounter.count`."""
        try:
            return await self._counter.count(request)
        except (Unauthorized, NotFound) as error:
            raise operators(self._name, error) from error
