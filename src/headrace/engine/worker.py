"""The engine's own process: frames on a socket become requests, steps become frames.

One thread and one loop: read what arrived, step, send what the step produced. So a cancel takes
effect before the next step, and no lock is needed anywhere.

A client that does not read never blocks a send: output waits in memory up to `MAX_UNSENT_BYTES`;
past it the loop stops stepping, though it still reads, until the client catches up. The process
ends when the socket ends, and on Linux also with the thread that started it, even in a long step.

    python -m headrace.engine.worker --fd N      # N: an inherited, connected stream socket
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from headrace.engine.request import EngineRequest
from headrace.engine.vector_queue import VectorRequest
from headrace.errors import HeadraceError, NotReady, Overloaded, WorkerDied
from headrace.types import FinishReason, TokenEvent
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
    encode,
    worker_reader,
)

MAX_UNSENT_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_BEAT_S = 1.0
_CONFIGURE_S = 60.0
_LINGER_S = 5.0
_PR_SET_PDEATHSIG = 1


class Output(Protocol):
    """What a step says of a request."""

    @property
    def id(self) -> str: ...
    @property
    def event(self) -> TokenEvent | Vectors: ...


class Core(Protocol):
    """The part of `EngineCore` and `VectorCore` that the loop drives."""

    @property
    def has_work(self) -> bool: ...
    def submit(self, request: Any) -> None:
        """Take an `EngineRequest` or, from a worker that serves an encoder, a `VectorRequest`."""
        ...

    def cancel(self, request_id: str, reason: FinishReason) -> Sequence[Output]: ...
    def step(self) -> Sequence[Output]: ...
    def stats(self) -> Any: ...


class Link:
    """The socket: frames in, frames out, never blocking on a write."""

    def __init__(self, stream: socket.socket, *, wake: socket.socket | None = None) -> None:
        """Take a connected socket, and one that becomes readable when a signal arrived."""
        stream.setblocking(False)
        self._stream = stream
        self._reader = worker_reader()
        self._unsent = bytearray()
        self._selector = selectors.DefaultSelector()
        self._selector.register(stream, selectors.EVENT_READ)
        self._wake = wake
        if wake is not None:
            wake.setblocking(False)
            self._selector.register(wake, selectors.EVENT_READ)
        self.ended = False
        self.last_sent_s = time.monotonic()

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    def send(self, frame: ToClient) -> None:
        """Queue a frame and write what the socket takes."""
        self._unsent += encode(frame)
        self.last_sent_s = time.monotonic()
        self._write()

    def receive(self, timeout_s: float | None) -> list[ToWorker]:
        """The frames that arrive within `timeout_s` (None = wait for any event)."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._selector.modify(self._stream, wanted)
        frames: list[ToWorker] = []
        for key, mask in self._selector.select(timeout_s):
            if self._wake is not None and key.fileobj is self._wake:
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)
                continue
            if mask & selectors.EVENT_WRITE:
                self._write()
            if mask & selectors.EVENT_READ:
                frames += self._read()
        return frames

    def linger(self, timeout_s: float) -> None:
        """Send what is left, for at most `timeout_s`."""
        until = time.monotonic() + timeout_s
        while self._unsent and not self.ended and (left := until - time.monotonic()) > 0:
            self.receive(left)

    def close(self) -> None:
        self._selector.close()
        self._stream.close()

    def _read(self) -> list[ToWorker]:
        try:
            data = self._stream.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
        return self._reader.push(data)

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self._stream.send(self._unsent[: 1 << 20])
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = True


class Worker:
    """Drives a core until the client leaves or a drain is over."""

    def __init__(
        self,
        core: Core,
        link: Link,
        *,
        drain_s: float,
        eos_ids: tuple[int, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join a core and a link.

        Args:
            core: What steps.
            link: Where frames come from and go to.
            drain_s: How long running requests may take to end after SIGTERM.
            eos_ids: Tokens that end an answer.
            clock: The core's clock, seconds.
        """
        self._core = core
        self._link = link
        self._drain_s = drain_s
        self._eos_ids = eos_ids
        self._clock = clock
        self._active: set[str] = set()
        self._drain_until_s: float | None = None

    def drain(self, drain_s: float | None = None) -> None:
        """Refuse new requests and end when the running ones have; safe in a signal handler."""
        if self._drain_until_s is None:
            self._drain_until_s = self._clock() + (self._drain_s if drain_s is None else drain_s)

    def run(self) -> None:
        """Loop until there is nobody to work for."""
        link = self._link
        while True:
            for frame in link.receive(self._patience_s()):
                self._take(frame)
            if link.ended:
                return
            if self._drain_until_s is not None:
                if not self._active:
                    link.linger(_LINGER_S)
                    return
                if self._clock() >= self._drain_until_s:
                    for id in sorted(self._active):
                        self._report(self._core.cancel(id, FinishReason.ABORT))
                    self._active.clear()
            if self._core.has_work and link.unsent_bytes < MAX_UNSENT_BYTES:
                self._report(self._core.step())

    def _patience_s(self) -> float | None:
        if self._core.has_work and self._link.unsent_bytes < MAX_UNSENT_BYTES:
            return 0.0
        if self._drain_until_s is None:
            return None
        return 0.0 if not self._active else max(0.0, self._drain_until_s - self._clock())

    def _take(self, frame: ToWorker) -> None:
        match frame:
            case Submit() | Embed():
                self._submit(frame)
            case Cancel():
                self._report(self._core.cancel(frame.id, FinishReason.ABORT))
            case GetStats():
                self._link.send(Stats(number=frame.number, values=flatten(self._core.stats())))
            case Drain():
                self.drain(frame.drain_s)
            case Configure():
                raise HeadraceError("a worker is configured once, before it runs")

    def _request(self, frame: Submit | Embed) -> EngineRequest | VectorRequest:
        deadline_s = None if frame.deadline_s is None else self._clock() + frame.deadline_s
        if isinstance(frame, Embed):
            return VectorRequest(
                id=frame.id, inputs=frame.inputs, deadline_s=deadline_s, priority=frame.priority
            )
        return EngineRequest(
            id=frame.id,
            prompt=frame.prompt,
            sampling=frame.sampling,
            salt=frame.salt,
            deadline_s=deadline_s,
            eos_ids=self._eos_ids,
            priority=frame.priority,
        )

    def _submit(self, frame: Submit | Embed) -> None:
        request = self._request(frame)
        try:
            if self._drain_until_s is not None:
                raise NotReady("the engine is draining before it stops; try again shortly")
            self._core.submit(request)
        except HeadraceError as error:
            retry = error.retry_after_s if isinstance(error, Overloaded) else None
            self._link.send(
                Refused(
                    id=frame.id,
                    code=error.code,
                    message=error.message,
                    param=error.param,
                    retry_after_s=retry,
                )
            )
            return
        self._active.add(frame.id)

    def _report(self, outputs: Sequence[Output]) -> None:
        events: list[tuple[str, TokenEvent]] = []
        for output in outputs:
            event = output.event
            if isinstance(event, Vectors):
                self._active.discard(output.id)
                self._link.send(event)
            else:
                events.append((output.id, event))
        if events:
            self._active.difference_update(id for id, event in events if event.usage is not None)
            self._link.send(Events(events=events))
        elif not outputs and time.monotonic() - self._link.last_sent_s > _BEAT_S:
            self._link.send(Beat())


def flatten(stats: Any, prefix: str = "") -> dict[str, float]:
    """Numbers of nested dataclasses and mappings by dotted name."""
    if isinstance(stats, bool | int | float):
        return {prefix.removesuffix("."): float(stats)}
    if dataclasses.is_dataclass(stats):
        items = [(item.name, getattr(stats, item.name)) for item in dataclasses.fields(stats)]
    elif isinstance(stats, Mapping):
        mapping = cast("Mapping[Any, Any]", stats)
        items = [(str(key), value) for key, value in mapping.items()]
    else:
        return {}
    flat: dict[str, float] = {}
    for name, value in items:
        flat |= flatten(value, f"{prefix}{name}.")
    return flat


Build: TypeAlias = Callable[[Configure, Link, float], tuple[Worker, Ready]]
"""Makes what a process serves of its first frame; the float is when the process began."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process; its exit status."""
    return run_process("headrace.engine.worker", _build, arguments)


def run_process(name: str, build: Build, arguments: Sequence[str] | None) -> int:
    """Be a worker process from its arguments to its end; its exit status."""
    started_s = time.monotonic()
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--fd", type=int, required=True, help="inherited, connected socket")
    stream = socket.socket(fileno=parser.parse_args(arguments).fd)
    _die_with_parent()
    # Ctrl-C in a terminal reaches the whole group; the client decides when its worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    link = Link(stream, wake=wake)
    try:
        return _serve(build, link, waker, started_s)
    finally:
        signal.set_wakeup_fd(-1)
        link.close()
        wake.close()
        waker.close()


def _serve(build: Build, link: Link, waker: socket.socket, started_s: float) -> int:
    configure = _await_configure(link)
    if configure is None:
        return 1
    try:
        worker, ready = build(configure, link, started_s)
    except HeadraceError as error:
        link.send(Fatal(code=error.code, message=error.message))
        link.linger(_LINGER_S)
        return 1
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda _number, _frame: worker.drain())
    link.send(ready)
    worker.run()
    return 0


def _await_configure(link: Link) -> Configure | None:
    until = time.monotonic() + _CONFIGURE_S
    while not link.ended and (left := until - time.monotonic()) > 0:
        for frame in link.receive(left):
            if isinstance(frame, Configure):
                return frame
            raise HeadraceError(f"the first frame is {type(frame).__name__}, not Configure")
    return None


def _build(configure: Configure, link: Link, started_s: float) -> tuple[Worker, Ready]:
    # Imported here: the loop above is tested without torch, and so is its protocol.
    from headrace.engine.loading import load_core
    from headrace.tokens import Tokenizer

    path = Path(configure.path)
    loaded = load_core(path, configure.model, configure.engine, tokenizer=Tokenizer.load(path))
    checkpoint, core = loaded.checkpoint, loaded.core
    ready = Ready(
        pid=os.getpid(),
        vocab_size=core.vocab_size,
        context_tokens=core.context_tokens,
        fingerprint=checkpoint.fingerprint,
        dtype=str(checkpoint.dtype).removeprefix("torch."),
        device=loaded.device,
        threads=loaded.threads,
        kernels=core.kernels,
        load_s=time.monotonic() - started_s,
    )
    worker = Worker(core, link, drain_s=configure.drain_s, eos_ids=checkpoint.eos_ids)
    return worker, ready


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; elsewhere the socket's end does."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise WorkerDied("the process that started this worker is gone")


if __name__ == "__main__":
    sys.exit(main())
