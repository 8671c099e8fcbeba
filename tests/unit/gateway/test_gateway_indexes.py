"""/v1/indexes over HTTP: what each route takes, answers and refuses, and to whom."""

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway_server import Records
from gateway_server import services as scripted
from headrace.errors import Unauthorized
from headrace.gateway.asgi import build
from headrace.gateway.keys import Credentials
from headrace.gateway.services import ServedEmbedder
from headrace.testing import reply
from headrace.testing.embedder import HashEmbedder
from headrace.types import Caller, Target
from index_library import library

pytestmark = pytest.mark.asyncio

CALLERS = {
    "boss": Caller(key_id="boss", org="acme", team="red", role="team_admin"),
    "eve": Caller(key_id="k-eve", org="acme", team="red", user="eve", role="member"),
    "bob": Caller(key_id="k-bob", org="acme", team="red", user="bob", role="member"),
    "other": Caller(key_id="other", org="acme", team="blue", role="team_admin"),
}


class Keys:
    async def identify(self, credentials: Credentials) -> Caller:
        name = (credentials.authorization or "").removeprefix("Bearer ")
        if name not in CALLERS:
            raise Unauthorized("no such key")
        return CALLERS[name]


@pytest_asyncio.fixture
async def http(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient]:
    async with library(tmp_path) as books:
        model = ServedEmbedder(embedder=HashEmbedder(), target=Target(provider="", model="hash"))
        services = replace(
            scripted(lambda request: reply(request, ["x"])),
            keys=Keys(),
            embedders={"hash": model},
            indexes=books,
            metrics=Records(),
        )
        transport = httpx.ASGITransport(app=build(services))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            yield client


async def ask(
    http: httpx.AsyncClient, who: str, method: str, path: str, **options: Any
) -> httpx.Response:
    headers = {"authorization": f"Bearer {who}"}
    return await http.request(method, f"/v1/indexes{path}", headers=headers, **options)


async def ok(*arguments: Any, **options: Any) -> Any:
    answer = await ask(*arguments, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def fill(http: httpx.AsyncClient, *, shared: bool = False) -> None:
    await ok(http, "boss", "POST", "", json={"name": "notes", "shared": shared})
    documents = [
        {"id": "a/b.md", "text": "the red fox", "metadata": {"lang": "en", "year": 2020}},
        {"id": "c", "text": "the secret fox", "readers": ["user:eve"]},
    ]
    await ok(http, "boss", "POST", "/notes/documents", json={"documents": documents})


async def test_from_a_text_to_a_passage_and_away(http: httpx.AsyncClient) -> None:
    await fill(http)
    card = await ok(http, "bob", "GET", "/notes")
    assert (card["documents"], card["embedder"], card["team"]) == (2, "hash", "red")
    found = await ok(http, "boss", "POST", "/notes/search", json={"query": "red fox", "k": 5})
    [passage] = found["data"]
    assert (passage["document"], passage["start"], passage["end"]) == ("a/b.md", 0, 11)
    assert found["usage"]["prompt_tokens"] == 2
    assert found["shortfall"]
    one = await ok(http, "boss", "GET", "/notes/documents/a/b.md")
    assert (one["status"], one["metadata"]) == ("searchable", {"lang": "en", "year": 2020})
    await ok(http, "boss", "DELETE", "/notes/documents/a/b.md")
    found = await ok(http, "boss", "POST", "/notes/search", json={"query": "red fox"})
    assert found["data"] == []
    await ok(http, "boss", "DELETE", "/notes")
    assert (await ask(http, "boss", "GET", "/notes")).status_code == 404


async def test_each_sees_what_it_may_read(http: httpx.AsyncClient) -> None:
    await fill(http)

    async def seen(who: str, **more: Any) -> list[str]:
        body = {"query": "fox", **more}
        found = await ok(http, who, "POST", "/notes/search", json=body)
        return sorted(item["document"] for item in found["data"])

    assert await seen("eve") == ["a/b.md", "c"]
    assert await seen("bob") == ["a/b.md"]
    assert await seen("boss", principals=["user:eve"]) == ["a/b.md", "c"]
    listed = await ok(http, "bob", "GET", "/notes/documents")
    assert [item["id"] for item in listed["data"]] == ["a/b.md"]
    assert len((await ok(http, "boss", "GET", "/notes/documents"))["data"]) == 2
    assert (await ask(http, "bob", "GET", "/notes/documents/c")).status_code == 404
    refused = await ask(
        http, "bob", "POST", "/notes/search", json={"query": "x", "principals": ["user:eve"]}
    )
    assert refused.status_code == 403


async def test_a_member_changes_nothing(http: httpx.AsyncClient) -> None:
    await fill(http)
    for method, path, body in (
        ("POST", "", {"name": "mine"}),
        ("DELETE", "/notes", None),
        ("POST", "/notes/documents", {"documents": [{"id": "z", "text": "z"}]}),
        ("DELETE", "/notes/documents/c", None),
        ("POST", "/notes/sync", {}),
    ):
        answer = await ask(http, "eve", method, path, **({"json": body} if body else {}))
        assert answer.status_code == 403, (path, answer.text)


async def test_in_a_shared_index_a_stranger_is_a_member(http: httpx.AsyncClient) -> None:
    await fill(http, shared=True)
    found = await ok(http, "other", "POST", "/notes/search", json={"query": "fox"})
    assert [item["document"] for item in found["data"]] == ["a/b.md"]
    listed = await ok(http, "other", "GET", "/notes/documents")
    assert [item["id"] for item in listed["data"]] == ["a/b.md"]
    body = {"query": "fox", "principals": ["user:eve"]}
    assert (await ask(http, "other", "POST", "/notes/search", json=body)).status_code == 403
    assert (await ask(http, "other", "DELETE", "/notes/documents/a/b.md")).status_code == 404
    assert (await ask(http, "other", "DELETE", "/notes")).status_code == 404


async def test_files_come_as_a_form(http: httpx.AsyncClient) -> None:
    await ok(http, "boss", "POST", "", json={"name": "notes"})
    files = [
        ("file", ("a.md", b"# Foxes\n\nthe red fox")),
        ("file", ("bad.pdf", b"")),
    ]
    data = {"readers": '["user:eve"]', "metadata": '{"of": "form"}'}
    done = await ok(http, "boss", "POST", "/notes/documents", files=files, data=data)
    assert [(d["id"], d["status"], d["reason"]) for d in done["data"]] == [
        ("a.md", "searchable", None),
        ("bad.pdf", "failed", "empty"),
    ]
    one = await ok(http, "eve", "GET", "/notes/documents/a.md")
    assert (one["readers"], one["metadata"]["of"]) == (["user:eve"], "form")
    for wrong, said in (
        ({"files": [("file", ("a", b"x")), ("file", ("a", b"y"))]}, "twice"),
        ({"files": [("blob", ("a", b"x"))]}, "not a part of this form"),
        ({"files": [("file", ("a", b"x"))], "data": {"readers": "user:eve"}}, "not valid JSON"),
        ({"files": [("file", ("a", b"x"))], "data": {"readers": '[1], "x": 1'}}, "`readers[0]`"),
    ):
        answer = await ask(http, "boss", "POST", "/notes/documents", **wrong)
        assert answer.status_code == 400, answer.text
        assert said in answer.text


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({"field": "lang", "eq": "en"}, 1),
        ({"field": "lang", "eq": "de"}, 0),
        ({"field": "year", "in": [2019, 2020]}, 1),
        ({"all": [{"field": "lang", "eq": "en"}, {"field": "year", "gt": 2019}]}, 1),
        ({"any": [{"field": "lang", "eq": "de"}, {"field": "id", "prefix": "a/"}]}, 1),
        ({"not": {"field": "lang", "eq": "en"}}, 0),
    ],
)
async def test_filters(filter: Any, found: int, http: httpx.AsyncClient) -> None:
    await fill(http)
    body = {"query": "fox", "filter": filter}
    answer = await ok(http, "bob", "POST", "/notes/search", json=body)
    assert len(answer["data"]) == found


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": "  "}, "query"),
        ({"query": "x", "k": 0}, "k"),
        ({"query": "x", "mode": "psychic"}, "mode"),
        ({"query": "x", "colour": 1}, "colour"),
        ({"query": "x", "filter": {"field": "a"}}, "filter"),
        ({"query": "x", "filter": {"field": "a", "eq": 1, "ne": 2}}, "filter"),
        ({"query": "x", "filter": {"field": "a", "eq": [1]}}, "filter.eq"),
        ({"query": "x", "filter": {"all": [{"field": "a", "like": 1}]}}, "filter.all[0].like"),
        ({"query": "x", "filter": {"any": []}}, "filter.any"),
    ],
)
async def test_what_is_wrong_is_named(
    body: dict[str, Any], param: str, http: httpx.AsyncClient
) -> None:
    await fill(http)
    answer = await ask(http, "bob", "POST", "/notes/search", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


async def test_a_filter_too_deep_is_refused(http: httpx.AsyncClient) -> None:
    await fill(http)
    filter: Any = {"field": "a", "eq": 1}
    for _ in range(40):
        filter = {"not": filter}
    answer = await ask(http, "bob", "POST", "/notes/search", json={"query": "x", "filter": filter})
    assert answer.status_code == 400
    assert "nested deeper" in answer.text


async def test_an_answer_has_its_citations_whole_and_as_it_comes(http: httpx.AsyncClient) -> None:
    await fill(http)
    body = {"question": "which fox?", "model": "m", "filter": {"field": "id", "eq": "a/b.md"}}
    whole = await ok(http, "bob", "POST", "/notes/answer", json=body)
    assert (whole["answer"], whole["in_sources"]) == ("the red fox [1]", True)
    [citation] = whole["citations"]
    assert (citation["document"], citation["start"], citation["end"]) == ("a/b.md", 0, 11)
    assert citation["support"] == 1
    answer = await ask(http, "bob", "POST", "/notes/answer", json={**body, "stream": True})
    frames = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert frames[-1] == "[DONE]"
    said = [json.loads(frame) for frame in frames[:-1]]
    assert [item["type"] for item in said] == ["started", "delta", "citation", "done"]
    assert said[1]["text"] == whole["answer"]
    assert said[2]["citation"] == citation
    assert (said[3]["usage"], said[3]["finish_reason"]) == (whole["usage"], "stop")


async def test_what_may_not_be_read_is_no_answer(http: httpx.AsyncClient) -> None:
    await fill(http)
    body = {"question": "fox", "model": "m", "filter": {"field": "id", "eq": "c"}}
    whole = await ok(http, "bob", "POST", "/notes/answer", json=body)
    assert (whole["answer"], whole["citations"], whole["in_sources"]) == ("", [], False)
    assert (await ok(http, "eve", "POST", "/notes/answer", json=body))["in_sources"]


async def test_without_a_model_for_vectors_there_are_no_indexes() -> None:
    services = replace(scripted(lambda request: reply(request, ["x"])), keys=Keys())
    transport = httpx.ASGITransport(app=build(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await ask(client, "boss", "GET", "")
        assert answer.status_code == 404
        assert "no indexes" in answer.json()["error"]["message"]
