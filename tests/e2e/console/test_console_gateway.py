"""The page before the real gateway and a scripted backend: both ends speak the same wire."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence

import pytest
from playwright.sync_api import Browser, expect

from chromium import launched, opened, say, served
from headrace.cli import connect
from headrace.console import pages
from headrace.errors import Overloaded
from headrace.gateway.asgi import ASGIApp, Served, Services, build
from headrace.testing.scripted import Request, ScriptedBackend, Step, reply
from headrace.tokens import Rendered
from headrace.types import ChatRequest, ModelCard


class NoCodec:
    """The page asks for no token counts."""

    def tokenize(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        raise AssertionError(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        raise AssertionError(ids)

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        raise AssertionError(ids)

    def render(self, request: ChatRequest) -> Rendered:
        raise AssertionError(request)


def script(request: Request) -> Iterable[Step]:
    assert isinstance(request, ChatRequest)
    said = request.messages[-1].text
    if said == "full":
        raise Overloaded("the queue is full: 1024 requests wait; try again in 3 s", retry_after_s=3)
    if said == "forever":
        return reply(request, ["word "] * 3000, pause_s=0.01)
    return reply(request, ["Hello", " <b>", "Wörld", "\n", "🌊"], pause_s=0.005)


def service(backend: ScriptedBackend) -> ASGIApp:
    card = ModelCard(name="scripted", context_tokens=4096, created_s=1)
    one = Served(card=card, chat=backend, completions=backend, codec=NoCodec())
    page = pages.build(lambda: pages.PageInfo(models=("scripted",), auth=False, version="0"))
    return build(Services(models={"scripted": one}, extra={"/": page, "/static/": page}))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as made:
        yield made


def test_answer_with_probabilities_and_an_error(browser: Browser) -> None:
    backend = ScriptedBackend(script)
    with opened(browser, service(backend)) as page:
        page.get_by_text("Token probabilities").click()
        say(page, "hello")
        expect(page.locator(".facts")).to_have_text(
            re.compile(r"TTFT \d+ ms · [\d.]+ tok/s · 7 prompt \(2 cached\) · 5 completion$")
        )
        expect(page.locator(".token")).to_have_text(["Hello", " <b>", "Wörld", "⏎\n", "🌊"])
        page.locator(".token").nth(1).hover()
        rivals = page.get_by_role("tooltip")
        expect(rivals.locator(".chosen")).to_contain_text("60.7 %")
        expect(rivals).to_contain_text("alt1")
        say(page, "full")
        expect(page.get_by_role("alert")).to_have_text(re.compile("the queue is full: 1024"))
    request = backend.requests[0]
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.7, 512)
    assert request.sampling.logprobs == 5


def test_stop_frees_the_backend(browser: Browser) -> None:
    backend = ScriptedBackend(script)
    with opened(browser, service(backend)) as page:
        page.get_by_label("Most tokens in an answer").fill("")
        say(page, "forever")
        expect(page.locator(".assistant .body")).to_contain_text("word word word")
        page.get_by_role("button", name="Stop").click()
        deadline_s = time.monotonic() + 5
        while backend.running and time.monotonic() < deadline_s:
            page.wait_for_timeout(20)
        assert (backend.running, len(backend.cancelled)) == (0, 1)
        expect(page.locator(".facts")).to_contain_text("stopped by you")


def test_the_command_line_finds_this_service() -> None:
    with served(service(ScriptedBackend(script))) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        assert connect.answers(host, int(port))
