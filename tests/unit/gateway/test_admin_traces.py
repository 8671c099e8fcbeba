"""Traces on the control plane: nobody sees or deletes beyond its reach, and deletions are noted."""

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from databases import KINDS, fresh
from headrace.config import TraceSettings
from headrace.gateway.admin import PREFIX, build
from headrace.gateway.detail import Detail, Said
from headrace.gateway.keys import StoreKeys
from headrace.gateway.traces import Traces, rules
from headrace.observe.context import join
from headrace.observe.metrics import Metrics
from headrace.observe.usage import UsageRecord
from headrace.store import identity
from headrace.store.changes import Changes
from headrace.store.identity import NewKey, RoleName
from headrace.types import ChatRequest

TEAMS = {"red": "acme", "blue": "acme", "far": "other"}


class Plane:
    def __init__(self, http: httpx.AsyncClient, traces: Traces, tokens: dict[str, str]) -> None:
        self._http = http
        self.traces = traces
        self._tokens = tokens

    async def __call__(
        self, who: str, method: str, path: str, body: Any = None, **query: Any
    ) -> tuple[int, Any]:
        answer = await self._http.request(
            method,
            PREFIX + path,
            json=body,
            params=query,
            headers={"authorization": f"Bearer {self._tokens[who]}"},
        )
        return answer.status_code, answer.json()

    def put(self, team: str, user: str = "") -> str:
        id = secrets.token_hex(16)
        record = UsageRecord(
            id=id,
            route="/v1/chat/completions",
            status=200,
            finish="stop",
            key_id="k",
            org=TEAMS[team],
            team=team,
            model="m",
            end_user=user,
            started_s=time.time(),
        )
        detail = Detail(context=join(id, None), keeps_content=True, max_characters=100)
        detail.asked = ChatRequest(model="m", messages=())
        detail.said[0, 0] = Said(text=["a secret"])
        self.traces.take(record, detail)
        return id


@contextlib.asynccontextmanager
async def plane(kind: str, directory: Path) -> AsyncGenerator[Plane]:
    async with fresh(kind, directory) as database:
        tokens: dict[str, str] = {}

        async def work(connection: Any) -> None:
            for org in ("acme", "other"):
                await identity.add_org(connection, org, now_s=1)
            for team, org in TEAMS.items():
                await identity.add_team(connection, team, org=org, now_s=1)
                for role in RoleName:
                    new = NewKey(org=org, team=team, role=role)
                    made = await identity.make_key(connection, new, now_s=1)
                    tokens[f"{team}.{role.value}"] = made.token

        await database.write(work)
        pipeline = Metrics().pipelines.of("store")
        traces = Traces(database, database, None, rules(TraceSettings()), pipeline=pipeline)
        changes = Changes(database)
        app: Any = build(database, StoreKeys(database, changes), traces=traces, changes=changes)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            yield Plane(http, traces, tokens)


@pytest.mark.parametrize("kind", KINDS)
async def test_lists_and_deletions_stay_within_reach(kind: str, tmp_path: Path) -> None:
    async with plane(kind, tmp_path) as it:
        ids = {team: it.put(team, user="alice") for team in TEAMS}

        async def seen(who: str) -> set[str]:
            status, found = await it(who, "GET", "traces")
            assert status == 200
            assert "body" not in found["data"][0]
            return {row["team"] for row in found["data"]}

        assert await seen("red.member") == {"red"}
        assert await seen("red.team_admin") == {"red"}
        assert await seen("red.org_admin") == {"red", "blue"}
        assert await seen("red.admin") == {"red", "blue", "far"}
        assert (await it("red.team_admin", "GET", "traces", team="blue"))[0] == 403
        assert (await it("red.org_admin", "GET", "traces", org="other"))[0] == 403
        status, found = await it("red.admin", "GET", "traces", tam="blue")
        assert (status, "tam" in found["error"]["message"]) == (400, True)
        assert (await it("red.admin", "GET", "traces", limit=1))[1]["has_more"] is True
        for query, count in (
            ({"route": "/v1/chat/completions", "status": 200}, 3),
            ({"route": "/v1/messages"}, 0),
            ({"status": 429}, 0),
        ):
            assert len((await it("red.admin", "GET", "traces", **query))[1]["data"]) == count
        assert (await it("red.admin", "GET", "traces", status="4xx"))[0] == 400

        assert (await it("red.member", "DELETE", "traces", end_user="alice"))[0] == 403
        assert (await it("red.team_admin", "DELETE", "traces"))[0] == 400
        assert (await it("red.team_admin", "DELETE", "traces", id=ids["far"]))[0] == 404
        status, found = await it("red.org_admin", "DELETE", "traces", end_user="alice")
        assert (status, found) == (200, {"removed": 2, "scrubbed": True})
        assert await seen("red.admin") == {"far"}
        _, audit = await it("red.admin", "GET", "audit", action="traces.delete")
        assert [entry["org"] for entry in audit["data"]] == ["acme"]
        assert "alice" not in str(audit)


async def test_policies_reach_down_and_never_across(tmp_path: Path) -> None:
    async with plane("sqlite", tmp_path) as it:
        path = "traces/policies"
        red = {"scope": "team", "subject": "red", "content_ppm": 1000, "retention_days": 3}
        assert (await it("red.team_admin", "POST", path, red))[0] == 200
        assert (await it("blue.team_admin", "POST", path, red))[0] == 404
        acme = {"scope": "org", "subject": "acme", "content_ppm": 5}
        assert (await it("red.team_admin", "POST", path, acme))[0] == 403
        assert (await it("far.org_admin", "POST", path, acme))[0] == 404
        assert (await it("red.org_admin", "POST", path, acme))[0] == 200
        assert (await it("red.admin", "POST", path, {**acme, "subject": "none"}))[0] == 404
        wrong = {**red, "retention_days": 0}
        status, found = await it("red.team_admin", "POST", path, wrong)
        assert (status, found["error"]["param"]) == (400, "retention_days")

        async def seen(who: str) -> list[str]:
            return [each["subject"] for each in (await it(who, "GET", path))[1]["data"]]

        assert await seen("red.team_admin") == ["red"]
        assert await seen("red.org_admin") == ["acme", "red"]
        assert await seen("far.org_admin") == []
        assert await seen("far.admin") == ["acme", "red"]
        assert (await it("red.member", "GET", path))[0] == 403
