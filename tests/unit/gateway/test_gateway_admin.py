"""The admin API: roles reach down and never across; another's is as if it were not there."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from databases import fresh
from headrace.gateway.admin import PREFIX, build
from headrace.gateway.keys import StoreKeys
from headrace.store import identity
from headrace.store.changes import Changes
from headrace.store.identity import NewKey, RoleName

NOW = 1_764_000_000
TEAMS = {"red": "acme", "blue": "acme", "far": "other"}


class Api:
    def __init__(self, client: httpx.AsyncClient, tokens: dict[str, str], ids: dict[str, str]):
        self._client = client
        self.tokens = tokens
        self.ids = ids

    async def __call__(
        self, who: str, method: str, path: str, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        headers = {"authorization": f"Bearer {self.tokens[who]}"}
        answer = await self._client.request(method, PREFIX + path, json=body, headers=headers)
        return answer.status_code, answer.json()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api]:
    async with fresh("sqlite", tmp_path) as database:
        tokens: dict[str, str] = {}
        ids: dict[str, str] = {}

        async def work(connection: Any) -> None:
            for org in ("acme", "other"):
                await identity.add_org(connection, org, now_s=NOW)
            for team, org in TEAMS.items():
                await identity.add_team(connection, team, org=org, now_s=NOW)
                for role in RoleName:
                    new = NewKey(org=org, team=team, role=role)
                    made = await identity.make_key(connection, new, now_s=NOW)
                    tokens[f"{team}.{role.value}"] = made.token
                    ids[f"{team}.{role.value}"] = made.key.id

        await database.write(work)
        keys = StoreKeys(database, Changes(database))
        app: Any = build(database, keys, served=("sprout", "small"))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            yield Api(client, tokens, ids)


async def test_lists_show_only_what_is_within_reach(api: Api) -> None:
    seen = {
        "red.admin": {"red", "blue", "far"},
        "red.org_admin": {"red", "blue"},
        "red.team_admin": {"red"},
        "red.member": {"red"},
    }
    for who, teams in seen.items():
        status, found = await api(who, "GET", "teams")
        assert status == 200
        assert {team["id"] for team in found["data"]} == teams, who
        _, found = await api(who, "GET", "keys")
        assert {key["team"] for key in found["data"]} == teams, who
        assert "token" not in str(found)
    _, found = await api("red.member", "GET", "keys")
    assert [key["id"] for key in found["data"]] == [api.ids["red.member"]]


@pytest.mark.parametrize("role", ["org_admin", "team_admin", "member"])
async def test_nothing_of_another_organization_can_be_touched(role: str, api: Api) -> None:
    who = f"red.{role}"
    theirs = api.ids["far.member"]
    for method, path, body in (
        ("POST", "users", {"id": "eve", "team": "far"}),
        ("POST", "keys", {"team": "far"}),
        ("POST", f"keys/{theirs}/rotate", {}),
        ("DELETE", f"keys/{theirs}", None),
        ("POST", "teams", {"id": "new", "org": "other"}),
        ("POST", "orgs", {"id": "new"}),
        ("POST", "limits", {"scope": "team", "subject": "far", "amount": 1}),
        ("POST", "limits", {"scope": "key", "subject": theirs, "amount": 1}),
        ("POST", "limits", {"scope": "feature", "subject": "other/x", "amount": 1}),
        ("GET", "ledger/verify", None),
    ):
        status, answer = await api(who, method, path, body)
        assert status in (403, 404), (path, answer)
    # What is another's answers as what is not there.
    absent = await api(who, "DELETE", "keys/key_absent")
    other = await api(who, "DELETE", f"keys/{theirs}")
    assert absent[0] == other[0] == 404
    assert (
        other[1]["error"]["message"].replace(theirs, "key_absent")
        == (absent[1]["error"]["message"])
    )


async def test_nobody_rises_by_a_key(api: Api) -> None:
    for role in ("team_admin", "org_admin"):
        status, _ = await api(f"red.{role}", "POST", "keys", {"team": "red", "role": "admin"})
        assert status == 403
    high = api.ids["red.org_admin"]
    assert (await api("red.team_admin", "POST", f"keys/{high}/rotate", {}))[0] == 404
    status, made = await api("red.team_admin", "POST", "keys", {"team": "red", "name": "ci"})
    assert status == 200
    api.tokens["made"] = made["token"]
    assert (await api("made", "GET", "whoami"))[1]["role"] == "member"
    assert (await api("made", "POST", "keys", {"team": "red"}))[0] == 403


async def test_limits_are_set_from_above(api: Api) -> None:
    limit = {"scope": "team", "subject": "red", "amount": 5_000_000_000}
    assert (await api("red.team_admin", "POST", "limits", limit))[0] == 403
    status, made = await api("red.org_admin", "POST", "limits", limit)
    assert (status, made["amount"]) == (200, 5_000_000_000)
    for who, sees in (("red.member", 1), ("blue.member", 0), ("far.org_admin", 0)):
        _, found = await api(who, "GET", "limits")
        assert len(found["data"]) == sees, who
    assert (await api("far.org_admin", "DELETE", f"limits/{made['id']}"))[0] == 404
    assert (await api("red.org_admin", "DELETE", f"limits/{made['id']}"))[0] == 200


async def test_bad_calls_are_named(api: Api) -> None:
    for method, path, body, status, text in (
        ("POST", "keys", {"team": "red", "rol": "x"}, 400, "rol"),
        ("POST", "limits", {"scope": "team", "subject": "red", "amount": "5"}, 400, "amount"),
        ("GET", "spend?by=nonsense", None, 400, "nonsense"),
        ("PUT", "keys", None, 405, "GET, POST"),
        ("GET", "nowhere", None, 404, "nowhere"),
    ):
        got, answer = await api("red.admin", method, path, body)
        assert got == status, answer
        assert text in answer["error"]["message"]
    api.tokens["nobody"] = "hr-none"
    assert (await api("nobody", "GET", "whoami"))[0] == 401
    assert (await api("red.admin", "GET", "ledger/verify"))[1]["findings"] == []


async def test_a_key_for_what_is_not_there_is_refused_by_name(api: Api) -> None:
    async def make(**body: Any) -> tuple[int, str]:
        status, found = await api("red.admin", "POST", "keys", {"team": "red", **body})
        return status, found.get("error", {}).get("message", "")

    status, said = await make(models=["sprout", "sprotu"])
    assert status == 400
    assert "'sprotu' is not served; did you mean 'sprout'?" in said
    assert "served: small, sprout" in said
    assert (await make(models=["sprotu"], unserved=True))[0] == 200
    assert (await make(models=["sprout"]))[0] == 200
    status, said = await make(features=["two words"])
    assert status == 400
    assert "'two words' can be no request's" in said
    assert (await make(features=["search"]))[0] == 200
