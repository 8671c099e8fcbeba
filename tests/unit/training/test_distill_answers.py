"""Answers of any backend as chats to tune on: kept, dropped, retried, gone on with."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.cli.train import train
from headrace.data import records
from headrace.data.records import Prompt
from headrace.errors import DataError, Overloaded, ServiceError, Unauthorized, UpstreamError
from headrace.testing.scripted import Request, ScriptedBackend, Step, reply
from headrace.training.distill.answers import Asking, Tally, ask, is_refusal
from headrace.types import ChatRequest, FinishReason, SamplingParams

SPROUT = Path(__file__).parents[3] / "src" / "headrace" / "sprout"


def _prompts(path: Path, count: int = 6) -> list[Prompt]:
    lines = [json.dumps({"id": f"q{n}", "prompt": f"question {n}"}) for n in range(count)]
    path.write_text("\n".join(lines))
    return list(records.prompts(path))


def _asked(request: Request) -> str:
    assert isinstance(request, ChatRequest)
    return request.messages[-1].text


def _run(
    backend: ScriptedBackend, prompts: list[Prompt], out: Path, slept: list[float], **values: Any
) -> Tally:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def run() -> Tally:
        asking = replace(Asking(model="m"), **values)
        return [tally async for tally in ask(backend, prompts, out, asking, sleep=sleep)][-1]

    return asyncio.run(run())


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _by_question(request: Request) -> Iterable[Step]:
    """q1 declines, q2 says nothing, q3 is cut off, q4 is filtered; the others answer."""
    match _asked(request)[-1]:
        case "1":
            return reply(request, ("I'm sorry, ", "but no."))
        case "2":
            return reply(request, (" ", "\n"))
        case "3":
            return reply(request, ("The", " begin"), reason=FinishReason.LENGTH)
        case "4":
            return reply(request, ("x",), reason=FinishReason.CONTENT_FILTER)
        case _:
            return reply(request, ("Well, ", _asked(request)))


def test_answers_are_kept_and_what_is_none_is_dropped(tmp_path: Path) -> None:
    prompts, out = _prompts(tmp_path / "p.jsonl"), tmp_path / "made" / "a.jsonl"
    sampling = SamplingParams(temperature=0.7, seed=3, given=frozenset({"temperature", "seed"}))
    tally = _run(ScriptedBackend(_by_question), prompts, out, [], sampling=sampling)
    assert (tally.asked, tally.answered, tally.done) == (6, 2, 6)
    assert dict(tally.dropped) == {"refusal": 2, "empty": 1, "cut off": 1}
    kept = {line["id"]: line for line in _lines(out)}
    assert set(kept) == {"q0", "q5"}
    assert kept["q5"]["messages"] == [
        {"role": "user", "content": "question 5"},
        {"role": "assistant", "content": "Well, question 5"},
    ]
    source = kept["q5"]["provenance"]
    assert source["model"] == "m"
    assert source["system_fingerprint"] == "scripted"
    assert source["sampling"] == {"temperature": 0.7, "seed": 3}
    assert source["completion_tokens"] == 2
    dropped = {line["id"]: line["dropped"] for line in _lines(out.with_name("a.dropped.jsonl"))}
    assert dropped == {"q1": "refusal", "q2": "empty", "q3": "cut off", "q4": "refusal"}
    # What tuning reads.
    chats = list(records.chats(out))
    assert sorted(chat.messages[-1].text for chat in chats) == [
        "Well, question 0", "Well, question 5",
    ]  # fmt: skip


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    prompts, out = _prompts(tmp_path / "p.jsonl"), tmp_path / "a.jsonl"
    _run(ScriptedBackend(reply), prompts[:3], out, [])
    whole = out.read_text()
    out.write_text(whole + whole.splitlines()[0][:40])  # killed in the middle of a line
    backend = ScriptedBackend(reply)
    tally = _run(backend, prompts, out, [])
    assert (tally.found, tally.answered) == (3, 3)
    assert sorted(_asked(r) for r in backend.requests) == [f"question {n}" for n in (3, 4, 5)]
    assert sorted(line["id"] for line in _lines(out)) == [f"q{n}" for n in range(6)]
    idle = ScriptedBackend(reply)
    assert _run(idle, prompts, out, []).found == 6
    assert not idle.requests


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"sampling": SamplingParams(temperature=0.1)}]
)
def test_answers_to_something_else_are_not_mixed_in(tmp_path: Path, change: dict[str, Any]) -> None:
    prompts, out = _prompts(tmp_path / "p.jsonl"), tmp_path / "a.jsonl"
    _run(ScriptedBackend(reply), prompts, out, [])
    with pytest.raises(DataError, match=r"a\.jsonl:1 answers another request than 'q\d'"):
        _run(ScriptedBackend(reply), prompts, out, [], **change)
    out.write_text('{"messages": []}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1 is no line of this verb's"):
        _run(ScriptedBackend(reply), prompts, out, [])


def test_errors_are_retried_counted_and_asked_again(tmp_path: Path) -> None:
    prompts, out = _prompts(tmp_path / "p.jsonl", 3), tmp_path / "a.jsonl"
    failures = {"question 0": 2, "question 1": 99}

    def script(request: Request) -> Iterable[Step]:
        left = failures.get(_asked(request), 0)
        failures[_asked(request)] = left - 1
        if left > 0:
            raise Overloaded("full", retry_after_s=5) if left % 2 else UpstreamError("odd")
        return reply(request)

    slept: list[float] = []
    tally = _run(ScriptedBackend(script), prompts, out, slept, attempts=3)
    assert tally.answered == 2
    assert dict(tally.failed) in ({"upstream_error": 1}, {"overloaded": 1})
    assert sorted(slept) == [1.0, 2.0, 5.0, 5.0] or len(slept) == 4
    assert not out.with_name("a.dropped.jsonl").exists()
    again = _run(ScriptedBackend(reply), prompts, out, [])
    assert (again.found, again.answered) == (2, 1)


def test_a_server_that_only_fails_ends_the_run(tmp_path: Path) -> None:
    prompts, out = _prompts(tmp_path / "p.jsonl", 40), tmp_path / "a.jsonl"

    def script(request: Request) -> Iterable[Step]:
        raise ServiceError("broken")

    backend = ScriptedBackend(script)
    with pytest.raises(ServiceError, match=r"requests failed one after the other.*broken"):
        _run(backend, prompts, out, [], errors_in_a_row=5, concurrency=2)
    assert len(backend.requests) < 12

    def locked(request: Request) -> Iterable[Step]:
        raise Unauthorized("no such key")

    with pytest.raises(Unauthorized):
        _run(ScriptedBackend(locked), prompts, out, [])


def test_no_more_than_so_many_at_once(tmp_path: Path) -> None:
    most = 0

    def script(request: Request) -> Iterable[Step]:
        nonlocal most
        most = max(most, backend.running)
        return reply(request, pause_s=0.002)

    backend = ScriptedBackend(script)
    _run(backend, _prompts(tmp_path / "p.jsonl", 12), tmp_path / "a.jsonl", [], concurrency=3)
    assert most == 3
    assert backend.running == 0


def test_samples_of_one_prompt_have_their_own_seeds(tmp_path: Path) -> None:
    backend = ScriptedBackend(reply)
    out = tmp_path / "a.jsonl"
    sampling = SamplingParams(seed=10)
    _run(backend, _prompts(tmp_path / "p.jsonl", 1), out, [], samples=3, sampling=sampling)
    assert sorted(r.sampling.seed or 0 for r in backend.requests) == [10, 11, 12]
    assert sorted(line["id"] for line in _lines(out)) == ["q0#0", "q0#1", "q0#2"]


def test_two_prompts_of_one_id_are_refused(tmp_path: Path) -> None:
    prompts = _prompts(tmp_path / "p.jsonl", 1)
    with pytest.raises(DataError, match="two prompts have the id 'q0'"):
        _run(ScriptedBackend(reply), prompts * 2, tmp_path / "a.jsonl", [])


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, I can't help with that.", True),
        ("I cannot help with this request.", True),
        ('"As an AI, I have no body."', True),
        ("I’m unable to open links.", True),
        ("Sorry is a word of five letters.", False),
        ("He said: I cannot help it.", False),
        ("I can help.", False),
    ],
)
def test_what_counts_as_a_refusal(text: str, refused: bool) -> None:
    assert is_refusal(text) == refused


def test_the_verb_asks_the_model_here(tmp_path: Path) -> None:
    _prompts(tmp_path / "p.jsonl", 2)
    out = tmp_path / "a.jsonl"
    words = ["answers", "--prompts", str(tmp_path / "p.jsonl"), "--out", str(out), "--json"]
    words += ["--model", str(SPROUT), "--max-tokens", "60", "--temperature", "0"]
    done = CliRunner().invoke(train, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["asked"] == 2
    assert found["answered"] + sum(found["dropped"].values()) == 2
    assert not found["failed"]
