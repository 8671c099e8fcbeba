"""The engine as the gateway's process sees it: an async iterator of token events per request.

`EngineClient` starts the worker on one end of a socket pair (no path, so nobody else can connect),
hands requests over and tells their events apart. It loads no torch.

Invariants: every `generate` ends with an event that has usage, or raises a `HeadraceError`; closing
one cancels it before the worker's next step; when the worker dies, each request in flight raises
`WorkerDied` with the usage of what was delivered, and a new worker is started. A request's events
wait in memory until they are read: at most its own `n` times `max_tokens` of them.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from headrace.config import Settings, process_environment
from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    InvalidParameter,
    NotReady,
    Overloaded,
    WorkerDied,
)
from headrace.types import FinishReason, Priority, SamplingParams, TokenEvent, Usage
from headrace.wire.frames import (
    Beat,
    Cancel,
    Configure,
    Drain,
    Embed,
    Events,
    Fatal,
    GetStats,
    Ready,
    Refused,
    Stats,
    Submit,
    ToClient,
    ToWorker,
    Vectors,
    client_reader,
    encode,
)

START_TIMEOUT_S = 600.0
"""Loading a large model from a cold disk; longer means that the worker hangs."""
WAIT_S = 5.0
"""How long a new request waits for a worker that is being restarted."""
_LOG = logging.getLogger("headrace.engine")
_MOST_FAILED_STARTS = 3
_LONGEST_BACKOFF_S = 5.0
_STABLE_S = 30.0
_LAST_WORD_S = 1.0
_READ_BYTES = 1 << 18


class EngineState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"  # a worker that cannot start; not tried again
    CLOSED = "closed"


@dataclass(kw_only=True, slots=True)
class _InFlight:
    """One request at the worker."""

    prompt_tokens: int
    events: "asyncio.Queue[TokenEvent | Vectors | HeadraceError]" = field(
        default_factory=asyncio.Queue["TokenEvent | Vectors | HeadraceError"]
    )
    delivered: int = 0

    def died(self, message: str) -> WorkerDied:
        error = WorkerDied(message)
        if self.delivered:
            error.usage = Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.delivered)
        return error


@dataclass(kw_only=True, slots=True, eq=False)
class _Link:
    """One life of a worker."""

    process: subprocess.Popen[bytes]
    writer: asyncio.StreamWriter
    alive_s: float
    """When the worker last showed that its loop turns."""
    ready: Ready | None = None
    fatal: Fatal | None = None
    stalled: bool = False
    requests: dict[str, _InFlight] = field(default_factory=dict[str, _InFlight])
    stats: dict[int, asyncio.Future[dict[str, float]]] = field(
        default_factory=dict[int, "asyncio.Future[dict[str, float]]"]
    )

    def send(self, frame: ToWorker) -> None:
        if not self.requests and not self.stats:
            self.alive_s = asyncio.get_running_loop().time()  # nothing was owed until now
        if not self.writer.is_closing():
            self.writer.write(encode(frame))


class EngineClient:
    """Starts, watches and restarts a worker; a `TokenBackend`.

    Use as `async with EngineClient(path, settings) as client:`, or call `start` and `close`.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        *,
        command: Sequence[str] = (sys.executable, "-m", "headrace.engine.worker"),
        wait_s: float = WAIT_S,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            path: Checkpoint directory.
            settings: `model`, `engine` and `server.drain_s` count.
            command: Starts a worker; `--fd N` is added.
            wait_s: How long a request waits while the worker is being restarted.
        """
        self._configure = Configure(
            path=str(path),
            model=settings.model,
            engine=settings.engine,
            drain_s=settings.server.drain_s,
        )
        self._command = tuple(command)
        self._wait_s = wait_s
        self._state = EngineState.CLOSED
        self._error: HeadraceError | None = None
        self._reason = "not started"
        self._changed = asyncio.Event()
        self._link: _Link | None = None
        self._info: Ready | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._number = 0
        self.restarts = 0
        """Workers started after the first."""

    async def __aenter__(self) -> "EngineClient":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def started(self) -> bool:
        """Whether the worker has been ready once."""
        return self._state is not EngineState.STARTING or self.restarts > 0

    @property
    def ready(self) -> bool:
        """Whether a request would be handed over at once."""
        return self._state is EngineState.READY

    @property
    def reason(self) -> str:
        """Why it is not ready; empty when it is."""
        return self._reason

    @property
    def info(self) -> Ready:
        """What the worker said of itself when it was last ready.

        Raises: NotReady: It never was.
        """
        if self._info is None:
            raise NotReady(f"the engine is {self._state}: {self._reason}")
        return self._info

    async def start(self) -> None:
        """Start the worker and wait until it is ready.

        Raises:
            HeadraceError: The error with which the worker could not start (`CheckpointError`, …).
        """
        if self._supervisor is not None:
            raise HeadraceError("an engine client is started once")
        self._become(EngineState.STARTING, "the model is loading")
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")
        try:
            while self._state is EngineState.STARTING:
                await self._changed.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            await self.close()
            raise

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        salt: str = "",
        deadline_s: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
        request_id: str = "",
        on_cancel: Callable[[Usage], None] | None = None,
    ) -> AsyncGenerator[TokenEvent, None]:
        """Continue a prompt. Close the iterator to cancel.

        Args:
            prompt: Token ids.
            sampling: A `seed` of None is drawn here.
            salt: Domain of the prefix cache.
            deadline_s: Seconds from now until the request ends with `deadline`.
            priority: A batch request runs in what others leave.
            request_id: For logs; need not be unique.
            on_cancel: Gets what a cancelled request had used, tokens that nobody read among it: the
                iterator's closing then waits for the worker's word, a second at most.

        Raises:
            UserError: The request cannot be served.
            Overloaded: The queue is full.
            NotReady: No worker within the waiting time, or draining.
            WorkerDied: The worker ended meanwhile; `usage` says what had been delivered.
        """
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbits(63))
        elif not -(1 << 63) <= sampling.seed < 1 << 64:
            raise InvalidParameter(f"`seed` {sampling.seed} has more than 64 bits", param="seed")
        link, left_s = await self._patient_link(deadline_s)
        id = self._id(request_id)
        frame = Submit(
            id=id,
            prompt=tuple(prompt),
            sampling=sampling,
            salt=salt,
            deadline_s=left_s,
            priority=priority,
        )
        request = _InFlight(prompt_tokens=len(prompt))
        link.send(frame)
        link.requests[id] = request
        ended = False
        try:
            while not ended:
                event = await request.events.get()
                ended = not isinstance(event, TokenEvent) or event.usage is not None
                if isinstance(event, HeadraceError):
                    raise event
                if isinstance(event, Vectors):
                    raise HeadraceError("the worker serves an encoder, which generates nothing")
                request.delivered += len(event.tokens)
                yield event
        finally:
            if not ended:
                link.send(Cancel(id=id))
                if on_cancel is not None and not link.writer.is_closing():
                    usage = await _last_word(request)
                    if usage is not None:
                        on_cancel(usage)
            link.requests.pop(id, None)

    async def embed(
        self,
        inputs: Sequence[tuple[int, ...]],
        *,
        deadline_s: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
        request_id: str = "",
    ) -> bytes:
        """Vectors of a worker that serves an encoder: float32, row after row.

        Cancelling the call cancels the work. Arguments as of `generate`.

        Raises:
            UserError, Overloaded, NotReady, WorkerDied: As `generate`.
            DeadlineExceeded: It was not done in time.
        """
        link, left_s = await self._patient_link(deadline_s)
        id = self._id(request_id)
        request = _InFlight(prompt_tokens=0)
        link.send(Embed(id=id, inputs=tuple(inputs), deadline_s=left_s, priority=priority))
        link.requests[id] = request
        answer: TokenEvent | Vectors | HeadraceError | None = None
        try:
            answer = await request.events.get()
        finally:
            link.requests.pop(id, None)
            if answer is None:
                link.send(Cancel(id=id))
        if isinstance(answer, Vectors):
            return _data(answer)
        if isinstance(answer, HeadraceError):
            raise answer
        raise HeadraceError("the worker serves a decoder, which makes no vectors")

    async def score(self, tokens: Sequence[int]) -> list[float]:
        """Natural-log probability of each token given those before it; the first is 0."""
        if len(tokens) < 2:
            return [0.0] * len(tokens)
        sampling = SamplingParams(temperature=0.0, max_tokens=0, prompt_logprobs=0, seed=0)
        scores: list[float] = []
        async with contextlib.aclosing(self.generate(tokens, sampling)) as events:
            async for event in events:
                if event.error is not None:
                    raise HeadraceError(event.error)
                for scored in event.prompt_logprobs or ():
                    scores.append(0.0 if scored is None else scored.logprob)
        return scores

    async def stats(self) -> dict[str, float]:
        """The engine's gauges and counters by dotted name (`running`, `counters.prompt`).

        Raises: NotReady, WorkerDied
        """
        link = await self._ready_link(None)
        self._number += 1
        number = self._number
        answer: asyncio.Future[dict[str, float]] = asyncio.get_running_loop().create_future()
        link.send(GetStats(number=number))
        link.stats[number] = answer
        try:
            return await answer
        finally:
            link.stats.pop(number, None)

    async def drain(self, drain_s: float | None = None) -> None:
        """Refuse new requests, let the running ones end, stop the worker.

        Args:
            drain_s: What then still runs ends with `abort`; None = `server.drain_s`.
        """
        if self._supervisor is None or self._state in (EngineState.CLOSED, EngineState.FAILED):
            return
        limit_s = self._configure.drain_s if drain_s is None else drain_s
        self._become(EngineState.DRAINING, "the service is stopping")
        if self._link is not None and self._link.ready is not None:
            self._link.send(Drain(drain_s=limit_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s + _LONGEST_BACKOFF_S):
                    await asyncio.shield(self._supervisor)
        await self.close()

    async def close(self) -> None:
        """Stop the worker now; what is in flight raises `WorkerDied`."""
        task, self._supervisor = self._supervisor, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._become(EngineState.CLOSED, "the engine is closed")

    def _become(self, state: EngineState, reason: str = "") -> None:
        self._state, self._reason = state, reason
        self._changed.set()
        self._changed = asyncio.Event()

    def _lose(self, reason: str) -> None:
        # Before anybody hears of the death: whoever tries again at once is to wait for the next.
        if self._state is EngineState.READY:
            self._become(EngineState.STARTING, reason)

    def _id(self, request_id: str) -> str:
        self._number += 1
        return f"{request_id or 'request'}#{self._number}"

    async def _patient_link(self, deadline_s: float | None) -> tuple[_Link, float | None]:
        """A worker, and what waiting for it left of the deadline."""
        asked_s = asyncio.get_running_loop().time()
        link = await self._ready_link(deadline_s)
        if deadline_s is None:
            return link, None
        return link, max(0.0, deadline_s - (asyncio.get_running_loop().time() - asked_s))

    async def _ready_link(self, deadline_s: float | None) -> _Link:
        patience_s = self._wait_s if deadline_s is None else min(self._wait_s, deadline_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._state is EngineState.STARTING:
                    await self._changed.wait()
        if self._state is EngineState.READY and self._link is not None:
            return self._link
        raise NotReady(f"the engine is {self._state}: {self._reason}; try again shortly")

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        failed = restarts = 0
        while True:
            began_s = loop.time()
            error, was_ready = await self._live()
            if self._state is EngineState.DRAINING:
                return
            failed = 0 if was_ready else failed + 1
            # The first start is somebody's command: it fails at once, with the reason.
            if failed and (self._info is None or failed >= _MOST_FAILED_STARTS):
                self._error = error
                _LOG.error("the engine is given up, %d starts failed: %s", failed, error.message)
                self._become(EngineState.FAILED, error.message)
                return
            _LOG.warning("%s; it is started again (start %d)", error.message, self.restarts + 2)
            self._become(EngineState.STARTING, f"{error.message}; restarting")
            restarts = 0 if was_ready and loop.time() - began_s > _STABLE_S else restarts + 1
            if restarts > 1:
                await asyncio.sleep(min(0.1 * 2**restarts, _LONGEST_BACKOFF_S))
            self.restarts += 1

    async def _live(self) -> tuple[HeadraceError, bool]:
        """One worker from start to end: why it ended, and whether it had been ready."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = self._spawn(theirs)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        now_s = asyncio.get_running_loop().time()
        link = self._link = _Link(process=process, writer=writer, alive_s=now_s)
        watchdog = asyncio.create_task(self._watch(link), name="engine-watchdog")
        message = "the engine was stopped"
        try:
            link.send(self._configure)
            await self._read(link, reader)
            self._lose("the engine's process ended; restarting")
            status = await asyncio.to_thread(_wait, process)
            message = _epitaph(link, status, self._configure.engine.step_timeout_s)
        except (HeadraceError, OSError) as error:
            message = f"the engine's process broke off: {error}"
        finally:
            self._link = None
            self._lose(f"{message}; restarting")
            watchdog.cancel()
            if process.poll() is None:
                process.kill()
            for request in link.requests.values():
                request.events.put_nowait(request.died(message))
            for answer in link.stats.values():
                if not answer.done():
                    answer.set_exception(WorkerDied(message))
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await asyncio.shield(asyncio.to_thread(_wait, process))
        if link.fatal is not None:
            return error_of(link.fatal.code, link.fatal.message), False
        return WorkerDied(message), link.ready is not None

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._command, "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=process_environment(),
        )

    async def _read(self, link: _Link, reader: asyncio.StreamReader) -> None:
        frames = client_reader()
        loop = asyncio.get_running_loop()
        while data := await _unless_reset(reader.read(_READ_BYTES)):
            link.alive_s = loop.time()
            for frame in frames.push(data):
                self._take(link, frame)

    def _take(self, link: _Link, frame: ToClient) -> None:
        match frame:
            case Events():
                for id, event in frame.events:
                    if (request := link.requests.get(id)) is not None:
                        request.events.put_nowait(event)
            case Refused():
                if (request := link.requests.get(frame.id)) is not None:
                    request.events.put_nowait(
                        error_of(
                            frame.code,
                            frame.message,
                            param=frame.param,
                            retry_after_s=frame.retry_after_s,
                        )
                    )
            case Vectors():
                if (request := link.requests.get(frame.id)) is not None:
                    request.events.put_nowait(frame)
            case Stats():
                answer = link.stats.get(frame.number)
                if answer is not None and not answer.done():
                    answer.set_result(frame.values)
            case Ready():
                link.ready = self._info = frame
                if self._state is EngineState.STARTING:
                    if self.restarts:
                        _LOG.info("the engine is ready again, process %d", frame.pid)
                    self._become(EngineState.READY)
            case Fatal():
                link.fatal = frame
            case Beat():
                pass  # reading it was the point

    async def _watch(self, link: _Link) -> None:
        """Kill a worker that owes something and has said nothing for too long."""
        loop = asyncio.get_running_loop()
        step_s = self._configure.engine.step_timeout_s
        while True:
            await asyncio.sleep(min(1.0, step_s / 4))
            owes = link.ready is None or link.requests or link.stats
            limit_s = START_TIMEOUT_S if link.ready is None else step_s
            if owes and loop.time() - link.alive_s > limit_s:
                link.stalled = True
                link.process.kill()
                return


def _data(answer: Vectors) -> bytes:
    match answer.finish:
        case FinishReason.STOP:
            return answer.data
        case FinishReason.DEADLINE:
            raise DeadlineExceeded("the vectors were not made before the request's deadline")
        case FinishReason.ABORT:
            raise NotReady("the engine stopped before it came to this request; try again shortly")
        case _:
            raise HeadraceError(answer.error or "the engine failed")


def error_of(
    code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None
) -> HeadraceError:
    """The error of the tree that has this code."""
    kind = _KINDS.get(code, HeadraceError)
    if issubclass(kind, Overloaded):
        return Overloaded(message, retry_after_s=retry_after_s or 1)
    return kind(message, param=param)


def _kinds(root: type[HeadraceError]) -> dict[str, type[HeadraceError]]:
    kinds = {root.code: root}
    for child in root.__subclasses__():
        kinds = _kinds(child) | kinds  # of classes that share a code, the one that is above
    return kinds


_KINDS = _kinds(HeadraceError)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit status; a process that closed its socket and lives on is killed."""
    try:
        return process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _epitaph(link: _Link, status: int, step_timeout_s: float) -> str:
    if link.stalled and link.ready is not None:
        return f"the engine hung for more than engine.step_timeout_s = {step_timeout_s:g} s"
    if link.stalled:
        return f"the engine did not start within {START_TIMEOUT_S:g} s"
    if status < 0:
        return f"the engine's process was killed by {signal.Signals(-status).name}"
    return f"the engine's process exited with status {status}"


async def _last_word(request: _InFlight) -> Usage | None:
    """What a cancelled request used; None where the worker does not say in time."""

    async def read() -> Usage | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                while not isinstance(event := await request.events.get(), HeadraceError):
                    if isinstance(event, TokenEvent) and event.usage is not None:
                        return event.usage
        return None

    reading = asyncio.create_task(read())
    # Whoever cancelled this task may do so again while it cleans up: that changes nothing.
    while not reading.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({reading})
    return reading.result()


async def _unless_reset(read: Awaitable[bytes]) -> bytes:
    try:
        return await read
    except ConnectionError:
        return b""
