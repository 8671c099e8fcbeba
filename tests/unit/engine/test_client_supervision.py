"""The client against a scripted worker in a real process (no torch in it): life, death, silence."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.config import EngineSettings, ServerSettings, Settings
from headrace.engine.client import EngineClient, EngineState, error_of
from headrace.errors import (
    CheckpointError,
    ContextLengthExceeded,
    HeadraceError,
    InvalidParameter,
    NotReady,
    Overloaded,
    WorkerDied,
)
from headrace.types import FinishReason, SamplingParams, TokenEvent, Usage

SCRIPT = """
import dataclasses, os, pathlib, signal, socket, sys, time
from headrace.engine import worker as W
from headrace.errors import ContextLengthExceeded
from headrace.types import FinishReason, TokenEvent, TokenLogprob, Usage
from headrace.wire.frames import Configure, Fatal, Ready

@dataclasses.dataclass
class Said:
    id: str
    event: TokenEvent

class Core:
    def __init__(self): self.live = {}
    has_work = property(lambda self: bool(self.live))
    def submit(self, request):
        if request.prompt == (13,):
            raise ContextLengthExceeded("too long", param="prompt")
        self.live[request.id] = [request, 0]
    def cancel(self, id, reason):
        if self.live.pop(id, None) is None: return []
        return [Said(id, TokenEvent(finish=reason, usage=Usage()))]
    def stats(self): return {"running": len(self.live)}
    def step(self):
        said = []
        time.sleep(0.01)
        for id, entry in list(self.live.items()):
            request, done = entry
            if request.prompt == (66,): time.sleep(60)
            if request.prompt == (67,) and done == 2: os._exit(3)
            if request.sampling.prompt_logprobs is not None:
                scores = [None, *(TokenLogprob(token=t, logprob=-t) for t in request.prompt[1:])]
                event = TokenEvent(prompt_logprobs=tuple(scores), finish=FinishReason.LENGTH,
                                   usage=Usage(prompt_tokens=len(scores)))
                del self.live[id]
                said.append(Said(id, event))
                continue
            entry[1] = done + 1
            ended = done + 1 == request.sampling.max_tokens
            usage = Usage(prompt_tokens=len(request.prompt), completion_tokens=done + 1)
            said.append(Said(id, TokenEvent(tokens=(done,),
                finish=FinishReason.LENGTH if ended else None, usage=usage if ended else None)))
            if ended: del self.live[id]
        return said

def build(configure, link, started_s):
    mark = pathlib.Path(configure.path)
    if mark.read_text() == "corrupt":
        from headrace.errors import CheckpointError
        raise CheckpointError("the file is torn; fetch it again")
    if mark.read_text() == "crash":
        os._exit(9)
    worker = W.Worker(Core(), link, drain_s=configure.drain_s)
    return worker, Ready(pid=os.getpid(), vocab_size=9, context_tokens=99, fingerprint="f",
        dtype="float32", device="cpu", threads=1, kernels="none", load_s=0.0)

W._build = build
sys.exit(W.main())
"""

Make = Callable[..., EngineClient]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    script, mark = tmp_path / "worker.py", tmp_path / "mark"
    script.write_text(SCRIPT)
    mark.write_text("good")

    def made(*, engine: EngineSettings = EngineSettings(), wait_s: float = 20.0) -> EngineClient:
        settings = replace(Settings(), engine=engine, server=ServerSettings(drain_s=5.0))
        command = (sys.executable, str(script))
        return EngineClient(mark, settings, command=command, wait_s=wait_s)

    return made


def sampling(max_tokens: int = 3) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens)


async def tokens(events: AsyncGenerator[TokenEvent, None]) -> list[int]:
    async with contextlib.aclosing(events):
        return [token async for event in events for token in event.tokens]


async def back(client: EngineClient, restarts: int = 1) -> None:
    async with asyncio.timeout(30):
        while not (client.ready and client.restarts == restarts):  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0.01)


async def test_requests_side_by_side_and_errors_typed(make: Make) -> None:
    async with make() as client:
        both = await asyncio.gather(
            tokens(client.generate((1,), sampling())),
            tokens(client.generate((1,), sampling(5))),
        )
        assert both == [[0, 1, 2], [0, 1, 2, 3, 4]]
        with pytest.raises(ContextLengthExceeded, match="too long") as caught:
            await tokens(client.generate((13,), sampling()))
        assert caught.value.param == "prompt"
        with pytest.raises(InvalidParameter, match="64 bits"):
            await tokens(client.generate((1,), SamplingParams(seed=1 << 64)))
        assert await client.score((4, 5, 6)) == [0.0, -5.0, -6.0]
        assert await client.score((4,)) == [0.0]
        assert (client.ready, client.reason) == (True, "")
    assert client.state is EngineState.CLOSED
    with pytest.raises(NotReady):
        await client.stats()


async def test_closing_the_iterator_cancels(make: Make) -> None:
    async with make() as client:
        events = client.generate((1,), sampling(10**6))
        await anext(events)
        assert await client.stats() == {"running": 1.0}
        await events.aclose()
        assert await client.stats() == {"running": 0.0}


async def test_kill_9_ends_requests_with_what_was_delivered(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "headrace.engine")
    async with make() as client:
        first = client.info.pid
        events = client.generate((1, 2), sampling(10**6))
        await anext(events)
        await anext(events)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            await tokens(events)
        assert isinstance(caught.value.usage, Usage)
        assert caught.value.usage.prompt_tokens == 2
        assert caught.value.usage.completion_tokens >= 2
        assert await tokens(client.generate((1,), sampling())) == [0, 1, 2]  # it waited
        await back(client)
        assert client.info.pid != first
        said = [record.getMessage() for record in caplog.records]
        assert said == [
            "the engine's process was killed by SIGKILL; it is started again (start 2)",
            f"the engine is ready again, process {client.info.pid}",
        ]


async def test_an_exit_in_a_step_is_a_death(make: Make) -> None:
    async with make() as client:
        with pytest.raises(WorkerDied, match="status 3"):
            await tokens(client.generate((67,), sampling(9)))
        await back(client)


async def test_a_hung_step_is_killed(make: Make) -> None:
    async with make(engine=EngineSettings(step_timeout_s=0.5)) as client:
        with pytest.raises(WorkerDied, match=r"step_timeout_s = 0\.5"):
            await tokens(client.generate((66,), sampling()))
        await back(client)
        assert await tokens(client.generate((1,), sampling())) == [0, 1, 2]


async def test_an_idle_worker_is_not_called_hung(make: Make) -> None:
    async with make(engine=EngineSettings(step_timeout_s=0.2)) as client:
        await asyncio.sleep(0.6)
        assert await tokens(client.generate((1,), sampling())) == [0, 1, 2]
        assert client.restarts == 0


async def test_sigterm_to_the_worker_finishes_what_runs_then_it_is_replaced(make: Make) -> None:
    async with make() as client:
        events = client.generate((1,), sampling(20))
        await anext(events)
        os.kill(client.info.pid, signal.SIGTERM)
        assert len(await tokens(events)) == 19
        await back(client)


async def test_drain_lets_requests_end_and_refuses_new_ones(make: Make) -> None:
    client = make()
    await client.start()
    events = client.generate((1,), sampling(20))
    await anext(events)
    rest = asyncio.create_task(tokens(events))
    drain = asyncio.create_task(client.drain())
    await asyncio.sleep(0)
    with pytest.raises(NotReady, match="stopping"):
        await tokens(client.generate((1,), sampling()))
    assert len(await rest) == 19
    await drain
    assert client.state is EngineState.CLOSED


async def test_a_drain_too_short_aborts(make: Make) -> None:
    client = make()
    await client.start()
    events = client.generate((1,), sampling(10**6))
    await anext(events)
    await client.drain(0.1)
    said = [event async for event in events]
    assert said[-1].finish is FinishReason.ABORT


async def test_a_start_that_cannot_work_is_the_error_itself(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("corrupt")
    client = make()
    with pytest.raises(CheckpointError, match="torn; fetch it again"):
        await client.start()
    assert client.state is EngineState.CLOSED


async def test_a_start_that_crashes_is_a_death(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("crash")
    with pytest.raises(WorkerDied, match="status 9"):
        await make().start()


async def test_restarts_stop_after_three_failures(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as client:
        (tmp_path / "mark").write_text("corrupt")
        os.kill(client.info.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while client.state is not EngineState.FAILED:  # noqa: ASYNC110 - a test looks from outside
                await asyncio.sleep(0.02)
        assert client.restarts == 3
        last = caplog.records[-1]
        assert (last.levelname, last.name) == ("ERROR", "headrace.engine")
        assert "given up, 3 starts failed: the file is torn" in last.getMessage()
        with pytest.raises(NotReady, match="torn"):
            await tokens(client.generate((1,), sampling()))


async def test_while_it_is_down_a_request_waits_only_so_long(make: Make, tmp_path: Path) -> None:
    async with make(wait_s=0.05) as client:
        os.kill(client.info.pid, signal.SIGKILL)
        while client.ready:  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0)
        with pytest.raises(NotReady, match="restarting"):
            await tokens(client.generate((1,), sampling()))


def test_errors_come_back_as_their_classes() -> None:
    error = error_of("overloaded", "full", retry_after_s=4)
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 4
    assert type(error_of("no_such_code", "?")) is HeadraceError


def test_the_gateways_side_loads_no_torch() -> None:
    code = (
        "import sys, headrace.engine.client, headrace.engine.chat, headrace.engine.worker; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_worker_dies_with_its_parent(tmp_path: Path) -> None:
    script, mark, pid = tmp_path / "worker.py", tmp_path / "mark", tmp_path / "pid"
    script.write_text(SCRIPT)
    mark.write_text("good")
    parent = f"""
import asyncio, os, pathlib, signal, sys
from headrace.config import Settings
from headrace.engine.client import EngineClient
async def main():
    client = EngineClient(pathlib.Path({str(mark)!r}), Settings(),
                          command=(sys.executable, {str(script)!r}))
    await client.start()
    pathlib.Path({str(pid)!r}).write_text(str(client.info.pid))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", parent], timeout=60, check=False)
    worker = int(pid.read_text())
    for _ in range(200):
        state = Path(f"/proc/{worker}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return

        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")
