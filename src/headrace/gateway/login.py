"""How people log in: /login sends a browser to the issuer, /auth/callback makes a session of it.

    GET  /login?next=/          to the issuer, with PKCE, a state and a nonce
    GET  /auth/callback         back from it: a session's cookie, then to `next`
    GET  /auth/session          who is logged in here, and what writes must send beside the cookie
    POST /logout                ends the session; the answer says where the issuer's own is ended

Invariants: state, nonce and verifier are made from one secret that only the browser that began has,
in a cookie, and the store takes a state once; so a log-in is ended where it began, and once. `next`
is a path of this service. A session's token is new at every log-in and is in an HttpOnly cookie.
Source: OpenID Connect Core 1.0; RFC 7636; RFC 9207; RFC 9700.
"""

import hashlib
import hmac
import html
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from headrace.errors import HeadraceError, InvalidParameter, Unauthorized
from headrace.gateway.door import Door, session_cookie
from headrace.gateway.http import ASGIApp
from headrace.gateway.keys import Credentials
from headrace.gateway.people import cookie_value, csrf_token, settle
from headrace.store.audit import Actor, record
from headrace.store.people import Person
from headrace.store.sessions import MadeSession, begin_login, end_session, make_session, take_login
from headrace.wire.openai_errors import encode_error

PATHS = ("/login", "/logout", "/auth/")
"""What the application answers, as `Services.extra` has it."""
_LOGIN_S = 600
_PATH = re.compile(r"/(?![/\\])[^\x00-\x20\\\x7f-\U0010ffff]{0,1000}|/")
_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
}


def build(door: Door) -> ASGIApp:
    """The application for `PATHS`."""

    def guarded(
        work: Callable[[Door, Request], Awaitable[Response]], *, page: bool
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await work(door, request)
            except HeadraceError as error:
                return _page(error) if page else _error(error)

        return answer

    return Starlette(
        routes=[
            Route("/login", guarded(_begin, page=True), methods=["GET"]),
            Route("/auth/callback", guarded(_end, page=True), methods=["GET"]),
            Route("/auth/session", guarded(_who, page=False), methods=["GET"]),
            Route("/logout", guarded(_leave, page=False), methods=["POST"]),
        ]
    )


async def _begin(door: Door, request: Request) -> Response:
    next = request.query_params.get("next", "/")
    if not _PATH.fullmatch(next):
        raise InvalidParameter(
            f"next is {next[:80]!r}; it takes a path of this service, as /", param="next"
        )
    secret = secrets.token_urlsafe(32)
    state = _derived(secret, "state")
    url = await door.issuer.authorization_url(
        redirect=door.redirect,
        state=state,
        nonce=_derived(secret, "nonce"),
        verifier=_derived(secret, "verifier"),
    )
    now_s = int(time.time())
    await door.database.write(
        lambda c: begin_login(c, state, next=next, lasts_s=_LOGIN_S, now_s=now_s)
    )
    answer = RedirectResponse(url, 303, _HEADERS)
    answer.set_cookie(
        "headrace_login",
        secret,
        max_age=_LOGIN_S,
        path="/auth/",
        secure=door.secure,
        httponly=True,
        samesite="lax",
    )
    return answer


async def _end(door: Door, request: Request) -> Response:
    query = request.query_params
    secret = cookie_value(request.headers.get("cookie"), "headrace_login")
    state = query.get("state", "")
    if not secret or not hmac.compare_digest(state.encode(), _derived(secret, "state").encode()):
        raise Unauthorized(
            "this browser did not begin this log-in, or it was too long ago; begin at "
            f"{door.public_url}/login"
        )
    now_s = int(time.time())
    next = await door.database.write(lambda c: take_login(c, state, now_s=now_s))
    if next is None:
        raise Unauthorized("this log-in has ended already, or was too long ago; begin again")
    metadata = await door.issuer.metadata()
    named = query.get("iss")
    if named != door.issuer.url and (named is not None or metadata.says_issuer):
        raise Unauthorized("the answer is another issuer's")
    if "error" in query:
        said = f"{query['error']} {query.get('error_description', '')}".strip()
        raise Unauthorized(f"the issuer did not let this log-in through: {said[:200]}")
    claims = await door.issuer.log_in(
        code=query.get("code", ""),
        redirect=door.redirect,
        nonce=_derived(secret, "nonce"),
        verifier=_derived(secret, "verifier"),
    )
    made = await _session(door, claims, now_s=now_s)
    await door.changes.poll()
    answer = RedirectResponse(next, 303, _HEADERS)
    answer.delete_cookie("headrace_login", path="/auth/")
    answer.set_cookie(
        session_cookie(door.public_url),
        made.token,
        max_age=door.session_s,
        path="/",
        secure=door.secure,
        httponly=True,
        samesite="lax",
    )
    return answer


async def _session(door: Door, claims: Mapping[str, Any], *, now_s: int) -> MadeSession:
    made: list[MadeSession] = []

    async def begin(connection: AsyncConnection, person: Person) -> None:
        made[:] = [await make_session(connection, person, lasts_s=door.session_s, now_s=now_s)]
        actor = Actor(id=person.id, role=person.role.value, via="login")
        await record(
            connection,
            actor,
            "session.begin",
            made[0].session.id,
            org=person.org,
            team=person.team,
            now_s=now_s,
        )

    await settle(door.database, door.rules, claims, now_s=now_s, then=begin)
    return made[0]


async def _who(door: Door, request: Request) -> Response:
    token = _token(door, request)
    session = await door.people.session(token) if token else None
    if session is None:
        return _json({"user": None, "login": "/login"})
    person = session.person
    return _json(
        {
            "user": person.id,
            "name": person.name,
            "org": person.org,
            "team": person.team,
            "role": person.role.value,
            "session": session.id,
            "expires_s": session.expires_s,
            "csrf": csrf_token(token),
        }
    )


async def _leave(door: Door, request: Request) -> Response:
    header = request.headers.get
    caller = await door.people.identify(Credentials.of(header, method="POST", route="/logout"))
    token = _token(door, request)
    session = await door.people.session(token) if token else None
    if session is None or session.id != caller.key_id:
        raise Unauthorized("a key has no session to end; send the session's cookie")
    person = session.person

    async def work(connection: AsyncConnection) -> None:
        now_s = int(time.time())
        await end_session(connection, session.id, now_s=now_s)
        actor = Actor(id=person.id, role=person.role.value, via="login")
        await record(
            connection,
            actor,
            "session.end",
            session.id,
            org=person.org,
            team=person.team,
            now_s=now_s,
        )

    await door.database.write(work)
    await door.changes.poll()
    answer = _json({"user": None, "issuer_logout": await _issuer_logout(door)})
    answer.delete_cookie(
        session_cookie(door.public_url), path="/", secure=door.secure, httponly=True, samesite="lax"
    )
    return answer


async def _issuer_logout(door: Door) -> str | None:
    """Where the issuer's own session is ended; else the next /login asks nobody anything."""
    try:
        url = (await door.issuer.metadata()).end_session
    except HeadraceError:
        return None  # ours is ended all the same
    if not url:
        return None
    query = {"client_id": door.client_id, "post_logout_redirect_uri": f"{door.public_url}/"}
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def _token(door: Door, request: Request) -> str:
    return cookie_value(request.headers.get("cookie"), session_cookie(door.public_url))


def _derived(secret: str, use: str) -> str:
    return hmac.new(secret.encode(), use.encode(), hashlib.sha256).hexdigest()


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), 200, _HEADERS, media_type="application/json")


def _error(error: HeadraceError) -> Response:
    body = encode_error(error, request_id=secrets.token_hex(8))
    return Response(body, error.status, _HEADERS, media_type="application/json")


def _page(error: HeadraceError) -> Response:
    """An error for whoever sits before the browser."""
    body = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>headrace</title>'
        f"<h1>Not logged in</h1><p>{html.escape(error.message)}</p>"
        '<p><a href="/login">Log in again</a></p></html>'
    )
    return Response(body, error.status, _HEADERS, media_type="text/html")
