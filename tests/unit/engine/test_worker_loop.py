"""The worker's loop over a scripted core: no torch, no model, a real socket."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from headrace.engine import worker as module
from headrace.engine.request import EngineRequest
from headrace.engine.threads import physical_cores
from headrace.engine.worker import Link, Worker, flatten
from headrace.errors import ContextLengthExceeded, HeadraceError, Overloaded
from headrace.types import FinishReason, SamplingParams, TokenEvent, Usage
from headrace.wire.frames import (
    Beat,
    Cancel,
    Drain,
    Events,
    GetStats,
    Refused,
    Stats,
    Submit,
    ToClient,
    ToWorker,
    client_reader,
    encode,
)


@dataclass(frozen=True)
class Said:
    id: str
    event: TokenEvent


@dataclass
class ScriptedCore:
    """One token a step for each request, the step's number; max_tokens of them."""

    live: dict[str, int] = field(default_factory=dict[str, int])
    steps: int = 0
    silent: bool = False
    pause_s: float = 0.0
    width: int = 1

    @property
    def has_work(self) -> bool:
        return bool(self.live)

    def submit(self, request: EngineRequest) -> None:
        if request.prompt == (13,):
            raise ContextLengthExceeded("too long by 1", param="prompt")
        if request.prompt == (14,):
            raise Overloaded("full", retry_after_s=7)
        self.live[request.id] = request.sampling.max_tokens or 1

    def cancel(self, request_id: str, reason: FinishReason) -> list[Said]:
        if self.live.pop(request_id, None) is None:
            return []
        return [Said(request_id, TokenEvent(finish=reason, usage=Usage()))]

    def step(self) -> list[Said]:
        self.steps += 1
        time.sleep(self.pause_s)
        if self.silent:
            return []
        said: list[Said] = []
        for id in list(self.live):
            self.live[id] -= 1
            ended = self.live[id] == 0
            event = TokenEvent(
                tokens=(self.steps,) * self.width,
                finish=FinishReason.LENGTH if ended else None,
                usage=Usage(completion_tokens=1) if ended else None,
            )
            if ended:
                del self.live[id]
            said.append(Said(id, event))
        return said

    def stats(self) -> dict[str, object]:
        return {"running": len(self.live), "counters": {"steps": self.steps}, "name": "x"}


class Peer:
    """The client's end, blocking."""

    def __init__(self, core: ScriptedCore, *, drain_s: float = 5.0) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        self.reader = client_reader()
        self.queued: list[ToClient] = []
        self.link = Link(theirs)
        self.worker = Worker(core, self.link, drain_s=drain_s)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.worker.run()
        self.link.close()

    def send(self, *frames: ToWorker) -> None:
        self.socket.sendall(b"".join(encode(frame) for frame in frames))

    def next(self) -> ToClient | None:
        while not self.queued:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self.queued += self.reader.push(data)
        return self.queued.pop(0)

    def close(self) -> None:
        self.socket.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


def submit(id: str, *, prompt: tuple[int, ...] = (1,), max_tokens: int = 3) -> Submit:
    return Submit(
        id=id, prompt=prompt, sampling=SamplingParams(max_tokens=max_tokens), deadline_s=9.0
    )


@pytest.fixture
def core() -> ScriptedCore:
    return ScriptedCore()


@pytest.fixture
def peer(core: ScriptedCore) -> Iterator[Peer]:
    made = Peer(core)
    yield made
    made.close()


def test_one_step_is_one_frame(peer: Peer) -> None:
    peer.send(submit("a"), submit("b"))
    frames = [peer.next() for _ in range(3)]
    assert all(isinstance(frame, Events) for frame in frames)
    assert [[id for id, _ in frame.events] for frame in frames if isinstance(frame, Events)] == [
        ["a", "b"]
    ] * 3


def test_refusals_carry_the_error(peer: Peer) -> None:
    peer.send(submit("a", prompt=(13,)), submit("b", prompt=(14,)), submit("c", max_tokens=1))
    assert peer.next() == Refused(
        id="a", code="context_length_exceeded", message="too long by 1", param="prompt"
    )
    assert peer.next() == Refused(id="b", code="overloaded", message="full", retry_after_s=7)
    assert isinstance(peer.next(), Events)


def test_cancel_takes_effect_before_the_next_step(peer: Peer, core: ScriptedCore) -> None:
    core.pause_s = 0.05
    peer.send(submit("a", max_tokens=10**6))
    assert isinstance(peer.next(), Events)
    peer.send(Cancel(id="a"), Cancel(id="unknown"), GetStats(number=4))
    steps = core.steps
    for _ in range(10):
        frame = peer.next()
        if isinstance(frame, Stats):
            assert frame == Stats(number=4, values=frame.values)
            assert frame.values["running"] == 0
            assert frame.values["counters.steps"] <= steps + 1
            return
    pytest.fail("no stats")


def test_a_loop_with_nothing_to_say_beats(
    core: ScriptedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.01)
    core.silent, core.pause_s = True, 0.005
    peer = Peer(core)
    peer.send(submit("a"))
    assert peer.next() == Beat()
    peer.close()


def test_drain_finishes_what_runs_and_refuses_the_rest(core: ScriptedCore) -> None:
    core.pause_s = 0.02
    peer = Peer(core)
    peer.send(submit("a", max_tokens=4))
    assert isinstance(peer.next(), Events)
    peer.send(Drain(drain_s=5.0), submit("b"))
    frames: list[ToClient] = []
    while (frame := peer.next()) is not None:
        frames.append(frame)
    refused = [frame for frame in frames if isinstance(frame, Refused)]
    assert [frame.code for frame in refused] == ["not_ready"]
    events = [e for f in frames if isinstance(f, Events) for _, e in f.events]
    assert events[-1].finish is FinishReason.LENGTH
    peer.close()


def test_a_drain_that_is_too_short_aborts_with_usage(core: ScriptedCore) -> None:
    core.pause_s = 0.01
    peer = Peer(core, drain_s=0.05)
    peer.send(submit("a", max_tokens=10**6))
    assert isinstance(peer.next(), Events)
    peer.worker.drain()
    events: list[TokenEvent] = []
    while (frame := peer.next()) is not None:
        assert isinstance(frame, Events)
        events += [event for _, event in frame.events]
    assert (events[-1].finish, events[-1].usage) == (FinishReason.ABORT, Usage())
    peer.close()


def test_a_client_that_does_not_read_pauses_the_loop(
    core: ScriptedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 20
    monkeypatch.setattr(module, "MAX_UNSENT_BYTES", limit)
    core.width = 20_000
    peer = Peer(core)
    peer.send(submit("a", max_tokens=200))
    time.sleep(0.5)
    paused = core.steps
    assert peer.link.unsent_bytes <= limit + 2 * 20_000 * 5
    assert paused < 200
    time.sleep(0.2)
    assert core.steps == paused
    tokens = 0
    while tokens < 200 * 20_000:
        frame = peer.next()
        assert isinstance(frame, Events)
        tokens += sum(len(event.tokens) for _, event in frame.events)
    peer.close()


def test_the_loop_ends_with_the_socket(peer: Peer) -> None:
    peer.send(submit("a", max_tokens=10**6))
    assert isinstance(peer.next(), Events)
    peer.close()


def test_flatten_names_numbers_by_path() -> None:
    assert flatten({"a": 1, "b": {"c": 2.5, "d": "text"}}) == {"a": 1.0, "b.c": 2.5}


def test_cores_are_counted() -> None:
    assert physical_cores() >= 1


def test_encode_refuses_what_the_reader_would(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.wire import frames

    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 10)
    with pytest.raises(HeadraceError, match="exceeds 10"):
        encode(Cancel(id="a" * 20))
