"""Every change by the control plane is in the audit log: over every route that changes anything."""

import re
from pathlib import Path
from typing import Any

from headrace.gateway.admin import table
from headrace.store.audit import Entry, Wanted, entries
from headrace.store.identity import RoleName
from isolation_world import World, world

CALLS: dict[tuple[str, str], tuple[str, Any, str]] = {
    ("POST", "orgs"): ("", {"id": "new-org"}, "org.add"),
    ("POST", "teams"): ("", {"id": "new-team", "org": "acme"}, "team.add"),
    ("POST", "users"): ("", {"id": "new-user", "team": "blue"}, "user.add"),
    ("PATCH", "users/{id}"): ("user", {"role": "team_admin"}, "user.change"),
    ("POST", "keys"): ("", {"team": "blue", "name": "ci"}, "key.make"),
    ("POST", "keys/{id}/rotate"): ("key", {"overlap_s": 5}, "key.rotate"),
    ("POST", "limits"): (
        "",
        {"scope": "team", "subject": "blue", "amount": 1, "unit": "requests", "window": "day"},
        "limit.set",
    ),
    ("DELETE", "limits/{id:int}"): ("limit", None, "limit.remove"),
    ("DELETE", "sessions/{id}"): ("session", None, "session.end"),
    ("DELETE", "keys/{id}"): ("key", None, "key.revoke"),
    ("DELETE", "traces"): ("request", None, "traces.delete"),
    ("DELETE", "texts?team=blue"): ("", None, "texts.delete"),
    ("POST", "traces/policies"): (
        "",
        {"scope": "team", "subject": "blue", "content_ppm": 5},
        "traces.policy",
    ),
}
"""Route -> the kind of thing it names, a body that it takes, and what the log calls it."""


async def read(made: World) -> list[Entry]:
    return await made.database.read(lambda c: entries(c, Wanted(count=1000)))


async def test_every_route_that_changes_anything_is_audited(tmp_path: Path) -> None:
    changing = {(route.method, route.path) for route in table.TABLE if route.method != "GET"}
    called = {(method, path.partition("?")[0]) for method, path in CALLS}
    assert changing == called, "a route that changes something needs a call here"
    async with world(tmp_path) as made:
        tokens = list(made.tokens.values())
        for (method, path), (kind, body, action) in CALLS.items():
            before = await read(made)
            id = made.made["blue"][kind] if kind else ""
            where = table.PREFIX + re.sub(r"\{[^}]+\}", id, path)
            where += f"?id={id}" if id and "{" not in path else ""
            answer = await made.ask("red", RoleName.ADMIN, method, where, json=body)
            assert answer.status_code == 200, (path, answer.text)
            tokens.append(answer.json().get("token", "hr-none"))
            after = await read(made)
            assert len(after) == len(before) + 1, path
            entry = after[0]
            assert (entry.action, entry.via, entry.role) == (action, "api", "admin")
            assert entry.actor.startswith("key_")
            assert entry.request == answer.headers["x-request-id"]
            if path not in ("orgs", "teams"):
                assert (entry.org, entry.team) == ("acme", "blue"), path
        everything = str(await read(made))
        assert not [token for token in tokens if token in everything]
        # What is refused is no change.
        count = len(await read(made))
        for (method, path), (kind, body, _) in CALLS.items():
            id = made.made["far"][kind] if kind else ""
            where = table.PREFIX + re.sub(r"\{[^}]+\}", id, path)
            where += f"?id={id}" if id and "{" not in path else ""
            await made.ask("red", RoleName.MEMBER, method, where, json=body)
        assert len(await read(made)) == count


async def test_administrators_read_what_is_theirs(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        for team in ("red", "blue", "far"):
            body = {"team": team, "name": "ci"}
            await made.ask("red", RoleName.ADMIN, "POST", "/v1/admin/keys", json=body)
        for role, sees in (
            (RoleName.ADMIN, ["far", "blue", "red"]),
            (RoleName.ORG_ADMIN, ["blue", "red"]),
            (RoleName.TEAM_ADMIN, ["red"]),
        ):
            answer = await made.ask("red", role, "GET", "/v1/admin/audit?action=key.make&limit=10")
            assert [entry["team"] for entry in answer.json()["data"]] == sees
        for query, text in (("limit=0x5", "whole number"), ("limit=1001", "1000")):
            answer = await made.ask("red", RoleName.ADMIN, "GET", f"/v1/admin/audit?{query}")
            assert answer.status_code == 400
            assert text in answer.text
        first = (await made.ask("red", RoleName.ADMIN, "GET", "/v1/admin/audit?limit=2")).json()
        assert first["more"] is True
        last = first["data"][-1]["id"]
        rest = await made.ask("red", RoleName.ADMIN, "GET", f"/v1/admin/audit?before={last}")
        assert [entry["team"] for entry in rest.json()["data"]] == ["red"]
