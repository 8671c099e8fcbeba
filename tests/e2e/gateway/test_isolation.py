"""Nothing of one team is another's to read, list, hit or delete: over every route there is.

What is another's must answer as what does not exist, to the byte (the id itself and the request's
own id aside); no list and no answer has anything of another team; and when every route was tried
with every role, all that is the other teams' lies in the store as it was.
"""

import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

import isolation_cases as cases
from databases import KINDS
from headrace.gateway import data
from headrace.gateway.admin import table
from headrace.gateway.caching.asked import CACHE_HEADER
from headrace.store.identity import RoleName
from isolation_cases import Probe
from isolation_world import ATTACKER, TEAMS, VICTIMS, World, secret, world

_HEADERS = ("content-type", "allow", "www-authenticate", "retry-after")
DATA_ROUTES = [(route.method, route.template) for route in data.DATA]
ADMIN_ROUTES = [(route.method, route.path) for route in table.TABLE]


@dataclass(frozen=True)
class Attack:
    role: RoleName
    victim: str
    method: str
    template: str
    probe: Probe

    @property
    def wanted(self) -> bool:
        """Whether what it names is beyond this role."""
        if self.probe.of == "org" and TEAMS[self.victim] == TEAMS[ATTACKER]:
            return False
        if not self.probe.wide and self.template in cases_of_objects():
            return True
        if self.role is RoleName.ADMIN:
            return False
        return self.role is not RoleName.ORG_ADMIN or TEAMS[self.victim] != TEAMS[ATTACKER]


def cases_of_objects() -> set[str]:
    """Routes whose objects are a team's, whatever the role."""
    return {template for _, template in cases.DATA}


def attacks() -> Iterator[Attack]:
    planes = (("", cases.DATA), (table.PREFIX, cases.ADMIN))
    for prefix, plane in planes:
        for (method, path), probes in plane.items():
            for probe in probes:
                for victim in VICTIMS:
                    for role in RoleName:
                        template = path if not prefix else prefix + path
                        attack = Attack(role, victim, method, template, probe)
                        if attack.wanted:
                            yield attack


def test_every_route_has_its_cases() -> None:
    """A route without a line in `isolation_cases` is a route that nobody has tried."""
    assert set(DATA_ROUTES) == set(cases.DATA)
    assert set(ADMIN_ROUTES) == set(cases.ADMIN)
    assert len(DATA_ROUTES) == len(set(DATA_ROUTES))
    for method, path in [*cases.DATA, *cases.ADMIN]:
        probes = cases.DATA.get((method, path)) or cases.ADMIN[method, path]
        assert probes, path
        if "{" in path:
            assert all(probe.of for probe in probes), f"{path} names something: of which kind?"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def shared(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncGenerator[World]:
    async with world(tmp_path_factory.mktemp("isolation"), request.param) as made:
        yield made


async def send(made: World, attack: Attack, id: str) -> httpx.Response:
    path = re.sub(r"\{[^}]+\}", id, attack.template)
    probe = attack.probe
    options: dict[str, Any] = {}
    if probe.query is not None:
        options["params"] = dict(probe.query(id))
    if probe.form:
        options["data"] = probe.body(id) if probe.body is not None else {}
        options["files"] = {"file": ("f", b"x")}
    elif probe.body is not None:
        options["json"] = probe.body(id)
    return await made.ask(ATTACKER, attack.role, attack.method, path, **options)


def names(made: World, attack: Attack) -> tuple[str, str]:
    """The victim's id, and one as long that there is not."""
    victim, kind = attack.victim, attack.probe.of
    own = {"team": victim, "org": TEAMS[victim], **made.made[victim]}
    id = own[kind]
    if kind == "limit":
        return id, "8" * 9
    if kind in ("team", "org"):
        return id, "z" * len(id)
    head, mark, tail = id.rpartition("_") if "_" in id else id.rpartition("-")
    return id, head + mark + re.sub(r"[0-9A-Za-z]", "e", tail)


def told(answer: httpx.Response, id: str) -> tuple[int, str, list[tuple[str, str]]]:
    """All that an answer tells, without what is its own."""
    request = answer.headers["x-request-id"]
    text = re.sub(rf"\b{re.escape(id)}\b", "ID", answer.text.replace(request, "REQUEST"))
    headers = [(name, answer.headers[name]) for name in _HEADERS if name in answer.headers]
    return answer.status_code, text, headers


def shows(made: World, attack: Attack, answer: httpx.Response, id: str) -> list[str]:
    """What of the victim is in an answer, beside what was asked by."""
    text = answer.text + str(answer.headers)
    marks = [mark for mark in made.marks(attack.victim) if mark != id and not mark.isdigit()]
    return [mark for mark in marks if mark in text]


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_of_another_team_is_told_or_changed(shared: World) -> None:
    before = await shared.at_rest()
    assert {"users", "keys", "files", "batches", "responses", "limits"} <= before.keys()
    for name in ("users", "keys", "files", "batches", "responses", "traces"):
        assert before[name], name
    tried: set[tuple[str, str]] = set()
    for attack in attacks():
        where = f"{attack.role} of red: {attack.method} {attack.template} of {attack.victim}"
        id, absent = names(shared, attack) if attack.probe.of else ("", "")
        answer = await send(shared, attack, id)
        assert answer.status_code < 500, (where, answer.text)
        assert shows(shared, attack, answer, id) == [], where
        if attack.probe.of and not attack.probe.taken:
            nothing = await send(shared, attack, absent)
            assert told(answer, id) == told(nothing, absent), where
            # Refused for the id or the role, and for nothing else that is wrong with it; or a list
            # of what is there of it, which is nothing.
            found = answer.json()
            none = attack.probe.query is not None and (found.get("data"), found.get("removed"))
            assert answer.status_code in (403, 404) or none in (([], None), (None, 0)), where
        elif attack.probe.taken:
            assert answer.status_code in (403, 409), where
            if answer.status_code == 409:
                kind = attack.probe.of
                assert answer.json()["error"]["message"] == f"there is already a {kind} '{id}'"
        tried.add((attack.method, attack.template))
    assert len(tried) == len(DATA_ROUTES) + len(ADMIN_ROUTES)
    assert await shared.at_rest() == before


@pytest.mark.asyncio(loop_scope="module")
async def test_the_same_probes_reach_what_is_ones_own(shared: World) -> None:
    """Else the other test would pass where nobody can reach anything."""
    own = shared.made["blue"]
    for path, mark in (
        (f"/v1/responses/{own['response']}", own["response"]),
        (f"/v1/responses/{own['response']}/input_items", secret("blue")),
        (f"/v1/files/{own['file']}/content", secret("blue")),
        (f"/v1/files/{own['file']}", own["file"]),
        ("/v1/files", own["batch_file"]),
        ("/v1/batches", own["batch"]),
        (f"/v1/batches/{own['batch']}", own["batch_file"]),
        (f"/v1/requests/{own['request']}/explain", own["request"]),
        ("/v1/admin/keys", own["key"]),
        ("/v1/admin/users", own["user"]),
        ("/v1/admin/limits", own["key"]),
        ("/v1/admin/spend?by=model", secret("blue")),
    ):
        answer = await shared.ask("blue", RoleName.MEMBER, "GET", path)
        assert answer.status_code == 200, (path, answer.text)
        assert mark in answer.text, path
    for path in ("/v1/admin/sessions", "/v1/admin/users"):
        answer = await shared.ask("blue", RoleName.TEAM_ADMIN, "GET", path)
        assert (own["session"] if "sessions" in path else own["user"]) in answer.text


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_an_answer_that_is_kept_is_its_teams_alone(path: str, shared: World) -> None:
    """The exact cache is a team's own, whatever the role of who else asks the same."""
    said = [{"role": "user", "content": f"the same question on {path}"}]
    body: dict[str, Any] = {"model": "kept", "temperature": 0}
    body |= {"input": said, "store": False} if path == "/v1/responses" else {"messages": said}
    body |= {"max_tokens": 20} if path == "/v1/messages" else {}

    async def asks(team: str, role: RoleName) -> str:
        answer = await shared.ask(team, role, "POST", path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.headers[CACHE_HEADER.decode()]

    for team in TEAMS:
        first, *others = RoleName
        assert await asks(team, first) == "miss", team
        for role in others:
            assert await asks(team, role) == "hit", (team, role)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_route_that_tells_is_found(shared: World, monkeypatch: Any) -> None:
    """The comparison itself: a 403 where nothing there is 404 is a leak."""
    monkeypatch.setattr("headrace.gateway.explain.may_read", lambda *_: True)
    attack = Attack(
        RoleName.MEMBER, "blue", "GET", "/v1/requests/{id}/explain", cases.named("request")
    )
    id, absent = names(shared, attack)
    answer, nothing = await send(shared, attack, id), await send(shared, attack, absent)
    assert told(answer, id) != told(nothing, absent)
    assert shows(shared, attack, answer, id) != []


def test_the_world_is_as_the_roles_say(tmp_path: Path) -> None:
    assert {attack.role for attack in attacks()} == set(RoleName)
    assert {attack.victim for attack in attacks()} == set(VICTIMS)
