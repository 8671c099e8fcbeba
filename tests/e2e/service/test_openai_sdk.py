"""The official `openai` client against the real service: gateway, worker process and sprout."""

import time
from collections.abc import Iterator

import openai
import pytest

from service import Service, running

MESSAGES: list = [{"role": "user", "content": "What does os.path.join do?"}]
TOOLS: list = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service")) as ready:
        yield ready


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=service.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="sprout", messages=MESSAGES, max_tokens=24, temperature=0
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_second_ask_is_served_from_the_prefix_cache(client: openai.OpenAI) -> None:
    messages: list = [{"role": "user", "content": "cache me " * 40}]
    client.chat.completions.create(model="sprout", messages=messages, max_tokens=1)
    answer = client.chat.completions.create(model="sprout", messages=messages, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    cached = answer.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert answer.usage.prompt_tokens - 32 <= cached < answer.usage.prompt_tokens


def test_stream_equals_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="sprout", messages=MESSAGES, max_tokens=32, temperature=0
    )
    text, usage, finish = "", None, None
    for chunk in client.chat.completions.create(
        model="sprout",
        messages=MESSAGES,
        max_tokens=32,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_n_choices_with_a_seed_repeat(client: openai.OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = client.chat.completions.create(
            model="sprout", messages=MESSAGES, max_tokens=12, n=3, seed=7, temperature=1.2
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert first == ask()
    assert len(set(first)) > 1


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="sprout",
        messages=MESSAGES,
        max_tokens=5,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert answer.usage is not None
    assert len(logprobs.content) == answer.usage.completion_tokens
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)  # greedy


def test_stop_string_ends_and_is_cut(client: openai.OpenAI) -> None:
    plain = client.completions.create(
        model="sprout", prompt="import ", max_tokens=40, temperature=0
    )
    text = plain.choices[0].text
    stop = text[8:11]
    cut = client.completions.create(
        model="sprout", prompt="import ", max_tokens=40, temperature=0, stop=[stop]
    )
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_tools_reach_the_template(client: openai.OpenAI) -> None:
    def prompt_tokens(tools: list) -> int:
        answer = client.chat.completions.create(
            model="sprout", messages=MESSAGES, max_tokens=1, tools=tools or openai.omit
        )
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    assert prompt_tokens(TOOLS) > prompt_tokens([])


def test_tool_history_is_accepted(client: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history: list = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    answer = client.chat.completions.create(
        model="sprout", messages=history, tools=TOOLS, max_tokens=4
    )
    assert answer.choices[0].message is not None


def test_completion_with_echo_and_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="sprout", prompt="def main():", echo=True, max_tokens=3, temperature=0, logprobs=1
    )
    assert answer.choices[0].text.startswith("def main():")
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert answer.usage is not None
    assert len(logprobs.token_logprobs) == answer.usage.total_tokens


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["sprout"]
    assert client.models.retrieve("sprout").id == "sprout"


def test_errors_are_the_sdks_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="sprout"):
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="sprout", messages=MESSAGES, temperature=-1)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="sprout", messages=[{"role": "user", "content": "word " * 9000}]
        )
    assert caught.value.code == "context_length_exceeded"


def test_disconnect_frees_the_sequence(service: Service, client: openai.OpenAI) -> None:
    before = service.gauge("headrace_engine_running")
    stream = client.completions.create(
        model="sprout",
        prompt="x = ",
        max_tokens=900,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 5
    while service.gauge("headrace_engine_running") > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert service.gauge("headrace_engine_running") == before
