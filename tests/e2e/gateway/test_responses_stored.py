"""Stored responses with the official client, on both databases: continued, listed, deleted."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from databases import KINDS, fresh_url
from gateway_server import Gateway, serving
from headrace.errors import StoreUnavailable, UpstreamError
from headrace.gateway.asgi import Services
from headrace.testing import Step
from headrace.types import (
    ChatRequest,
    Finished,
    FinishReason,
    ReasoningPart,
    Started,
    TextDelta,
    Usage,
)
from responses_gateway import TeamKeys, keeping, sqlite

FUNCTION: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture(scope="module", params=KINDS)
def gateway(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with asyncio.Runner() as runner:  # one loop, or it would close the generator at its end
        opened = fresh_url(request.param, tmp_path_factory.mktemp("store"))
        with keeping(runner.run(opened.__aenter__())) as running:
            yield running
        runner.run(opened.__aexit__(None, None, None))


def sdk(gateway: Gateway, team: str = "red") -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=team, max_retries=0)


def test_a_conversation_by_previous_response_id(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        first = client.responses.create(model="m", input="papaya", instructions="be brief")
        with client.responses.stream(
            model="m", input="and?", previous_response_id=first.id
        ) as stream:
            second = stream.get_final_response()
        third = client.responses.create(model="m", input="go on", previous_response_id=second.id)
        assert first.output_text == "developer: be brief\nuser: papaya\n"
        assert third.previous_response_id == second.id
        said = third.output_text
        # in order, and of earlier turns' instructions only what the model said of them
        assert said.startswith("user: papaya\nassistant: hm\nassistant: developer: be brief\n")
        assert said.index("user: and?") < said.index("user: go on")
        parsed = second.to_dict()
        for item in parsed["output"]:  # pyright: ignore[reportGeneralTypeIssues]
            for part in item.get("content", []):
                part.pop("parsed", None)  # the client's own
        assert client.responses.retrieve(second.id).to_dict() == parsed
        assert client.responses.retrieve(third.id).output_text == said


def test_calls_and_signed_thoughts_come_back(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        first = client.responses.create(model="m", input="weather?", tools=[FUNCTION])
        [call] = first.output
        assert call.type == "function_call"
        second = client.responses.create(
            model="m",
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "64 F"}],
        )
        assert "tool: 64 F" in second.output_text
        client.responses.create(model="m", previous_response_id=second.id, input="thanks")
        request = gateway.backend.requests[-1]
        assert isinstance(request, ChatRequest)
        parts = [part for message in request.messages for part in message.parts]
        assert [p.signature for p in parts if isinstance(p, ReasoningPart)] == ["sig-3"]
        # its client never asked to see it, and sees it when it asks
        assert "encrypted_content" not in second.output[0].to_dict()
        shown = client.responses.retrieve(second.id, include=["reasoning.encrypted_content"])
        assert shown.output[0].to_dict()["encrypted_content"] == "sig-3"
        # an output without its call is refused, and named
        with pytest.raises(openai.BadRequestError, match=r"input\[0\].call_id"):
            client.responses.create(
                model="m",
                previous_response_id=second.id,
                input=[{"type": "function_call_output", "call_id": "other", "output": ""}],
            )


def test_items_by_reference(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        first = client.responses.create(model="m", input="papaya")
        message = first.output[-1]
        reference = {"type": "item_reference", "id": message.id}
        asked: Any = [reference, {"role": "user", "content": "?"}]
        answer = client.responses.create(model="m", input=asked)
        assert answer.output_text == "assistant: user: papaya\n\nuser: ?\n"
        listed = list(client.responses.input_items.list(answer.id, order="asc"))
        assert [item.to_dict()["role"] for item in listed] == ["assistant", "user"]
        for team in ("blue", "red"):
            reference["id"] = message.id if team == "blue" else "msg_00_0"
            with (
                sdk(gateway, team) as other,
                pytest.raises(openai.NotFoundError, match=r"input\[0\].id"),
            ):
                other.responses.create(model="m", input=asked)


def test_input_items_in_pages(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        items: Any = [{"role": "user", "content": f"line {n}"} for n in range(25)]
        answer = client.responses.create(model="m", input=items)

        def texts(**how: Any) -> list[str]:
            found = client.responses.input_items.list(answer.id, **how)
            return [item.to_dict()["content"][0]["text"] for item in found]  # pyright: ignore[reportIndexIssue]

        down = [f"line {n}" for n in range(24, -1, -1)]
        assert texts() == down  # the client asks for page after page
        assert texts(order="asc", limit=7) == down[::-1]
        page = client.responses.input_items.list(answer.id, order="asc", limit=2)
        assert page.has_more
        ids = [item.to_dict()["id"] for item in page.data]
        assert texts(order="asc", after=str(ids[1]))[0] == "line 2"
        with pytest.raises(openai.NotFoundError, match="after"):
            client.responses.input_items.list(answer.id, after="msg_0")
        for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}):
            with pytest.raises(openai.BadRequestError, match=next(iter(wrong))):
                client.responses.input_items.list(answer.id, **wrong)  # pyright: ignore[reportArgumentType]
        for query in ({"before": "x"}, {"include[]": "web_search_call.results"}):
            with pytest.raises(openai.BadRequestError):
                client.responses.input_items.list(answer.id, extra_query=query)


def test_deleted_is_gone_and_another_team_sees_nothing(gateway: Gateway) -> None:
    with sdk(gateway) as client, sdk(gateway, "blue") as other:
        first = client.responses.create(model="m", input="mine")
        second = client.responses.create(model="m", input="more", previous_response_id=first.id)

        def calls(at: openai.OpenAI, id: str) -> list[str]:
            seen: list[str] = []
            for call in (
                lambda: at.responses.retrieve(id),
                lambda: at.responses.delete(id),
                lambda: at.responses.input_items.list(id),
                lambda: at.responses.create(model="m", input="x", previous_response_id=id),
            ):
                with pytest.raises(openai.NotFoundError) as caught:
                    call()
                seen.append(str(caught.value.message).replace(id, "ID"))
            return seen

        assert calls(other, first.id) == calls(client, "resp_never")
        client.responses.delete(first.id)
        assert calls(client, first.id) == calls(client, "resp_never")
        assert client.responses.retrieve(second.id).output_text == second.output_text
        with pytest.raises(openai.NotFoundError, match="was deleted or has expired"):
            client.responses.create(model="m", input="x", previous_response_id=second.id)


def test_store_false_is_not_stored(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        kept = client.responses.create(model="m", input="hi")
        answer = client.responses.create(
            model="m", input="hi", store=False, previous_response_id=kept.id
        )
        assert (kept.to_dict()["store"], answer.to_dict()["store"]) == (True, False)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(answer.id)
        for how in ({"stream": True}, {"starting_after": 3}):
            with pytest.raises(openai.BadRequestError, match="events are not kept"):
                client.responses.retrieve(kept.id, extra_query=how)


def test_a_failed_stream_is_stored_as_failed(tmp_path: Path) -> None:
    script: list[Step] = [
        Started(id="x", model="m", created_s=1, prompt_tokens=3),
        TextDelta(text="Hel"),
        UpstreamError("it broke"),
    ]
    with keeping(sqlite(tmp_path)) as gateway, sdk(gateway) as client:
        gateway.backend._script = script
        events: list[Any] = list(client.responses.create(model="m", input="hi", stream=True))
        failed = events[-1].response
        assert failed.status == "failed"
        again = client.responses.retrieve(failed.id)
        assert again == failed
        assert again.output[0].to_dict()["status"] == "incomplete"


class Broken:
    """A store that cannot be reached when it matters."""

    async def keep(self, *_: Any, **__: Any) -> None:
        raise StoreUnavailable("no database")


def test_an_answer_that_cannot_be_stored_says_so() -> None:
    script: list[Step] = [
        Started(id="x", model="m", created_s=1, prompt_tokens=3),
        TextDelta(text="Hi"),
        Finished(reason=FinishReason.STOP, usage=Usage(prompt_tokens=3, completion_tokens=1)),
    ]
    base = Services(models={}, keys=TeamKeys(), responses=Broken())  # pyright: ignore[reportArgumentType]
    with serving(script, base=base) as gateway, sdk(gateway) as client:
        whole = client.responses.create(model="m", input="hi")
        with client.responses.stream(model="m", input="hi") as stream:
            streamed = stream.get_final_response()
    for answer in (whole, streamed):
        assert answer.output_text == "Hi"
        assert answer.to_dict()["store"] is False
