"""The table of routes → one application: identity first, then the method, then the body."""

import uuid
from collections.abc import Awaitable, Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace.errors import HeadraceError, InvalidParameter, MethodNotAllowed, NotFound
from headrace.gateway.admin.call import Call, Handler
from headrace.gateway.admin.table import PREFIX, TABLE
from headrace.gateway.http import ASGIApp
from headrace.gateway.keys import Credentials, Keys
from headrace.gateway.reload import ConfigState
from headrace.store.database import Database
from headrace.store.identity import RoleName
from headrace.types import Caller
from headrace.wire.openai_errors import encode_error

_MAX_BODY_BYTES = 64 << 10


def no_config() -> ConfigState | None:
    """The state of settings that nobody follows."""
    return None


def build(
    database: Database,
    keys: Keys | None,
    *,
    config: Callable[[], ConfigState | None] = no_config,
) -> ASGIApp:
    """The application for everything below `PREFIX`.

    Args:
        database: The store.
        keys: None = whoever reaches it is an admin.
        config: How the last reading of the settings went.
    """
    paths: dict[str, dict[str, Handler]] = {}
    for route in TABLE:
        paths.setdefault(PREFIX + route.path, {})[route.method] = route.handler

    def endpoint(methods: dict[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await _answer(database, keys, config, request, methods)

        return answer

    every = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"]
    routes = [Route(path, endpoint(found), methods=every) for path, found in paths.items()]
    routes.append(Route(PREFIX + "{rest:path}", endpoint({}), methods=every))
    return Starlette(routes=routes)


async def _answer(
    database: Database,
    keys: Keys | None,
    config: Callable[[], ConfigState | None],
    request: Request,
    methods: dict[str, Handler],
) -> Response:
    request_id = uuid.uuid4().hex
    headers = {"x-request-id": request_id}
    try:
        caller = Caller(role=RoleName.ADMIN.value)
        if keys is not None:
            caller = await keys.identify(
                Credentials(
                    authorization=request.headers.get("authorization"),
                    api_key=request.headers.get("x-api-key"),
                    route=request.url.path,
                )
            )
        if not methods:
            raise NotFound(f"there is no {request.url.path[:80]!r} here")
        handler = methods.get(request.method)
        if handler is None:
            headers["allow"] = ", ".join(methods)
            raise MethodNotAllowed(f"this takes {headers['allow']}, not {request.method[:16]}")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise InvalidParameter(f"the body is larger than {_MAX_BODY_BYTES} bytes")
        answer = await handler(Call(database, caller, request, body, config=config()))
    except HeadraceError as error:
        body = encode_error(error, request_id=request_id)
        return Response(body, error.status, headers, media_type="application/json")
    return Response(msgspec.json.encode(answer), 200, headers, media_type="application/json")
