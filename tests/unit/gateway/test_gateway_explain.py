"""What a request's own team may ask about it afterwards, and at once; and nobody else."""

import contextlib
import json
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from databases import KINDS, fresh
from gateway_server import ByteCodec, Records, Script, services
from headrace.config import TraceSettings
from headrace.errors import Unauthorized
from headrace.gateway.asgi import build
from headrace.gateway.keys import Credentials
from headrace.gateway.services import Services
from headrace.gateway.traces import Traces, rules
from headrace.testing import Step, reply
from headrace.types import Caller, Started

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALLERS = {
    "red": Caller(key_id="key_red", org="o", team="red", role="member"),
    "red2": Caller(key_id="key_red2", org="o", team="red", role="member"),
    "blue": Caller(key_id="key_blue", org="o", team="blue", role="team_admin"),
    "org": Caller(key_id="key_org", org="o", team="top", role="org_admin"),
    "other": Caller(key_id="key_other", org="p", team="top", role="org_admin"),
    "admin": Caller(key_id="key_admin", org="default", team="default", role="admin"),
}


def honest(request: Any) -> Iterable[Step]:
    """`reply`, with the ids that the codec makes of the prompt, and an address in the answer."""
    ids = ByteCodec().render(request).ids
    for step in reply(request, ("Write", " to ", "c@d.example"), prompt_tokens=len(ids)):
        yield replace(step, prompt_ids=ids) if isinstance(step, Started) else step


class Tokens:
    """Keys whose token is their name."""

    async def identify(self, credentials: Credentials) -> Caller:
        name = (credentials.authorization or "").removeprefix("Bearer ")
        if name not in CALLERS:
            raise Unauthorized("who?")
        return CALLERS[name]


class Client:
    def __init__(self, http: httpx.AsyncClient, traces: Traces) -> None:
        self.http = http
        self.traces = traces

    async def chat(self, who: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi, a@b.example"}], **body}
        given = {"authorization": f"Bearer {who}", **(headers or {})}
        return await self.http.post("/v1/chat/completions", json=body, headers=given)

    async def explain(self, who: str, id: str) -> Any:
        return await self.http.get(
            f"/v1/requests/{id}/explain", headers={"authorization": f"Bearer {who}"}
        )


@contextlib.asynccontextmanager
async def gateway(
    kind: str, directory: Path, *, content_rate: float = 1.0, script: Script = honest
) -> AsyncGenerator[Client]:
    async with fresh(kind, directory) as database:
        metrics = Records()
        traces = Traces(
            database,
            database,
            None,
            rules(TraceSettings(content_rate=content_rate)),
            pipeline=metrics.pipelines.of("store"),
        )
        await traces.refresh()
        base = Services(
            models={}, keys=Tokens(), metrics=metrics, traces=traces, detail_sinks=(traces,)
        )
        app = build(services(script, base=base))
        transport = httpx.ASGITransport(app=app)  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield Client(http, traces)


@pytest.mark.parametrize("kind", KINDS)
async def test_everything_about_a_request(kind: str, tmp_path: Path) -> None:
    async with gateway(kind, tmp_path) as client:
        answer = await client.chat(
            "red", temperature=0.25, user="u-1", headers={"traceparent": PARENT}
        )
        id = answer.headers["x-request-id"]
        found = (await client.explain("red", id)).json()
        assert found["id"] == id
        assert found["route"] == "/v1/chat/completions"
        assert (found["status"], found["finish"], found["end_user"]) == (200, "stop", "u-1")
        assert found["trace"]["trace_id"] == PARENT.split("-")[1]
        assert found["trace"]["parent_id"] == PARENT.split("-")[2]
        assert found["parameters"]["temperature"] == {"value": 0.25, "origin": "request"}
        assert found["parameters"]["top_p"] == {"value": 1.0, "origin": "default"}
        assert found["content"] == "kept"
        assert found["prompt"] == {"rendered": ["hi, [EMAIL]"]}
        assert found["answer"]["choices"][0]["text"] == "Write to [EMAIL]"
        assert found["usage"]["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
        assert found["cost"] == {"nanousd": None, "booked": False, "ledger": {}}
        timings = found["timings"]
        assert 0 < timings["identified_s"] <= timings["decoded_s"] <= timings["held_s"]
        assert timings["held_s"] <= timings["admission_s"] <= timings["duration_s"]
        names = [span["name"] for span in found["spans"]]
        assert names[:4] == ["POST /v1/chat/completions", "identify", "receive", "admission"]
        root = found["spans"][0]
        assert root["parent"] == PARENT.split("-")[2]
        assert {span["parent"] for span in found["spans"][1:]} <= {s["id"] for s in found["spans"]}


async def test_another_team_learns_nothing_not_even_that_it_was(tmp_path: Path) -> None:
    async with gateway("sqlite", tmp_path) as client:
        id = (await client.chat("red")).headers["x-request-id"]
        statuses = {who: (await client.explain(who, id)).status_code for who in CALLERS}
        assert statuses == {
            "red": 200,
            "red2": 200,
            "blue": 404,
            "org": 200,
            "other": 404,
            "admin": 200,
        }
        hidden, absent = await client.explain("blue", id), await client.explain("blue", "0" * 32)
        assert hidden.status_code == absent.status_code == 404

        def message(answer: Any) -> str:
            return answer.json()["error"]["message"]

        assert message(hidden).replace(id, "X") == message(absent).replace("0" * 32, "X")
        assert (await client.explain("nobody", id)).status_code == 401


async def test_errors_are_explained_and_strangers_leave_no_trace(tmp_path: Path) -> None:
    async with gateway("sqlite", tmp_path) as client:
        bad = await client.chat("red", temperature=7)
        found = (await client.explain("red", bad.headers["x-request-id"])).json()
        assert found["status"] == 400
        assert found["finish"] == "invalid_parameter"
        assert "temperature" in found["answer"]["error"]
        stranger = await client.chat("nobody")
        assert stranger.status_code == 401
        missing = await client.explain("admin", stranger.headers["x-request-id"])
        assert missing.status_code == 404


async def test_content_that_is_not_sampled_is_said_to_be_so(tmp_path: Path) -> None:
    async with gateway("sqlite", tmp_path, content_rate=0) as client:
        id = (await client.chat("red")).headers["x-request-id"]
        found = (await client.explain("red", id)).json()
        assert found["content"].startswith("not sampled")
        assert found["prompt"] is None
        assert found["answer"] is None


@pytest.mark.parametrize("stream", [False, True])
async def test_parameters_at_once(stream: bool, tmp_path: Path) -> None:
    async with gateway("sqlite", tmp_path) as client:
        asked = {"x-headrace-explain": "1"}
        answer = await client.chat("red", stream=stream, max_tokens=7, headers=asked)
        found = json.loads(answer.headers["x-headrace-parameters"])
        assert found["max_tokens"] == {"value": 7, "origin": "request"}
        assert found["n"] == {"value": 1, "origin": "default"}
        plain = await client.chat("red", stream=stream)
        assert "x-headrace-parameters" not in plain.headers
        long = await client.chat("red", stream=stream, stop=["s" * 1000] * 8, headers=asked)
        id = long.headers["x-request-id"]
        see = json.loads(long.headers["x-headrace-parameters"])
        assert see == {"see": f"/v1/requests/{id}/explain"}
        wrong = await client.chat("red", headers={"x-headrace-explain": "yes"})
        assert wrong.status_code == 400
        assert "x-headrace-explain" in wrong.json()["error"]["message"]
