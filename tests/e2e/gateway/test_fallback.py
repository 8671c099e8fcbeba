"""Whatever the primary does, each client sees one coherent answer or one clear error.

Every failure of a provider against every official client, streamed and plain, through a gateway on
a real socket; then the breaker's schedule, on a clock of its own.
"""

import json
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import anthropic
import httpx
import openai
import pytest

from gateway_server import Gateway, serving
from headrace.config import load
from headrace.gateway.services import Served, Services
from headrace.providers.assemble import open_routes
from headrace.providers.openai_compatible import OpenAICompatible
from headrace.providers.resilience import Breaker, BreakerPolicy, Fallback, Named
from headrace.testing import ScriptedBackend, reply
from headrace.types import ModelCard
from upstreams import ANTHROPIC_ANSWER, OPENAI_ANSWER, Asked, FakeUpstream, Say, upstream

QUESTION: list[Any] = [{"role": "user", "content": "hi"}]
ERROR = json.dumps({"error": {"message": "no good"}}).encode()
TEXT, ARGUMENTS = "żółw 🐢", {"a": 1}
WORDS = OPENAI_ANSWER[: OPENAI_ANSWER.index(b"tool_calls")].rpartition(b"\n\n")[0] + b"\n\n"
"""The text, whole frames, and no end."""

BEFORE = {
    "http-500": Say(ERROR, status=500, kind="application/json"),
    "http-503-html": Say(b"<html>busy</html>", status=503, kind="text/html"),
    "http-429": Say(ERROR, status=429, kind="application/json", headers=(("Retry-After", "1"),)),
    "http-401": Say(ERROR, status=401, kind="application/json"),
    "hangs": Say(OPENAI_ANSWER, hang_s=30),
    "head-then-nothing": Say(b"", stall_s=30),
    "empty": Say(b""),
    "no-json": Say(b"data: {nonsense\n\n"),
    "cut-before-a-word": Say(OPENAI_ANSWER[:150], cut=True),
}
MIDDLE = {
    "cut": Say(WORDS, cut=True),
    "ends-early": Say(WORDS),
    "falls-silent": Say(WORDS, stall_s=30),
    "garbage": Say(WORDS + b"data: {nonsense\n\n"),
    "error-frame": Say(WORDS + b'data: {"error": {"message": "no good", "code": 500}}\n\n'),
}
TOGETHER = {
    "bad-utf8": Say(WORDS + b'data: {"choices": "\xff\xfe"}\n\n'),
}
"""What may come in one piece with good words: then no client has seen those yet."""
ALL = BEFORE | MIDDLE | TOGETHER
WAITED_FOR = {
    "hangs": "-impatient",
    "head-then-nothing": "-impatient",
    "falls-silent": "-listening",
}


class Heard(NamedTuple):
    """What a client made of an answer."""

    text: str
    arguments: Any
    ended: str


@dataclass
class Talk:
    """What had been heard when an error came."""

    text: str = ""
    arguments: dict[Any, str] = field(default_factory=dict[Any, str])


_REQUEST: Any = httpx.Request("POST", "http://127.0.0.1")


@cache
def openais(url: str) -> openai.OpenAI:
    """One for all: making one reads every certificate of the system."""
    return openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0)


@cache
def anthropics(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="x", max_retries=0)


def chat_stream(url: str, model: str, talk: Talk) -> Heard:
    ended = ""
    completions = openais(url).chat.completions
    for chunk in completions.create(model=model, messages=QUESTION, stream=True):
        for choice in chunk.choices:
            talk.text += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                so_far = talk.arguments.get(call.index, "")
                talk.arguments[call.index] = so_far + (call.function.arguments or "")
            ended += choice.finish_reason or ""
    [arguments] = talk.arguments.values()
    return Heard(talk.text, json.loads(arguments), ended)


def chat_plain(url: str, model: str, talk: Talk) -> Heard:
    [choice] = openais(url).chat.completions.create(model=model, messages=QUESTION).choices
    [call] = list(choice.message.tool_calls or ())
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    return Heard(choice.message.content or "", arguments, choice.finish_reason)


def _response(answer: Any) -> Heard:
    [call] = [item for item in answer.output if item.type == "function_call"]
    ended = "tool_calls" if answer.status == "completed" else answer.status
    return Heard(answer.output_text, json.loads(call.arguments), ended)


def responses_stream(url: str, model: str, talk: Talk) -> Heard:
    for event in openais(url).responses.create(model=model, input="hi", stream=True):
        if event.type == "response.output_text.delta":
            talk.text += event.delta
        if event.type == "response.completed":
            return _response(event.response)
        assert event.type != "response.incomplete"
        if event.type in ("error", "response.failed"):  # the SDK hands it over as an event
            raise openai.APIError(str(event), _REQUEST, body=None)
    raise AssertionError("the stream has no end")


def responses_plain(url: str, model: str, talk: Talk) -> Heard:
    return _response(openais(url).responses.create(model=model, input="hi"))


def _message(message: Any) -> Heard:
    text = "".join(block.text for block in message.content if block.type == "text")
    [call] = [block for block in message.content if block.type == "tool_use"]
    ended = "tool_calls" if message.stop_reason == "tool_use" else message.stop_reason
    return Heard(text, call.input, ended)


def messages_stream(url: str, model: str, talk: Talk) -> Heard:
    create = anthropics(url).messages.stream
    with create(model=model, max_tokens=99, messages=QUESTION) as stream:
        for text in stream.text_stream:
            talk.text += text
        return _message(stream.get_final_message())


def messages_plain(url: str, model: str, talk: Talk) -> Heard:
    create = anthropics(url).messages.create
    return _message(create(model=model, max_tokens=99, messages=QUESTION))


Client = Callable[[str, str, Talk], Heard]
STREAMED: list[Client] = [chat_stream, responses_stream, messages_stream]
PLAIN: list[Client] = [chat_plain, responses_plain, messages_plain]
FAILURES = (openai.APIError, anthropic.APIError)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Gateway, FakeUpstream]]:
    """Route FAILURE with a second provider behind it, and `alone-FAILURE` without."""

    def fail(asked: Asked) -> Say:
        return ALL[asked.json["model"]]

    directory = tmp_path_factory.mktemp("fallback")
    (directory / "key").write_text("secret")
    with upstream(fail) as primary, upstream(Say(ANTHROPIC_ANSWER)) as second:
        provider = f"""
        kind = "openai"
        url = "{primary.url}"
        key = "file:{directory / "key"}"
        attempts = 1
        breaker_failures = 0
        """
        text = f"""
        [providers.one]
        {provider}
        [providers.one-impatient]
        {provider}
        first_byte_timeout_s = 0.4
        [providers.one-listening]
        {provider}
        idle_timeout_s = 0.4
        [providers.two]
        kind = "anthropic"
        url = "{second.url}"
        key = "file:{directory / "key"}"
        [routes.claude]
        provider = "two"
        """
        for name in ALL:
            asked = f"one{WAITED_FOR.get(name, '')}"
            text += f"""
            [routes.{name}]
            provider = "{asked}"
            fallback = ["claude"]
            [routes.alone-{name}]
            provider = "{asked}"
            model = "{name}"
            """
        file = directory / "headrace.toml"
        file.write_text(text)
        stack = AsyncExitStack()
        routes = open_routes(load(file=file), {"m": ScriptedBackend(reply)}, stack)
        models = {name: Served(card=route.card, chat=route.chat) for name, route in routes.items()}
        with serving(base=Services(models=models), stack=stack) as running:
            yield running, second


class Outcome(NamedTuple):
    """What became of one question."""

    heard: Heard | None
    error: Any
    talk: Talk


def ask_all(client: Client, url: str, models: Iterable[str]) -> dict[str, Outcome]:
    """All at once: some of them are about waiting."""

    def ask(model: str) -> Outcome:
        talk = Talk()
        try:
            return Outcome(client(url, model, talk), None, talk)
        except FAILURES as error:
            return Outcome(None, error, talk)

    names = [*models]
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(ask, names), strict=True))


GOOD = Heard(TEXT, ARGUMENTS, "tool_calls")


@pytest.mark.parametrize("client", [*STREAMED, *PLAIN])
def test_a_failure_before_the_first_word_is_not_seen(
    client: Client, house: tuple[Gateway, FakeUpstream]
) -> None:
    for failure, outcome in ask_all(client, house[0].url, BEFORE).items():
        assert outcome.heard == GOOD, (failure, outcome)


@pytest.mark.parametrize("client", [*STREAMED, *PLAIN])
def test_without_a_second_it_is_one_clear_error(
    client: Client, house: tuple[Gateway, FakeUpstream]
) -> None:
    statuses = {"http-503-html": 503, "http-429": 429, "hangs": 504, "head-then-nothing": 504}
    outcomes = ask_all(client, house[0].url, [f"alone-{failure}" for failure in BEFORE])
    for (_, heard, error, talk), failure in zip(
        ((name, *outcome) for name, outcome in outcomes.items()), BEFORE, strict=True
    ):
        assert heard is None
        assert talk == Talk(), "words before an error that came before the first word"
        assert "provider one" in str(error), failure
        assert "Traceback" not in str(error)
        status = getattr(error, "status_code", 200)
        if client in STREAMED and failure == "cut-before-a-word":
            assert status == 200  # a provider that has begun is a stream that has begun
        else:
            assert status == statuses.get(failure, 502), failure


@pytest.mark.parametrize("client", STREAMED)
def test_a_stream_that_breaks_is_what_was_said_and_one_error(
    client: Client, house: tuple[Gateway, FakeUpstream]
) -> None:
    running, second = house
    before = len(second.asked)
    for failure, outcome in ask_all(client, running.url, MIDDLE).items():
        assert "provider one" in str(outcome.error), (failure, outcome)
        assert outcome.talk.text == TEXT, failure
        assert not outcome.talk.arguments
    assert len(second.asked) == before, "another's words would have followed the first one's"


@pytest.mark.parametrize("client", [*PLAIN, *STREAMED])
def test_an_answer_is_whole_or_an_error(
    client: Client, house: tuple[Gateway, FakeUpstream]
) -> None:
    asked = MIDDLE | TOGETHER if client in PLAIN else TOGETHER
    for failure, outcome in ask_all(client, house[0].url, asked).items():
        if outcome.error is None:
            assert outcome.heard == GOOD, failure
            continue
        assert "provider one" in str(outcome.error)
        if client in PLAIN:
            assert outcome.error.status_code in (502, 504), failure


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_breaker_opens_and_closes_on_schedule() -> None:
    """Three failures open it for 10 s; a failed trial for 20; a good one closes it."""
    well = [False]
    clock, stack = Clock(), AsyncExitStack()

    def say(_: Asked) -> Say:
        return Say(OPENAI_ANSWER) if well[0] else BEFORE["http-500"]

    with upstream(say) as primary:
        provider = OpenAICompatible(url=primary.url, model="x")
        stack.push_async_callback(provider.close)
        breaker = Breaker(
            "provider one",
            Named("one", provider),
            BreakerPolicy(failures=3, open_s=10.0),
            clock=clock,
        )
        second = ScriptedBackend(reply)
        models = {
            name: Served(card=ModelCard(name=name, context_tokens=0, created_s=1), chat=chat)
            for name, chat in {"r": Fallback([breaker, second]), "alone": breaker}.items()
        }
        with serving(base=Services(models=models), stack=stack) as running:
            client = openai.OpenAI(base_url=running.url + "/v1", api_key="x", max_retries=0)

            def asked() -> int:
                """Times that the primary was asked for one more answer, which there always is."""
                before = len(primary.asked)
                answer = client.chat.completions.create(model="r", messages=QUESTION)
                said = answer.choices[0].message.content
                assert said == (TEXT if well[0] and len(primary.asked) > before else "Hello, world")
                return len(primary.asked) - before

            with client:
                assert [asked() for _ in range(5)] == [1, 1, 1, 0, 0]
                assert breaker.state == "open"
                with pytest.raises(openai.InternalServerError, match="not asked for now") as caught:
                    client.chat.completions.create(model="alone", messages=QUESTION)
                assert caught.value.status_code == 503
                assert 0 < int(caught.value.response.headers["retry-after"]) <= 11
                clock.now_s += 9.9
                assert asked() == 0
                clock.now_s += 0.1
                assert breaker.state == "half-open"
                assert [asked() for _ in range(3)] == [1, 0, 0]  # the trial fails
                clock.now_s += 19.9
                assert asked() == 0
                clock.now_s += 0.1
                well[0] = True
                assert [asked() for _ in range(3)] == [1, 1, 1]
                assert breaker.state == "closed"
                well[0] = False  # closed again: three more open it, for the first time again
                assert [asked() for _ in range(4)] == [1, 1, 1, 0]
                clock.now_s += 10.0
                assert asked() == 1
