"""What each source lists, fetches and refuses."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from headrace.errors import ConfigError, DataError
from headrace.retrieval.parsing import Refusal, Unreadable
from headrace.retrieval.sources import (
    Access,
    Directory,
    Fetched,
    Gone,
    Item,
    Rule,
    Unchanged,
    Urls,
)

LATER = 4_000_000_000.0


async def keys(source: Directory) -> list[str]:
    return [item.key async for item in source.items()]


async def test_a_directory_lists_what_its_patterns_choose(tmp_path: Path) -> None:
    for name in ("a.md", "b.txt", "x/c.md", "x/y/d.md", ".git/e.md", "f.md.access.json", ".h.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert await keys(Directory("s", tmp_path)) == ["a.md", "b.txt", "x/c.md", "x/y/d.md"]
    some = Directory("s", tmp_path, include=["*.md"], exclude=["x/y/*"])
    assert await keys(some) == ["a.md", "x/c.md"]
    with pytest.raises(DataError, match="no directory"):
        await keys(Directory("s", tmp_path / "absent"))


async def test_links_are_followed_inside_the_directory_only(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "in", outside):
        folder.mkdir(parents=True)
        (folder / "a.md").write_text("x")
    (root / "link.md").symlink_to(root / "in" / "a.md")
    (root / "out.md").symlink_to(outside / "a.md")
    (root / "folder").symlink_to(root / "in")
    (root / "away").symlink_to(outside)
    (root / "in" / "loop").symlink_to(root)
    (root / "nowhere.md").symlink_to(root / "absent")
    source = Directory("s", root)
    assert await keys(source) == ["folder/a.md", "in/a.md", "link.md"]
    assert await source.fetch(Item(key="out.md"), known="", limit_bytes=10) == Gone()


async def test_a_file_that_was_changed_just_now_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (fresh,) = [item async for item in Directory("s", tmp_path).items()]
    (settled,) = [item async for item in Directory("s", tmp_path, clock=lambda: LATER).items()]
    assert fresh.revision == ""
    assert settled.revision != ""


async def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x" * 11)
    found = await Directory("s", tmp_path).fetch(Item(key="a"), known="", limit_bytes=10)
    assert isinstance(found, Refusal)
    assert found.reason is Unreadable.TOO_LARGE


def test_the_last_rule_that_matches_says_who_reads_and_a_list_beside_goes_before_it() -> None:
    access = Access(
        rules=[
            Rule(pattern="*", readers=frozenset({"staff"})),
            Rule(pattern="public/*", readers=None),
        ]
    )
    assert access.readers("a") == {"staff"}
    assert access.readers("public/a/b") is None
    assert access.readers("public/a", b'{"readers": ["ann"]}') == {"ann"}
    assert access.readers("a", b'{"readers": []}') == frozenset()
    for broken in (b"", b"[]", b'{"readers": "ann"}', b'{"readers": [""]}', b'{"reader": []}'):
        found = access.readers("a", broken)
        assert isinstance(found, Refusal)
        assert found.reason is Unreadable.ACCESS


async def page(request: web.Request) -> web.StreamResponse:
    match request.path:
        case "/etag":
            if request.headers.get("If-None-Match") == '"1"':
                return web.Response(status=304)
            return web.Response(text="<p>hi", content_type="text/html", headers={"ETag": '"1"'})
        case "/dated":
            date = "Wed, 01 May 2024 00:00:00 GMT"
            if request.headers.get("If-Modified-Since") == date:
                return web.Response(status=304)
            return web.Response(text="x", headers={"Last-Modified": date})
        case "/moved":
            return web.Response(status=302, headers={"Location": "/etag"})
        case "/inside":
            return web.Response(status=302, headers={"Location": "http://169.254.169.254/key"})
        case "/file":
            return web.Response(status=302, headers={"Location": "file:///etc/passwd"})
        case "/round":
            return web.Response(status=302, headers={"Location": "/round"})
        case "/large":
            return web.Response(body=b"x" * 2000)
        case path:
            return web.Response(status=int(path[1:]))


@pytest.fixture
async def server() -> AsyncGenerator[str]:
    app = web.Application()
    app.router.add_get("/{tail:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def urls(server: str) -> AsyncGenerator[Urls]:
    source = Urls("web", [f"{server}/etag"], allow=["127.0.0.1"], timeout_s=5)
    try:
        yield source
    finally:
        await source.close()


async def fetch(source: Urls, url: str, known: str = "") -> object:
    return await source.fetch(Item(key=url), known=known, limit_bytes=1000)


async def test_addresses_are_fetched_on_condition(urls: Urls, server: str) -> None:
    for path in ("etag", "dated", "moved"):
        found = await fetch(urls, f"{server}/{path}")
        assert isinstance(found, Fetched)
        assert await fetch(urls, f"{server}/{path}", found.revision) == Unchanged()
    found = await fetch(urls, f"{server}/dated")
    assert isinstance(found, Fetched)
    assert found.modified_s == 1_714_521_600
    (item,) = [item async for item in urls.items()]
    assert item.metadata == {"url": f"{server}/etag"}


@pytest.mark.parametrize(
    ("path", "reason", "said"),
    [
        ("500", Unreadable.UNAVAILABLE, "answered 500"),
        ("429", Unreadable.UNAVAILABLE, "answered 429"),
        ("403", Unreadable.ACCESS, "answered 403"),
        ("large", Unreadable.TOO_LARGE, "more than 1000 bytes"),
        ("round", Unreadable.UNAVAILABLE, "more than 5 redirects"),
        ("inside", Unreadable.ACCESS, "169.254.169.254 is in a private network"),
        ("file", Unreadable.ACCESS, "leads to file:"),
    ],
)
async def test_answers_that_are_no_document_say_why(
    urls: Urls, server: str, path: str, reason: Unreadable, said: str
) -> None:
    found = await fetch(urls, f"{server}/{path}")
    assert isinstance(found, Refusal)
    assert found.reason is reason
    assert said in found.detail


async def test_what_is_gone_is_gone(urls: Urls, server: str) -> None:
    assert await fetch(urls, f"{server}/404") == Gone()
    assert await fetch(urls, f"{server}/410") == Gone()


async def test_private_addresses_are_refused_by_number_and_by_name(server: str) -> None:
    port = server.rpartition(":")[2]
    source = Urls("web", [], timeout_s=5)
    try:
        for host in ("127.0.0.1", "localhost", "10.0.0.1", "[::1]", "169.254.169.254"):
            found = await fetch(source, f"http://{host}:{port}/etag")
            assert isinstance(found, Refusal), host
            assert found.reason is Unreadable.ACCESS, found
        found = await fetch(source, "http://nowhere.invalid/x")
        assert isinstance(found, Refusal)
        assert found.reason is Unreadable.UNAVAILABLE
    finally:
        await source.close()


def test_addresses_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="no http or https address"):
        Urls("web", ["ftp://x/y"])


def test_access_lists_are_json(tmp_path: Path) -> None:
    assert Access().readers("a", json.dumps({"readers": ["a", "b"]}).encode()) == {"a", "b"}
