"""`headrace traces`, `explain` and `config`, over stores on disk."""

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main
from headrace.config import TraceSettings
from headrace.gateway.detail import Detail, Said
from headrace.gateway.traces import Traces, rules
from headrace.observe.context import join
from headrace.observe.metrics import Metrics
from headrace.observe.usage import UsageRecord
from headrace.store.database import Database
from headrace.types import ChatRequest, Note, Usage

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        sets = ["--set", f"store.url=sqlite:///{tmp_path / 'headrace.db'}"]
        with pytest.raises(SystemExit) as stop:
            main([*sets, *words])
        caught = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, caught.out + caught.err

    return call


async def plant(directory: Path, *, team: str, user: str) -> str:
    database = await Database.open(f"sqlite:///{directory / 'traces.db'}")
    found = rules(TraceSettings(content_rate=1.0))
    pipeline = Metrics().pipelines.of("store")
    traces = Traces(database, database, None, found, pipeline=pipeline)
    await traces.refresh()
    id = secrets.token_hex(16)
    record = UsageRecord(
        id=id,
        route="/v1/chat/completions",
        status=200,
        finish="stop",
        key_id="key_1",
        org="default",
        team=team,
        end_user=user,
        model="sprout",
        usage=Usage(prompt_tokens=3, completion_tokens=2),
        started_s=1_764_000_000,
        duration_s=0.5,
        cost_nanousd=42,
        notes=(Note(hop="router", text="the first rule matched", facts={"rule": 1}),),
    )
    detail = Detail(context=join(id, None), keeps_content=True, max_characters=1000)
    detail.asked = ChatRequest(model="sprout", messages=())
    detail.said[0, 0] = Said(text=[f"secret of {user}"])
    traces.take(record, detail)
    await traces.close()
    await database.close()
    return id


def test_a_trace_is_listed_explained_exported_and_deleted(run: Run, tmp_path: Path) -> None:
    alice = asyncio.run(plant(tmp_path, team="red", user="alice"))
    bob = asyncio.run(plant(tmp_path, team="blue", user="bob"))
    code, out = run("traces", "list", "--team", "red", "--json")
    [row] = json.loads(out)
    assert (code, row["id"], row["cost_nanousd"]) == (0, alice, 42)
    assert alice in run("traces", "list", "--since", "9999w")[1].replace("\n", "")
    code, out = run("explain", alice)
    assert code == 0
    assert "the first rule matched" in out
    assert "secret of alice" in out
    assert run("traces", "show", alice)[1] == out
    found = json.loads(run("explain", alice, "--json")[1])
    assert found["decisions"][0]["facts"] == {"rule": 1}
    lines = [json.loads(line) for line in run("traces", "export")[1].splitlines()]
    assert {line["answer"]["choices"][0]["text"] for line in lines} == {
        "secret of alice",
        "secret of bob",
    }
    assert run("traces", "delete", "--yes") == (
        2,
        "error: say which: --id, --org, --team, --key, --end-user or --until\n",
    )
    assert run("traces", "delete", "--end-user", "alice", "--yes") == (0, "deleted 1 traces\n")
    files = b"".join(path.read_bytes() for path in tmp_path.glob("traces.db*"))
    assert b"alice" not in files
    assert b"secret of bob" in files
    assert run("explain", alice)[0] == 2
    assert run("explain", bob)[0] == 0
    entries = run("audit", "--json")[1]
    assert "traces.delete" in entries
    assert "alice" not in entries


def test_policies(run: Run) -> None:
    set_ = ("traces", "policy", "set")
    assert "there is no team 'red'" in run(*set_, "team:red", "--content-rate", "1")[1]
    assert "no organization 'acme'" in run(*set_, "org:acme", "--content-rate", "1")[1]
    run("teams", "add", "red")
    assert run(*set_, "team:red", "--content-rate", "0.25", "--retention-days", "7")[0] == 0
    [found] = json.loads(run("traces", "policy", "list", "--json")[1])
    assert found == {
        "scope": "team",
        "subject": "red",
        "content_ppm": 250_000,
        "retention_days": 7,
    }
    assert run(*set_, "red", "--content-rate", "1")[0] == 2
    assert run(*set_, "team:red", "--content-rate", "2")[0] == 2
    assert run(*set_, "team:red")[0] == 0
    assert json.loads(run("traces", "policy", "list", "--json")[1]) == []


def test_settings_are_checked_and_shown_with_their_origin(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(
        '[providers.p]\nkind = "compatible"\nurl = "http://127.0.0.1:1"\n'
        '[routes.r]\nprovider = "p"\n[server]\nport = 9000\n'
    )
    code, out = run("config", "check")
    assert code == 0
    assert "sprout, r" in out.replace("\n", " ")
    shown = json.loads(run("config", "show", "--json")[1])
    assert shown["server.port"] == {"value": 9000, "origin": "headrace.toml", "live": False}
    assert shown["routes.r.provider"]["live"] is True
    assert shown["store.url"]["origin"] == "--set"
    assert "traces.rate" not in shown
    every = json.loads(run("config", "show", "--all", "--json")[1])
    assert every["traces.rate"] == {"value": 1.0, "origin": "default", "live": True}
    for wrong, says in (
        ('[routes.r]\nprovider = "q"\n', "routes.r.provider"),
        ("[traces]\ncontent_rate = 3\n", "traces.content_rate"),
        ('[otlp]\nnames = "new"\n', "otlp.names"),
        ("[traces]\nkeep = 3\n", "traces.keep"),
    ):
        file.write_text(wrong)
        code, out = run("config", "check")
        assert code == 2
        assert says in out
