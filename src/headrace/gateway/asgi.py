"""Services → the ASGI application: routing, identity, errors, accounting.

The order for a data route: path, method, key, then the body. All routes need a key but the three
health probes (an orchestrator has none), /openapi.json, and what `extra` mounts (the console's
static pages); /metrics needs one, for it tells who uses what. Errors are OpenAI's error object with
the request's id, on Anthropic's routes Anthropic's; a bug is a 500 whose traceback is in the log
only.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from headrace.errors import (
    HeadraceError,
    InvalidParameter,
    LimitExceeded,
    MethodNotAllowed,
    PermissionDenied,
    ServiceError,
)
from headrace.gateway import tracing
from headrace.gateway.caching.asked import BYPASS, CACHE_HEADER, REFRESH
from headrace.gateway.data import TABLE
from headrace.gateway.flight import Flight
from headrace.gateway.http import ASGIApp, ClientLeft, Exchange, Header, Receive, Scope, Send
from headrace.gateway.keys import Credentials
from headrace.gateway.live import Live
from headrace.gateway.openapi import document as openapi
from headrace.gateway.origins import check_local
from headrace.gateway.routes import OPEN
from headrace.gateway.services import Health, Limits, Served, Services
from headrace.gateway.table import DataRoute
from headrace.observe.ids import new_id
from headrace.observe.logs import REQUEST
from headrace.providers import residency
from headrace.types import Caller
from headrace.wire import anthropic_errors
from headrace.wire.openai_errors import encode_error

__all__ = ["ASGIApp", "Health", "Limits", "Served", "Services", "build"]

DATA_CLASS_HEADER = residency.HEADER.encode()
_LOG = logging.getLogger("headrace.gateway")
_OPEN = {**OPEN, openapi.PATH: openapi.openapi}


def build(services: Services | Live) -> ASGIApp:
    """The gateway as one application."""
    live = services if isinstance(services, Live) else Live(services)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000, "reason": "no websockets here"})
            return
        generation = live.enter()
        services = generation.services
        exchange = Exchange(scope, receive, send, request_id=new_id())
        try:
            if services.keys is None:
                host, origin = exchange.header(b"host"), exchange.header(b"origin")
                check_local(host, origin, services.allowed_hosts)
            mounted = _mounted(services, scope["path"])
            if mounted is not None:
                await mounted(scope, receive, send)
            else:
                await _answer(services, exchange)
        except PermissionDenied as error:
            await _refuse(exchange, None, error)
        finally:
            live.leave(generation)

    return app


async def _answer(services: Services, exchange: Exchange) -> None:
    def fly(route: str) -> Flight:
        return Flight(
            id=exchange.request_id,
            route=route,
            metrics=services.metrics,
            sinks=services.sinks,
            detail_sinks=services.detail_sinks,
        )

    async def identify(route: DataRoute) -> Caller:
        return await _identify(services, exchange, route)

    await serve(services, exchange, fly=fly, identify=identify)


async def serve(
    services: Services,
    exchange: Exchange,
    *,
    fly: Callable[[str], Flight],
    identify: Callable[[DataRoute], Awaitable[Caller]],
) -> None:
    """Answer one request, whatever becomes of it.

    Args:
        services: Of its generation.
        exchange: It, and where the answer goes.
        fly: Makes the flight that accounts for a POST to this route.
        identify: Says who asks; called before the body is read.
    """
    REQUEST.set(exchange.request_id)
    open_route = _OPEN.get(exchange.path)
    flight: Flight | None = None
    try:
        if open_route is not None:
            if exchange.method != "GET":
                raise MethodNotAllowed(f"{exchange.path} takes GET, not {exchange.method[:16]}")
            await open_route(services, exchange)
            return
        route, exchange.params = TABLE.find(
            exchange.method, exchange.path, also=(*_OPEN, *services.extra)
        )
        name = route.template
        if exchange.method == "POST":
            flight = fly(name)
            services.load.enter(flight.priority)
            services.metrics.arrived(name)
            exchange.late = flight.headers
            tracing.begin(exchange, flight)
        caller = await identify(route)
        accounted = flight or Flight(id=exchange.request_id, route=name, metrics=services.metrics)
        accounted.caller = caller
        accounted.trail.cache_asked = _cache_asked(exchange)
        tracing.identified(services, accounted, caller)
        await route.handler(services, exchange, accounted, caller)
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
            services.load.leave(flight.priority)
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
        allowed = TABLE.allowed(exchange.path) or ["GET"]  # the probes' paths take that only
        headers.append((b"allow", ", ".join(allowed).encode()))
    encode = anthropic_errors.encode_error if _is_anthropic(exchange.path) else encode_error
    body = encode(error, request_id=exchange.request_id)
    await exchange.answer(error.status, body, headers=tuple(headers))


async def _identify(services: Services, exchange: Exchange, route: DataRoute) -> Caller:
    caller = Caller(role="admin")  # without keys, only on loopback: who reaches it is its owner
    if services.keys is not None:
        caller = await services.keys.identify(
            Credentials.of(exchange.named, method=exchange.method, route=route.prefix)
        )
    header = exchange.header(DATA_CLASS_HEADER)
    classes = services.residency.classes_of(caller.data_classes, header)
    return caller if classes == caller.data_classes else replace(caller, data_classes=classes)


def _cache_asked(exchange: Exchange) -> str:
    asked = exchange.header(CACHE_HEADER)
    if asked is None or asked in (BYPASS, REFRESH):
        return asked or ""
    raise InvalidParameter(
        f"the header {CACHE_HEADER.decode()} is {asked[:80]!r}; it takes {BYPASS} or {REFRESH}",
        param=CACHE_HEADER.decode(),
    )


def _is_anthropic(path: str) -> bool:
    return path.startswith("/v1/messages")


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
