"""`headrace teams|keys|budgets|audit`: who there is, what changes of them, who changed it."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main


class Cli:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._store = f"store.url=sqlite:///{directory / 'h.db'}"
        self._capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["--set", self._store, *words])
        said = self._capsys.readouterr()
        assert (ended.value.code or 0) == code, said
        return said.out + said.err

    def audit(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("audit", "--json", *words))
        return found


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, capsys)


def test_every_change_by_a_command_is_audited(cli: Cli) -> None:
    cli("teams", "add-org", "acme")
    cli("teams", "add", "red", "--org", "acme")
    cli("teams", "add-user", "ann@acme.example", "--team", "red", "--role", "team_admin")
    made = json.loads(cli("keys", "make", "--org", "acme", "--team", "red", "--json"))
    cli("keys", "rotate", made["id"], "--overlap", "1h")
    cli("keys", "revoke", made["id"])
    cli("budgets", "set", "team:red", "25.50")
    cli("budgets", "remove", "1")
    said = cli("teams", "set-user", "ann@acme.example", "--role", "member", "--disable")
    assert "disabled" in said
    assert "0 sessions" in cli("teams", "end-sessions", "ann@acme.example")
    found = cli.audit()
    assert [entry["action"] for entry in found] == [
        "user.change",
        "limit.remove",
        "limit.set",
        "key.revoke",
        "key.rotate",
        "key.make",
        "user.add",
        "team.add",
        "org.add",
    ]
    assert {(entry["via"], entry["role"]) for entry in found} == {("cli", "admin")}
    assert {entry["team"] for entry in found[:-1]} == {"red"}
    assert made["token"] not in json.dumps(found)
    assert len(cli.audit("--action", "key.", "--subject", made["id"])) == 3
    assert cli.audit("--since", "1h", "--limit", "1") == found[:1]
    assert cli.audit("--since", "2000-01-01") == found
    assert cli.audit("--actor", "nobody-here") == []
    assert "yet to come" in cli("audit", "--since", "2100-01-01", code=2)
    table = cli("audit")
    for text in ("key.revoke", "team.add", "red"):
        assert text in table


def test_what_cannot_be_changed_is_said_and_not_audited(cli: Cli) -> None:
    cli("teams", "add-user", "bob")
    before = cli.audit()
    assert "nothing to change" in cli("teams", "set-user", "bob", code=2)
    assert "no user" in cli("teams", "set-user", "eve", "--disable", code=2)
    assert "no team" in cli("teams", "set-user", "bob", "--team", "gone", code=2)
    assert "no key" in cli("keys", "revoke", "key_0", code=2)
    assert "no limit" in cli("budgets", "remove", "7", code=2)
    assert cli.audit() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("keys", "make", "--route", "/v1/chats"), "the route '/v1/chats' is none of this service"),
        (("keys", "make", "--route", "/v1/fil"), "/v1/files"),
        (("keys", "make", "--feature", "a b"), "the feature 'a b' can be no request's"),
        (("keys", "make", "--expires", "2020-01-01"), "--expires '2020-01-01' is past"),
        (("cache", "clear", "--team", "nobody"), "there is no team 'nobody'"),
        (("cache", "clear", "--org", "nobody"), "there is no organization 'nobody'"),
        (("spend", "price", "m", "--input", "-1", "--output", "2"), "it is 0 or more dollars"),
    ],
)
def test_what_could_never_take_effect_is_refused(
    cli: Cli, words: tuple[str, ...], said: str
) -> None:
    assert said in cli(*words, code=2)


@pytest.mark.parametrize(
    "route", ["/v1/chat/completions", "/v1/files/", "/v1/chat", "/v1/admin/keys", "/metrics"]
)
def test_a_key_may_be_for_any_route_that_there_is(cli: Cli, route: str) -> None:
    assert "shown once" in cli("keys", "make", "--route", route)


def test_a_key_for_a_model_that_nothing_serves_is_made_and_warned_of(cli: Cli) -> None:
    said = cli("keys", "make", "--model", "sprotu")
    assert "serve no model 'sprotu'; did you mean 'sprout'? (there are: sprout)" in said
    assert "shown once" in said
    assert "serve no model" not in cli("keys", "make", "--model", "sprout")
