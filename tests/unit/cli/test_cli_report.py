"""Results on stdout, progress on stderr, and the measurements of an answer."""

import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import connect, report
from headrace.config import Settings
from headrace.errors import Unauthorized, UserError
from headrace.types import (
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)


def test_json_spells_values_out(capsys: pytest.CaptureFixture[str]) -> None:
    report.emit_json(
        {
            "usage": Usage(prompt_tokens=3),
            "finish": FinishReason.STOP,
            "path": Path("a/b"),
            "names": {"y", "x"},
            "text": "Grüße",
        }
    )
    out = capsys.readouterr().out
    assert "Grüße" in out
    data = json.loads(out)
    assert data["usage"]["prompt_tokens"] == 3
    assert (data["finish"], data["path"], data["names"]) == ("stop", "a/b", ["x", "y"])


def test_json_refuses_what_it_cannot_spell() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        report.emit_json(object())


def test_progress_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with report.progress("counting", total=3) as step:
        step.advance()
        step.update(completed=2, description="nearly")
    with report.progress("waiting") as step:
        step.advance()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")  # stderr is no terminal here


def test_tally_folds_and_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(connect.time, "monotonic", lambda: now_s[0])
    tally = connect.Tally()
    assert (tally.ttft_s, tally.tokens_per_s, tally.facts()) == (None, None, "")
    usage = Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=5)
    events: list[tuple[float, Any]] = [
        (100.1, Started(id="x", model="m", created_s=0, prompt_tokens=9)),
        (100.25, ReasoningDelta(text="hm")),
        (100.5, TextDelta(text="a")),
        (101.25, ToolCallDelta(call=0, name="look", arguments="{}")),
        (102.0, Finished(reason=FinishReason.LENGTH, usage=usage)),
    ]
    for at_s, event in events:
        now_s[0] = at_s
        tally.add(event)
    assert tally.ttft_s == pytest.approx(0.25)
    assert tally.tokens_per_s == pytest.approx(4.0)
    assert (tally.text, tally.reasoning, tally.tool_calls) == ("a", "hm", "\nlook{}")
    facts = "TTFT 250 ms · 4.0 tok/s · 9 prompt (4 cached) · 5 completion · ended: length"
    assert tally.facts() == facts


def test_text_must_be_text() -> None:
    assert connect.text_of("Grüße") == connect.text_of("Grüße".encode()) == "Grüße"
    for wrong in (b"\xff\xfe", "\udcff"):
        with pytest.raises(UserError, match="not UTF-8"):
            connect.text_of(wrong)


async def test_a_server_that_wants_a_key_is_told_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.asynccontextmanager
    async def refuse(
        settings: Settings, *, url: str | None, key: str | None
    ) -> AsyncGenerator[None]:
        raise Unauthorized("the server said: no API key")
        yield

    monkeypatch.setattr(connect.app, "open_backend", refuse)
    source = connect.choose(Settings(), model=None, url="http://127.0.0.1:9", key=None)
    with pytest.raises(UserError, match="no API key; give one with --key or OPENAI_API_KEY"):
        async with connect.connected(source):
            pass
