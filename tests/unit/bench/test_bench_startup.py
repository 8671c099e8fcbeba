"""Start-up on a fake server process, and result files."""

import json
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from headrace.bench.measures import RequestRecord
from headrace.bench.results import circumstances, write_result
from headrace.bench.startup import evict, measure_startup
from headrace.errors import NotReady, ServiceError
from headrace.types import CompletionRequest, Event, Finished, FinishReason, TextDelta, Usage


class FakeClient:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    async def ready(self) -> bool:
        if not self.flag.exists():
            raise NotReady("starting")
        return True

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        yield TextDelta(text="x")
        yield Finished(reason=FinishReason.LENGTH, usage=Usage())


def command(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


async def test_ready_then_first_token_then_stopped(tmp_path: Path) -> None:
    flag, pid = tmp_path / "flag", tmp_path / "pid"
    code = (
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(0.2); "
        f"open({str(flag)!r}, 'w'); time.sleep(60)"
    )
    found = await measure_startup(
        command(code), client=FakeClient(flag), model="m", environment={}, cold=True, timeout_s=30
    )
    assert 0.2 <= found.ready_s <= found.first_token_s < 30
    assert found.cold
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_an_exit_tells_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"exited with 3:\nno such model"):
        await measure_startup(
            command("print('no such model', flush=True); raise SystemExit(3)"),
            client=FakeClient(tmp_path / "never"),
            model="m",
            environment={},
            cold=False,
            timeout_s=30,
        )


async def test_never_ready_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"not ready within 0\.3 s"):
        await measure_startup(
            command("import time; time.sleep(60)"),
            client=FakeClient(tmp_path / "never"),
            model="m",
            environment={},
            cold=False,
            timeout_s=0.3,
        )


def test_evict_counts_files_and_harms_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b").write_bytes(b"y" * 11)
    assert evict([tmp_path, tmp_path / "a", tmp_path / "absent"]) == 211
    assert (tmp_path / "a").read_bytes() == b"x" * 100


def test_a_result_says_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.json"
    record = RequestRecord(began_s=0.0, ended_s=1.0)
    write_result(path, what="w", arguments={"file": tmp_path, "rate": 2.0}, result=[record])
    found = json.loads(path.read_text())
    assert found["what"] == "w"
    assert found["arguments"]["rate"] == 2.0
    assert found["result"][0]["ended_s"] == 1.0
    assert found["circumstances"]["versions"]["torch"]
    assert found["circumstances"]["cores"] >= 1
    with pytest.raises(FileExistsError):
        write_result(path, what="w", arguments={}, result=None)


def test_circumstances_are_plain() -> None:
    assert circumstances().date.endswith("+00:00")
    assert circumstances().memory_bytes > 1 << 20
