"""The page in a real Chromium: streams, stops, shows probabilities and errors, runs no markup.

The API behind it is a small scripted one that speaks the wire format by hand, so that the page is
held to the protocol and not to our own encoder.
"""

import asyncio
import json
import math
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from chromium import keep, launched, opened, say
from headrace.console.pages import PageInfo, build

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

INJECTION = (
    '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>'
    " [x](javascript:alert(1)) &lt;b&gt; <b>bold</b>"
)
KEY = "sk-right"


class ScriptedApi:
    """Answers by the last user message; keeps what it was sent and when clients left."""

    def __init__(self, *, auth: bool = False) -> None:
        self.auth = auth
        self.bodies: list[dict[str, Any]] = []
        self.sent_pieces = 0
        self.left = threading.Event()
        self.go_on = threading.Event()
        info = PageInfo(models=("sprout", "other"), auth=auth, version="0.1.0")
        self.pages = build(lambda: info)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/chat/completions":
            await self.chat(scope, receive, send)
        else:
            await self.pages(scope, receive, send)

    async def chat(self, scope: Any, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = json.loads(body)
        self.bodies.append(request)
        if self.auth and dict(scope["headers"]).get(b"authorization") != f"Bearer {KEY}".encode():
            return await refuse(send, 401, "incorrect API key; give one of this service's keys")
        said = request["messages"][-1]["content"]
        if said == "refuse":
            return await refuse(send, 400, "`temperature` 9 is over its limit of 2; lower it")
        if said == "gateway":
            await start(send, 502, "text/html")
            return await send({"type": "http.response.body", "body": b"<h1>bad</h1>"})
        await start(send, 200, "text/event-stream")
        await self.stream(said, request, receive, send)
        return None

    async def stream(self, said: str, request: Any, receive: Receive, send: Send) -> None:
        async def chunk(delta: Any, logprobs: Any = None, finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            await event(send, {"choices": [choice]})

        await chunk({"role": "assistant", "content": ""})
        if said == "forever":
            return await self.forever(chunk, receive)
        text = INJECTION if said == "inject" else f"You said: {said}. Grüße, 🌊\nand more."
        pieces = re.findall(r"\s?\S+|\s", text)
        for number, piece in enumerate(pieces):
            if said == "slow" and number == 3:
                await asyncio.to_thread(self.go_on.wait, 20)
            if said == "break" and number == 3:
                error = {"message": "the engine's process ended; try again", "code": "worker_died"}
                await event(send, {"error": error})
                return await send({"type": "http.response.body", "body": b""})
            await chunk({"content": piece}, logprobs_of(piece) if request.get("logprobs") else None)
            await asyncio.sleep(0.004)
        await chunk({}, finish="length" if said == "long" else "stop")
        details = {"prompt_tokens_details": {"cached_tokens": 16}}
        counts = {"prompt_tokens": 24, "completion_tokens": len(pieces)}
        await event(send, {"choices": [], "usage": counts | details})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        return None

    async def forever(self, chunk: Any, receive: Receive) -> None:
        gone = asyncio.ensure_future(receive())
        for number in range(4000):
            await chunk({"content": f"word{number} "})
            self.sent_pieces = number + 1
            done, _ = await asyncio.wait([gone], timeout=0.01)
            if done and gone.result()["type"] == "http.disconnect":
                self.left.set()
                return
        gone.cancel()


def logprobs_of(piece: str) -> Any:
    def entry(token: str, share: float) -> dict[str, Any]:
        return {"token": token, "logprob": math.log(share), "bytes": list(token.encode())}

    share = 0.9 if "said" in piece else 0.3
    rivals = [entry("<i>rival</i>", 0.4), entry(piece, share), entry("\n", 0.0001)]
    rivals.sort(key=lambda item: -item["logprob"])
    return {"content": [{**entry(piece, share), "top_logprobs": rivals}]}


async def start(send: Send, status: int, media_type: str) -> None:
    headers = [(b"content-type", media_type.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def refuse(send: Send, status: int, message: str) -> None:
    await start(send, status, "application/json")
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "x"}
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})


async def event(send: Send, data: Any) -> None:
    body = b"data: " + json.dumps(data).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as made:
        yield made


def test_answer_streams_and_is_measured(browser: Browser) -> None:
    api = ScriptedApi()
    with opened(browser, api) as page:
        say(page, "slow")
        answer = page.locator(".assistant .body").last
        expect(answer).to_contain_text("You said: slow")
        expect(answer).not_to_contain_text("and more")  # shown before it is whole
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        api.go_on.set()
        expect(answer).to_have_text("You said: slow. Grüße, 🌊\nand more.")
        facts = page.locator(".assistant .facts").last
        expect(facts).to_have_text(
            re.compile(r"TTFT \d+ ms · [\d.]+ tok/s · 24 prompt \(16 cached\) · \d+ completion$")
        )
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        expect(page.get_by_label("Message")).to_be_focused()
        body = api.bodies[0]
    assert body["stream_options"] == {"include_usage": True}
    assert body["messages"] == [{"role": "user", "content": "slow"}]
    assert "logprobs" not in body


def test_conversation_and_controls_reach_the_api(browser: Browser) -> None:
    api = ScriptedApi()
    with opened(browser, api) as page:
        page.get_by_label("System prompt").fill("Be brief.")
        page.get_by_label("Temperature").fill("0.25")
        page.get_by_label("Most tokens in an answer").fill("33")
        page.get_by_label("Model").select_option("other")
        say(page, "one")
        expect(page.locator(".facts")).to_have_count(1)
        page.get_by_label("Most tokens in an answer").fill("")
        say(page, "long")
        expect(page.locator(".facts")).to_have_count(2)
        expect(page.locator(".facts").last).to_contain_text("cut at the most tokens")
        page.get_by_role("button", name="New chat").click()
        expect(page.locator("article")).to_have_count(0)
        say(page, "two")
        expect(page.locator(".facts")).to_have_count(1)
    first, second, third = api.bodies
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("other", 0.25, 33)
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [turn["role"] for turn in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == "You said: one. Grüße, 🌊\nand more."
    assert "max_tokens" not in second
    assert [turn["role"] for turn in third["messages"]] == ["system", "user"]


@pytest.mark.parametrize("by", ["button", "escape"])
def test_stop_reaches_the_server(browser: Browser, by: str) -> None:
    api = ScriptedApi()
    with opened(browser, api) as page:
        say(page, "forever")
        answer = page.locator(".assistant .body")
        expect(answer).to_contain_text("word3")
        if by == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
        assert api.left.wait(5), "the server never saw the client leave"
        expect(page.locator(".facts")).to_contain_text("stopped by you")
        kept = answer.inner_text()
        say(page, "on")
        expect(page.locator(".facts")).to_have_count(2)
    assert api.sent_pieces < 2000
    assert api.bodies[1]["messages"][1]["content"].strip() == kept.strip()


def test_probabilities_on_demand(browser: Browser) -> None:
    api = ScriptedApi()
    with opened(browser, api) as page:
        page.get_by_text("Token probabilities").click()
        say(page, "hello")
        expect(page.locator(".facts")).to_have_count(1)
        tokens = page.locator(".token")
        expect(tokens).to_have_count(7)
        rivals = page.get_by_role("tooltip")
        expect(rivals).to_be_hidden()
        tokens.nth(2).hover()
        expect(rivals).to_be_visible()
        expect(rivals.locator(".rival")).to_have_count(3)
        expect(rivals).to_contain_text("<i>rival</i>")
        expect(rivals).to_contain_text("40.0 %")
        expect(rivals.locator(".chosen")).to_contain_text("30.0 %")
        sure, unsure = (
            tokens.nth(at).evaluate("span => getComputedStyle(span).backgroundColor")
            for at in (1, 2)
        )
        assert sure != unsure
        tokens.first.focus()
        page.keyboard.press("ArrowRight")
        expect(tokens.nth(1)).to_be_focused()
        expect(rivals.locator(".chosen")).to_contain_text("90.0 %")
        page.keyboard.press("Escape")
        expect(rivals).to_be_hidden()
        page.get_by_text("Token probabilities").click()
        expect(tokens.first).to_be_hidden()
        expect(page.locator(".assistant .plain")).to_have_text(
            "You said: hello. Grüße, 🌊\nand more."
        )
    assert (api.bodies[0]["logprobs"], api.bodies[0]["top_logprobs"]) == (True, 5)


@pytest.mark.parametrize("probabilities", [False, True])
def test_markup_from_the_model_is_inert(browser: Browser, probabilities: bool) -> None:
    with opened(browser, ScriptedApi()) as page:
        if probabilities:
            page.get_by_text("Token probabilities").click()
        say(page, "inject")
        expect(page.locator(".facts")).to_have_count(1)
        body = page.locator(".assistant .body")
        expect(body).to_contain_text("onerror=")
        assert body.locator("img, script, a, b, i").count() == 0
        if not probabilities:
            assert body.inner_text() == INJECTION
        assert page.evaluate("window.hacked") is None


def test_errors_are_the_apis_own_words(browser: Browser) -> None:
    with opened(browser, ScriptedApi()) as page:
        say(page, "refuse")
        alert = page.get_by_role("alert")
        expect(alert).to_have_text("`temperature` 9 is over its limit of 2; lower it")
        expect(page.get_by_label("Message")).to_have_value("refuse")  # to be mended and sent again
        say(page, "gateway")
        expect(alert.last).to_have_text("The service answered with HTTP 502.")
        say(page, "break")
        expect(alert.last).to_have_text("the engine's process ended; try again")
        expect(page.locator(".assistant .body").last).to_contain_text("You said: break.")
        say(page, "fine")
        expect(page.locator(".facts")).to_have_count(1)


def test_service_that_is_gone_is_said_so(browser: Browser) -> None:
    with opened(browser, ScriptedApi()) as page:
        page.route("**/v1/chat/completions", lambda route: route.abort())
        say(page, "hello")
        expect(page.get_by_role("alert")).to_contain_text("cannot be reached")


def test_key_is_asked_for_and_kept_for_the_tab_only(browser: Browser) -> None:
    api = ScriptedApi(auth=True)
    with opened(browser, api) as page:
        say(page, "hello")
        expect(page.get_by_label("API key")).to_be_focused()
        assert api.bodies == []
        page.get_by_label("API key").fill("sk-wrong")
        say(page, "hello")
        expect(page.get_by_role("alert")).to_contain_text("incorrect API key")
        page.get_by_label("API key").fill(KEY)
        say(page, "hello")
        expect(page.locator(".facts")).to_have_count(1)
        page.reload()
        expect(page.get_by_label("API key")).to_have_value(KEY)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_stream_parser_takes_any_cut(browser: Browser) -> None:
    script = """async () => {
      const { dataOf } = await import("/static/sse.js");
      const text = ": hi\\r\\ndata: one\\r\\n\\r\\ndata:two\\ndata: lines\\n\\nevent: x\\n"
        + "data: grüße 🌊\\r\\r" + "data: cut off";
      const bytes = new TextEncoder().encode(text);
      const seen = new Set();
      for (let size = 1; size <= bytes.length; size++) {
        const body = new ReadableStream({ start(control) {
          for (let at = 0; at < bytes.length; at += size) {
            control.enqueue(bytes.slice(at, at + size));
          }
          control.close();
        } });
        const found = [];
        for await (const data of dataOf(body)) found.push(data);
        seen.add(JSON.stringify(found));
      }
      return [...seen];
    }"""
    with opened(browser, ScriptedApi()) as page:
        assert [json.loads(found) for found in page.evaluate(script)] == [
            ["one", "two\nlines", "grüße 🌊"]
        ]


def test_phone_shows_everything_without_sideways_scrolling(browser: Browser) -> None:
    with opened(browser, ScriptedApi(), width=360, height=640, dark=True) as page:
        expect(page.get_by_label("System prompt")).to_be_hidden()
        page.get_by_role("button", name="Settings").click()
        expect(page.get_by_label("System prompt")).to_be_visible()
        page.get_by_role("button", name="Settings").click()
        say(page, "a-very-long-word-" * 20)
        expect(page.locator(".facts")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for name in ("Send", "Settings"):
            expect(page.get_by_role("button", name=name)).to_be_in_viewport()
        expect(page.locator(".facts")).to_be_in_viewport()
        keep(page, "console-phone.png")


def test_every_control_has_a_name(browser: Browser) -> None:
    with opened(browser, ScriptedApi(auth=True)) as page:
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, textarea, select, button")]
              .filter(at => !(at.labels?.length || at.textContent.trim())).map(at => at.id)"""
        )
        assert nameless == []


def test_screenshot(browser: Browser) -> None:
    with opened(browser, ScriptedApi()) as page:
        say(page, "hello")
        expect(page.locator(".facts")).to_have_count(1)
        page.get_by_text("Token probabilities").click()
        say(page, "show me how sure you are of every token")
        expect(page.locator(".facts")).to_have_count(2)
        page.locator(".token").nth(2).hover()
        assert len(page.screenshot()) > 10_000
        keep(page, "console.png")
