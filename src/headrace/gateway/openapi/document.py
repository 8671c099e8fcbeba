"""The tables of routes → the OpenAPI document, and GET /openapi.json, which needs no key.

Source: OpenAPI 3.1.0.
"""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from headrace import __version__
from headrace.gateway.admin.table import PREFIX
from headrace.gateway.admin.table import TABLE as ADMIN
from headrace.gateway.data import DATA
from headrace.gateway.http import Exchange
from headrace.gateway.openapi import answers, control, operations
from headrace.gateway.openapi.operations import EVENTS, JSON, Operation
from headrace.gateway.openapi.shapes import ANY_OBJECT, Shape, text
from headrace.gateway.routes import OPEN
from headrace.gateway.services import Services

PATH = "/openapi.json"
_NAME = re.compile(r"\{(\w+)(?::(\w+))?\}")
_COMMON = {
    "400": "What was sent cannot be served; the error names the field and the way out.",
    "401": "No API key, or none that is valid here.",
    "403": "The key is not for this route, feature, model or model of data.",
    "500": "A bug; the log has it under the request's id.",
    "503": "Starting, draining, or a part of the service is away.",
}
_BODY = {
    "408": "The body did not come in time.",
    "413": "The body is too large.",
}
_WORK = {
    "402": "A budget has too little left.",
    "404": "There is no such model, or nothing of that id.",
    "429": "A limit of requests, tokens or concurrency, or the queue, is full.",
    "502": "A provider answered nonsense.",
    "504": "A provider, or the deadline, was too slow.",
}


async def openapi(services: Services, exchange: Exchange) -> None:
    """GET /openapi.json."""
    await exchange.answer(200, _encoded())


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in DATA:
        key = (route.method, route.template)
        operation = operations.DATA.get(key, operations.UNTOLD)
        path = _NAME.sub(r"{\1}", route.template)
        paths.setdefault(path, {})[route.method.lower()] = _data(
            route.method, route.template, operation, route.handler
        )
    for admin in ADMIN:
        path = PREFIX + _NAME.sub(r"{\1}", admin.path)
        paths.setdefault(path, {})[admin.method.lower()] = _admin(
            admin.method, admin.path, admin.handler
        )
    for path, handler in {**OPEN, PATH: openapi}.items():
        paths[path] = {"get": _open(path, handler)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "headrace",
            "version": __version__,
            "description": "Fields that are not here are refused by name.",
        },
        "security": [{"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": {
                "Error": answers.ERROR,
                "AnthropicError": answers.ANTHROPIC_ERROR,
                **control.components(),
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _data(method: str, template: str, operation: Operation, handler: object) -> dict[str, Any]:
    ok: dict[str, Any] = {operation.kind: {"schema": operation.answer}}
    if operation.streams:
        ok[EVENTS] = {"schema": answers.EVENT}
    reasons = dict(_COMMON)
    if operation.body is not None:
        reasons |= _BODY | _WORK
    if operation.missing:
        reasons["404"] = "There is nothing of that id, or it is another team's."
    if operation.conflict:
        reasons["409"] = operation.conflict
    anthropic = operation.error is answers.ANTHROPIC_ERROR
    found: dict[str, Any] = {
        "operationId": _id(method, template),
        "tags": [operation.tag],
        "summary": _summary(handler),
        "parameters": [*_path(template), *_query(operation.query), *_headers(operation)],
        "responses": _responses(ok, reasons, "AnthropicError" if anthropic else "Error"),
    }
    if operation.body is not None:
        kind = "multipart/form-data" if operation.form else JSON
        found["requestBody"] = {
            "required": not operation.bodiless,
            "content": {kind: {"schema": operation.body}},
        }
    return found


def _admin(method: str, path: str, handler: object) -> dict[str, Any]:
    reasons = {
        **_COMMON,
        "404": "There is nothing of that id within the key's reach.",
        "409": "The name is taken, or what is to go is still used.",
    }
    found: dict[str, Any] = {
        "operationId": _id(method, PREFIX + path),
        "tags": ["control"],
        "summary": _summary(handler),
        "parameters": [*_path(path), *_query(control.QUERIES.get((method, path), {}))],
        "responses": _responses({JSON: {"schema": ANY_OBJECT}}, reasons, "Error"),
    }
    body = control.BODIES.get((method, path))
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        needs = any(field.required for field in msgspec.structs.fields(body))
        found["requestBody"] = {"required": needs, "content": {JSON: {"schema": schema}}}
    return found


def _open(path: str, handler: object) -> dict[str, Any]:
    shape = ANY_OBJECT if path == PATH else answers.HEALTH
    responses: dict[str, Any] = {
        "200": {"description": "As asked.", "content": {JSON: {"schema": shape}}}
    }
    if path != PATH:
        responses["503"] = {
            "description": "Not now.",
            "content": {JSON: {"schema": answers.HEALTH}},
        }
    return {
        "operationId": _id("GET", path),
        "tags": ["operation"],
        "summary": _summary(handler),
        "security": [],
        "responses": responses,
    }


def _responses(ok: Mapping[str, Any], reasons: Mapping[str, str], error: str) -> dict[str, Any]:
    refused = {JSON: {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    failed = {
        status: {"description": reason, "content": refused}
        for status, reason in sorted(reasons.items())
    }
    return {"200": {"description": "As asked.", "content": dict(ok)}, **failed}


def _path(template: str) -> list[dict[str, Any]]:
    return [
        {
            "name": match[1],
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0}
            if match[2] == "int"
            else text(1, None, "" if match[2] == "path" else "^[^/]+$"),
        }
        for match in _NAME.finditer(template)
    ]


def _query(shapes: Mapping[str, Shape]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": False, "schema": shape}
        for name, shape in shapes.items()
    ]


def _headers(operation: Operation) -> list[dict[str, Any]]:
    needed = [
        {"name": name, "in": "header", "required": True, "schema": shape}
        for name, shape in operation.headers.items()
    ]
    return [
        *needed,
        {
            "name": "x-headrace-feature",
            "in": "header",
            "required": False,
            "description": "What the request is for, in limits and in the spend.",
            "schema": text(0, 64, "^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"),
        },
    ]


def _id(method: str, path: str) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "_", _NAME.sub(r"\1", path)).strip("_")
    return f"{method.lower()}_{words}"


def _summary(handler: object) -> str:
    documented = inspect.getdoc(handler) or ""
    return documented.partition("\n")[0].rstrip(".")
