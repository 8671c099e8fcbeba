"""The page as bytes: headers, escaping, what is and is not served."""

import asyncio
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from headrace.console import pages
from headrace.console.pages import PageInfo, build

STATIC = Path(pages.__file__).parent / "static"


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()


def info(
    *, models: tuple[str, ...] = ("sprout",), auth: bool = False, version: str = "9.9.9"
) -> PageInfo:
    return PageInfo(models=models, auth=auth, version=version)


def get(
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    source: Callable[[], PageInfo] = info,
    application: ASGIApp | None = None,
) -> Answer:
    answer = Answer()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(key.encode(), value.encode()) for key, value in (headers or {}).items()],
    }

    async def run() -> None:
        await (application or build(source))(scope, receive, send)

    asyncio.run(run())
    return answer


def test_page_names_models_and_version() -> None:
    page = get("/", source=lambda: info(models=("sprout", "Qwen/Qwen3-0.6B")))
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<option>sprout</option>" in page.text
    assert "<option>Qwen/Qwen3-0.6B</option>" in page.text
    assert "headrace 9.9.9" in page.text


def test_page_is_asked_for_its_facts_at_every_view() -> None:
    names = iter(("first", "second"))
    made = build(lambda: info(models=(next(names),)))
    assert "<option>first</option>" in get("/", application=made).text
    assert "<option>second</option>" in get("/", application=made).text


def test_names_are_escaped() -> None:
    page = get("/", source=lambda: info(models=('"><script>alert(1)</script>',), version="<b>"))
    assert "<script>alert" not in page.text
    assert "<b>" not in page.text


def test_key_field_only_where_a_key_is_needed() -> None:
    assert 'id="key"' not in get("/").text
    assert 'id="key"' in get("/", source=lambda: info(auth=True)).text


def test_no_model_is_said_so() -> None:
    assert "no model is served" in get("/", source=lambda: info(models=())).text


def test_security_headers_are_on_everything() -> None:
    for path in ("/", "/static/console.js", "/static/console.css", "/static/absent"):
        headers = get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_page_obeys_its_own_policy() -> None:
    page = get("/", source=lambda: info(auth=True)).text
    assert not re.search(r"\son\w+\s*=", page), "an inline handler"
    assert not re.search(r"\sstyle\s*=|<style", page), "an inline style"
    assert not re.search(r"<script(?![^>]*\ssrc=)", page), "an inline script"
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    assert all(address.startswith("/") and "//" not in address for address in addresses)


def test_scripts_never_parse_html() -> None:
    for path in STATIC.glob("*.js"):
        banned = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\(",
            path.read_text("utf-8"),
        )
        assert not banned, f"{path.name}: {banned}"


def test_every_static_file_is_served_with_its_type() -> None:
    types = {
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
    }
    for path in STATIC.iterdir():
        answer = get(f"/static/{path.name}")
        assert answer.status == 200
        assert answer.body == path.read_bytes()
        assert answer.headers["content-type"] == types[path.suffix]


def test_unchanged_file_is_not_sent_again() -> None:
    etag = get("/static/console.js").headers["etag"]
    again = get("/static/console.js", headers={"if-none-match": etag})
    assert (again.status, again.body) == (304, b"")


def test_nothing_else_is_served() -> None:
    for path in ("/static/", "/static/absent.js", "/static/../pages.py", "/static/%2e%2e/pages.py"):
        assert get(path).status == 404
    assert get("/", method="POST").status == 405
