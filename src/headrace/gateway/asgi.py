"""Services → the ASGI application: routing, identity, errors, accounting.

The order for a data route: path, method, key, then the body. All routes need a key but the three
health probes (an orchestrator has none) and what `extra` mounts (the console's static pages);
/metrics needs one, for it tells who uses what. Errors are OpenAI's error object with the
request's id, on Anthropic's routes Anthropic's; a bug is a 500 whose traceback is in the log only.
"""

import logging
import uuid

from headrace.errors import HeadraceError, LimitExceeded, MethodNotAllowed, NotFound, ServiceError
from headrace.gateway.flight import Flight
from headrace.gateway.http import ASGIApp, ClientLeft, Exchange, Header, Receive, Scope, Send
from headrace.gateway.keys import FEATURE_HEADER, Credentials
from headrace.gateway.routes import DATA, OPEN, Route
from headrace.gateway.services import Health, Limits, Served, Services
from headrace.types import Caller
from headrace.wire import anthropic_errors
from headrace.wire.openai_errors import encode_error

__all__ = ["ASGIApp", "Health", "Limits", "Served", "Services", "build"]

_LOG = logging.getLogger("headrace.gateway")


def build(services: Services) -> ASGIApp:
    """The gateway as one application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000, "reason": "no websockets here"})
            return
        mounted = _mounted(services, scope["path"])
        if mounted is not None:
            await mounted(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, request_id=uuid.uuid4().hex)
        await _answer(services, exchange)

    return app


async def _answer(services: Services, exchange: Exchange) -> None:
    open_route = OPEN.get(exchange.path)
    name, route = _find(exchange.path)
    flight: Flight | None = None
    try:
        if open_route is not None:
            _check_method(exchange, "GET")
            await open_route(services, exchange)
            return
        if route is None:
            there = ", ".join([*DATA, *OPEN, *services.extra])
            raise NotFound(f"there is no {exchange.path[:80]!r} here; there is: {there}")
        _check_method(exchange, DATA[name][0])
        if exchange.method == "POST":
            flight = Flight(
                id=exchange.request_id,
                route=name,
                metrics=services.metrics,
                sinks=services.sinks,
            )
            services.metrics.arrived(name)
        caller = await _identify(services, exchange, name)
        accounted = flight or Flight(id=exchange.request_id, route=name, metrics=services.metrics)
        accounted.caller = caller
        await route(services, exchange, accounted, caller)
    except ClientLeft:
        if flight is not None:
            flight.left()
    except HeadraceError as error:
        await _refuse(exchange, flight, error)
    except Exception:  # noqa: BLE001 - a bug must not take the server along
        _LOG.exception("request %s: a bug in %s", exchange.request_id, exchange.path[:80])
        bug = HeadraceError(f"internal error; the log has it under {exchange.request_id}")
        await _refuse(exchange, flight, bug)
    except BaseException:  # the server is being stopped
        if flight is not None:
            flight.left()
        raise
    finally:
        if flight is not None:
            flight.status = flight.status or exchange.status
            flight.land()


async def _refuse(exchange: Exchange, flight: Flight | None, error: HeadraceError) -> None:
    if flight is not None:
        flight.failed(error)
    if exchange.status:
        return  # too late for a status; what was begun is all there is
    headers: list[Header] = []
    if isinstance(error, ServiceError) and error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    elif isinstance(error, LimitExceeded):
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
    elif error.retryable:
        headers.append((b"retry-after", b"1"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        _, route = _find(exchange.path)
        allowed = DATA[_find(exchange.path)[0]][0] if route is not None else "GET"
        headers.append((b"allow", allowed.encode()))
    encode = anthropic_errors.encode_error if _is_anthropic(exchange.path) else encode_error
    body = encode(error, request_id=exchange.request_id)
    await exchange.answer(error.status, body, headers=tuple(headers))


async def _identify(services: Services, exchange: Exchange, route: str) -> Caller:
    if services.keys is None:
        return Caller(role="admin")  # only on loopback: who reaches it is its owner
    return await services.keys.identify(
        Credentials(
            authorization=exchange.header(b"authorization"),
            api_key=exchange.header(b"x-api-key"),
            feature=exchange.header(FEATURE_HEADER),
            route=route.rstrip("/"),
        )
    )


def _is_anthropic(path: str) -> bool:
    return path.startswith("/v1/messages")


def _check_method(exchange: Exchange, wanted: str) -> None:
    if exchange.method != wanted:
        raise MethodNotAllowed(f"{exchange.path[:80]} takes {wanted}, not {exchange.method[:16]}")


def _find(path: str) -> tuple[str, Route | None]:
    if path in DATA and not path.endswith("/"):
        return path, DATA[path][1]
    for prefix, (_, route) in DATA.items():
        if prefix.endswith("/") and path.startswith(prefix) and len(path) > len(prefix):
            return prefix, route
    return "", None


def _mounted(services: Services, path: str) -> ASGIApp | None:
    exact = services.extra.get(path)
    if exact is not None:
        return exact
    for prefix, app in services.extra.items():
        if prefix != "/" and prefix.endswith("/") and path.startswith(prefix):
            return app
    return None


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to start: `app` starts things before the server and stops them after."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
