"""The table of routes: paths, methods, names, and which keys reach what."""

from typing import Any

import pytest

from headrace.errors import MethodNotAllowed, NotFound
from headrace.gateway.data import DATA
from headrace.gateway.table import DataRoute, Table


async def nothing(*_: Any) -> None:
    """Never called."""


def route(method: str, template: str) -> DataRoute:
    return DataRoute(method=method, template=template, handler=nothing)


TABLE = Table(
    [
        route("GET", "/v1/things/{id}"),
        route("DELETE", "/v1/things/{id}"),
        route("POST", "/v1/things/{id}/stop"),
        route("POST", "/v1/things"),
        route("GET", "/v1/things/all"),
        route("GET", "/v1/names/{name:path}"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "template", "params"),
    [
        ("POST", "/v1/things", "/v1/things", {}),
        ("GET", "/v1/things/a.b", "/v1/things/{id}", {"id": "a.b"}),
        ("DELETE", "/v1/things/é%", "/v1/things/{id}", {"id": "é%"}),
        ("GET", "/v1/things/line\nbreak", "/v1/things/{id}", {"id": "line\nbreak"}),
        ("POST", "/v1/things/x/stop", "/v1/things/{id}/stop", {"id": "x"}),
        ("GET", "/v1/things/all", "/v1/things/all", {}),
        ("GET", "/v1/names/a/b", "/v1/names/{name:path}", {"name": "a/b"}),
    ],
)
def test_a_path_finds_its_route(
    method: str, path: str, template: str, params: dict[str, str]
) -> None:
    found = TABLE.find(method, path)
    assert (found.route.method, found.route.template) == (method, template)
    assert found.params == params


@pytest.mark.parametrize(
    "path", ["/v1/things/", "/v1/thing", "/v1/things/x/", "/v1/things/x/y", "/v1/names/", ""]
)
def test_what_is_not_there_is_404_and_says_what_is(path: str) -> None:
    with pytest.raises(NotFound, match=r"/v1/things/\{id\}, .*, /livez"):
        TABLE.find("GET", path, also=["/livez"])
    assert TABLE.allowed(path) == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/things", ["POST"]),
        ("/v1/things/x", ["DELETE", "GET"]),
        ("/v1/things/all", ["GET"]),
    ],
)
def test_another_method_is_405_with_those_allowed(path: str, allowed: list[str]) -> None:
    with pytest.raises(MethodNotAllowed, match=" and ".join(allowed)):
        TABLE.find("PATCH", path)
    assert TABLE.allowed(path) == allowed


def test_a_route_is_in_the_table_once() -> None:
    with pytest.raises(ValueError, match=r"GET /a/\{b\} is twice"):
        Table([route("GET", "/a/{b}"), route("GET", "/a/{b}")])


def test_what_a_key_is_compared_with_is_the_path_before_its_names() -> None:
    assert route("GET", "/v1/things/{id}/stop").prefix == "/v1/things"
    assert route("GET", "/v1/things").prefix == "/v1/things"


def test_every_served_route_is_found_by_its_own_template() -> None:
    table = Table(DATA)
    for served in DATA:
        assert table.find(served.method, served.template).route is served
