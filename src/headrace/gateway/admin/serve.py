"""The table of routes → one application: identity first, then the method, then the body."""

import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import HeadraceError, InvalidParameter, MethodNotAllowed, NotFound
from headrace.gateway.admin.call import Call, Handler
from headrace.gateway.admin.table import PREFIX, TABLE
from headrace.gateway.erasure import Erasure
from headrace.gateway.http import ASGIApp
from headrace.gateway.keys import Credentials, Keys
from headrace.gateway.reload import ConfigState
from headrace.gateway.traces import Traces
from headrace.store.changes import Changes
from headrace.store.database import Database
from headrace.store.identity import RoleName
from headrace.types import Caller
from headrace.wire.openai_errors import encode_error

_MAX_BODY_BYTES = 64 << 10


def no_config() -> ConfigState | None:
    """The state of settings that nobody follows."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plane:
    database: Database
    keys: Keys | None
    config: Callable[[], ConfigState | None]
    changes: Changes | None
    traces: Traces | None
    served: Collection[str] | None
    erasure: Erasure | None


def build(
    database: Database,
    keys: Keys | None,
    *,
    config: Callable[[], ConfigState | None] = no_config,
    changes: Changes | None = None,
    traces: Traces | None = None,
    served: Collection[str] | None = None,
    erasure: Erasure | None = None,
) -> ASGIApp:
    """The application for everything below `PREFIX`.

    Args:
        database: The store.
        keys: None = whoever reaches it is an admin.
        config: How the last reading of the settings went.
        changes: Looked at after each change, so that this process knows before it has answered;
            None = it knows when it looks the next time.
        traces: None = none are kept.
        served: Names of models, which keys may be scoped to; None = any name.
        erasure: Deletes texts; None = nothing does.
    """
    plane = _Plane(
        database=database,
        keys=keys,
        config=config,
        changes=changes,
        traces=traces,
        served=served,
        erasure=erasure,
    )
    paths: dict[str, dict[str, Handler]] = {}
    for route in TABLE:
        paths.setdefault(PREFIX + route.path, {})[route.method] = route.handler

    def endpoint(methods: dict[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await _answer(plane, request, methods)

        return answer

    every = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"]
    routes = [Route(path, endpoint(found), methods=every) for path, found in paths.items()]
    routes.append(Route(PREFIX + "{rest:path}", endpoint({}), methods=every))
    return Starlette(routes=routes)


async def _answer(plane: _Plane, request: Request, methods: dict[str, Handler]) -> Response:
    request_id = uuid.uuid4().hex
    headers = {"x-request-id": request_id}
    try:
        caller = Caller(role=RoleName.ADMIN.value)
        if plane.keys is not None:
            caller = await plane.keys.identify(
                Credentials.of(request.headers.get, method=request.method, route=request.url.path)
            )
        if not methods:
            raise NotFound(f"there is no {request.url.path[:80]!r} here")
        handler = methods.get(request.method)
        if handler is None:
            headers["allow"] = ", ".join(methods)
            raise MethodNotAllowed(f"this takes {headers['allow']}, not {request.method[:16]}")
        body = await _body(request)
        call = Call(
            plane.database,
            caller,
            request,
            body,
            id=request_id,
            config=plane.config(),
            traces=plane.traces,
            served=plane.served,
            erasure=plane.erasure,
        )
        answer = await handler(call)
        if request.method != "GET" and plane.changes is not None:
            await plane.changes.poll()
    except HeadraceError as error:
        body = encode_error(error, request_id=request_id)
        return Response(body, error.status, headers, media_type="application/json")
    return Response(msgspec.json.encode(answer), 200, headers, media_type="application/json")


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise InvalidParameter(f"the body is larger than {_MAX_BODY_BYTES} bytes")
    return body
