"""Without keys: what a browser sends for another's page is refused, what programs send is not."""

import socket

import pytest

from gateway_server import services, serving
from headrace.errors import PermissionDenied
from headrace.gateway.origins import check_local
from headrace.gateway.services import Services

NOBODY: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (None, None),  # HTTP/1.0: no browser
        ("127.0.0.1:8080", None),
        ("localhost:8080", "http://localhost:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("127.9.9.9", "http://127.9.9.9"),
        ("LOCALHOST:1", "http://localhost:1"),
        ("box.lan:8080", "http://box.lan:8080"),
    ],
)
def test_what_comes_from_here_passes(host: str | None, origin: str | None) -> None:
    check_local(host, origin, frozenset({"box.lan"}))


@pytest.mark.parametrize(
    ("host", "origin", "text"),
    [
        ("evil.example:8080", None, "Host"),  # rebound
        ("evil.example:8080", "http://evil.example:8080", "Host"),
        ("127.0.0.1.evil.example", None, "Host"),
        ("localhost.evil.example", None, "Host"),
        ("10.0.0.1:8080", None, "Host"),
        ("", None, "Host"),
        ("[::1", None, "Host"),
        ("127.0.0.1:8080", "http://evil.example", "page of"),
        ("127.0.0.1:8080", "null", "page of"),
        ("127.0.0.1:8080", "http://127.0.0.1:3000", "page of"),
        ("127.0.0.1:8080", "http://localhost:8080", "page of"),
        (None, "http://127.0.0.1:8080", "page of"),
    ],
)
def test_what_a_page_of_elsewhere_sends_does_not(
    host: str | None, origin: str | None, text: str
) -> None:
    with pytest.raises(PermissionDenied, match=text):
        check_local(host, origin, NOBODY)


def ask(port: int, head: str, body: str = "") -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.sendall(f"{head}\r\nconnection: close\r\n\r\n{body}".encode())
        got = b""
        while piece := peer.recv(1 << 16):
            got += piece
    return got.decode()


def test_every_route_of_a_service_without_keys_is_guarded() -> None:
    async def page(scope: object, receive: object, send: object) -> None:
        raise AssertionError("a page was reached")

    base: Services = services()
    with serving(base=Services(models=base.models, extra={"/": page})) as gateway:
        for path in ("/", "/v1/models", "/livez", "/nowhere"):
            got = ask(gateway.port, f"GET {path} HTTP/1.1\r\nhost: evil.example")
            assert got.startswith("HTTP/1.1 403"), got
            assert "server.allowed_hosts" in got
        host = f"127.0.0.1:{gateway.port}"
        assert ask(gateway.port, f"GET /v1/models HTTP/1.1\r\nhost: {host}").startswith(
            "HTTP/1.1 200"
        )
        chat = "POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n"
        got = ask(gateway.port, f"{chat}host: {host}\r\norigin: https://evil.example", "{}")
        assert got.startswith("HTTP/1.1 403"), got
        assert gateway.records.came == 0
