"""Policy escalate on index answers: another model is asked, or it is said which there are."""

import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway_server import Records
from gateway_server import services as scripted
from headrace.gateway.asgi import build
from headrace.gateway.services import ServedEmbedder
from headrace.retrieval.answering.grounding import Grounds
from headrace.retrieval.library import Library
from headrace.testing import reply
from headrace.testing.embedder import HashEmbedder
from headrace.types import Target
from index_library import Lines, Nearest

pytestmark = pytest.mark.asyncio

ASK = {"question": "which fox?", "model": "m", "policy": "escalate"}


@pytest_asyncio.fixture
async def http(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """A model that contradicts its source, and a larger one that does not."""
    books = Library(tmp_path / "indexes", cut=lambda _: Lines(), seek=Nearest, ground=Grounds())
    async with books:
        small = scripted(lambda request: reply(request, ["There are 9 red foxes [1]."]))
        large = scripted(lambda request: reply(request, ["There are 2 red foxes [1]."]))
        model = ServedEmbedder(embedder=HashEmbedder(), target=Target(provider="", model="hash"))
        big = replace(large.models["m"], card=replace(large.models["m"].card, name="big"))
        services = replace(
            small,
            models={**small.models, "big": big},
            embedders={"hash": model},
            indexes=books,
            metrics=Records(),
        )
        transport = httpx.ASGITransport(app=build(services))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await client.post("/v1/indexes", json={"name": "notes"})
            documents = [{"id": "a", "text": "There are 2 red foxes in the wood."}]
            await client.post("/v1/indexes/notes/documents", json={"documents": documents})
            yield client


async def answer(http: httpx.AsyncClient, **more: Any) -> httpx.Response:
    return await http.post("/v1/indexes/notes/answer", json={**ASK, **more})


async def test_an_answer_that_fails_goes_on_to_the_larger_model(http: httpx.AsyncClient) -> None:
    plain = (await answer(http, policy="annotate")).json()
    assert [item["verdict"] for item in plain["citations"]] == ["contradicted"]
    found = (await answer(http, escalate="big")).json()
    assert found["answer"] == "There are 2 red foxes [1]."
    assert [item["verdict"] for item in found["citations"]] == ["supported"]
    good = (await answer(http, model="big", escalate="m")).json()  # nothing fails: nobody is asked
    assert good["answer"] == found["answer"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "`escalate` is missing: policy escalate asks another model .* there is: big"),
        ({"escalate": "m"}, "`escalate` is 'm', which answers first.* there is: big"),
        ({"escalate": "nobody"}, "'nobody' is not served here; there is: m, big"),
        ({"escalate": "big", "policy": "strike"}, "no effect with policy strike"),
    ],
)
async def test_without_another_model_it_says_which_there_are(
    more: dict[str, Any], message: str, http: httpx.AsyncClient
) -> None:
    found = await answer(http, **more)
    assert found.status_code in (400, 404), found.text
    assert re.search(message, found.json()["error"]["message"]), found.text
