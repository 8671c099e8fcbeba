"""The official SDKs, plain, asynchronous and streamed, against a real service with keys.

One `headrace serve` of the bundled model, one admin key as its first start prints it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from service import call, running

HI: list[Any] = [{"role": "user", "content": "What does os.path.join do?"}]


@dataclass(frozen=True)
class Ready:
    url: str
    key: str


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    with running(tmp_path_factory.mktemp("clients"), auth=True) as service:
        service.wait_logged("Ctrl-C stops it")
        found = re.search(r"hr-[\w-]{20,}", service.log.read_text())
        assert found
        yield Ready(service.url, found.group())


def test_openai(ready: Ready) -> None:
    with openai.OpenAI(base_url=f"{ready.url}/v1", api_key=ready.key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["sprout"]
        asked: dict[str, Any] = {"model": "sprout", "temperature": 0, "max_tokens": 12}
        whole = client.chat.completions.create(messages=HI, **asked)
        chunks = client.chat.completions.create(
            messages=HI, stream=True, stream_options={"include_usage": True}, **asked
        )
        parts = list(chunks)
        text = "".join(c.choices[0].delta.content or "" for c in parts if c.choices)
        assert text == whole.choices[0].message.content
        assert parts[-1].usage == whole.usage
        raw = client.completions.create(prompt="import os", **asked)
        assert raw.usage
        assert raw.usage.completion_tokens <= 12


async def test_openai_responses_are_continued(ready: Ready) -> None:
    # Room enough that it ends: the client's helper waits for `completed` and knows no `incomplete`.
    asked: dict[str, Any] = {"model": "sprout", "temperature": 0, "max_output_tokens": 200}
    async with openai.AsyncOpenAI(
        base_url=f"{ready.url}/v1", api_key=ready.key, max_retries=0
    ) as client:
        first = await client.responses.create(input="What is a list?", **asked)
        assert first.usage
        async with client.responses.stream(
            input="And a dict?", previous_response_id=first.id, **asked
        ) as stream:
            second = await stream.get_final_response()
        assert second.usage
        assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
        assert second.usage.input_tokens_details.cached_tokens >= 0
        again = await client.responses.retrieve(second.id)
        assert again.output_text == second.output_text
        assert again.previous_response_id == first.id
        items = [item async for item in client.responses.input_items.list(second.id)]
        assert [item.type for item in items] == ["message"]
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)


def test_anthropic(ready: Ready) -> None:
    asked: dict[str, Any] = {"model": "sprout", "messages": HI}
    greedy: dict[str, Any] = {"extra_body": {"temperature": 0}}  # newer SDKs know it no more
    with anthropic.Anthropic(base_url=ready.url, api_key=ready.key, max_retries=0) as client:
        counted = client.messages.count_tokens(**asked).input_tokens
        whole = client.messages.create(max_tokens=12, **greedy, **asked)
        with client.messages.stream(max_tokens=12, **greedy, **asked) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
    used = whole.usage
    assert counted == used.input_tokens + (used.cache_read_input_tokens or 0)
    [block] = whole.content
    assert block.type == "text"
    assert text == block.text
    assert final.usage.output_tokens == used.output_tokens
    with (
        anthropic.Anthropic(base_url=ready.url, api_key="hr-wrong", max_retries=0) as wrong,
        pytest.raises(anthropic.AuthenticationError),
    ):
        wrong.messages.create(max_tokens=1, **asked)


async def test_anthropic_asynchronous(ready: Ready) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=ready.url, auth_token=ready.key, api_key=None, max_retries=0
    ) as client:
        whole = await client.messages.create(
            model="sprout", messages=HI, max_tokens=8, extra_body={"temperature": 0}
        )
        kinds: list[str] = []
        async for event in await client.messages.create(
            model="sprout", messages=HI, max_tokens=8, extra_body={"temperature": 0}, stream=True
        ):
            kinds.append(event.type)
    assert whole.usage.output_tokens <= 8
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_what_was_asked_is_booked(ready: Ready) -> None:
    headers = {"authorization": f"Bearer {ready.key}"}
    status, text = call(f"{ready.url}/v1/admin/ledger/verify", headers=headers)
    assert status == 200, text
