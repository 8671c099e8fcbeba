"""What must not log in, and what a browser must not be made to do."""

import base64
import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from login_house import HOME, House, house
from oidc_server import CLIENT, Liar, lying


@pytest.fixture
async def home(tmp_path: Path) -> AsyncGenerator[tuple[House, Liar]]:
    with lying() as liar:
        async with house(tmp_path, liar.url) as opened:
            yield opened, liar


def at_rest(home: House) -> bytes:
    path = str(home.database.engine.url.database)
    return b"".join(part.read_bytes() for part in Path(path).parent.glob("headrace.db*"))


async def come_back(home: House, liar: Liar, **say: Any) -> tuple[int, str]:
    """A whole log-in in which the issuer says that."""
    query = (await home.begin()).params
    liar.nonce = query["nonce"]
    liar.say = say
    answer = await home.http.get("/auth/callback", params={"state": query["state"], "code": "c"})
    return answer.status_code, answer.text


async def test_what_is_sent_to_the_issuer(home: tuple[House, Liar]) -> None:
    opened, liar = home
    query = (await opened.begin()).params
    assert query["response_type"] == "code"
    assert query["code_challenge_method"] == "S256"
    assert query["redirect_uri"] == f"{HOME}/auth/callback"
    assert set(query["scope"].split()) == {"openid", "profile", "email"}
    liar.nonce = query["nonce"]
    answer = await opened.http.get("/auth/callback", params={"state": query["state"], "code": "c"})
    assert answer.status_code == 303, answer.text
    [form] = liar.forms
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
    assert challenge.rstrip(b"=").decode() == query["code_challenge"]
    assert 43 <= len(form["code_verifier"]) <= 128
    assert form["authorization"].startswith("Basic ")
    assert "client_secret" not in form
    # Nothing that could end a log-in, and no session, is at rest.
    stored = at_rest(opened)
    cookie = opened.http.cookies["headrace_session"]
    assert b"ann@acme.example" in stored
    for secret in (form["code_verifier"], query["state"], query["nonce"], cookie):
        assert secret.encode() not in stored


@pytest.mark.parametrize(
    ("say", "text"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "another"}, "not valid"),
        ({"aud": [CLIENT, "another"]}, "made for"),
        ({"azp": "another"}, "made for"),
        ({"iss": "https://evil.example"}, "not valid"),
        ({"exp": 1}, "not valid"),
        ({"exp": None}, "not valid"),
        ({"iat": 1 << 40}, "not valid"),
        ({"nbf": 1 << 40}, "not valid"),
        ({"sub": None}, "not valid"),
        ({"email": None}, "email"),
        ({"email_verified": False}, "not verified"),
        ({"email": "no spaces, please"}, "letters"),
    ],
)
async def test_claims_that_are_not_good(
    say: dict[str, Any], text: str, home: tuple[House, Liar]
) -> None:
    opened, liar = home
    status, page = await come_back(opened, liar, **say)
    assert status in (400, 401, 403), page
    assert text in page
    assert (await opened.session())["user"] is None


async def test_signatures_that_are_not_good(home: tuple[House, Liar]) -> None:
    opened, liar = home
    liar.add_key("other", publish=False)

    def forged(nonce: str) -> dict[str, str]:
        claims = liar.claims(nonce=nonce)
        good = liar.sign(claims)
        head, body, signature = good.split(".")
        return {
            "alg none": liar.unsigned(claims),
            "alg none, with a kid": liar.unsigned(claims, kid="one"),
            "alg None": liar.unsigned(claims, alg="None", kid="one"),
            "HS256 with the public key": liar.confuse(claims),
            "unknown kid": liar.sign(claims, key="other"),
            "another's key under a known kid": liar.sign(claims, key="other", kid="one"),
            "a key it brings along": liar.sign(
                claims, key="other", kid="one", jwk=liar.public("other")
            ),
            "signature cut": f"{head}.{body}.{signature[:-8]}",
            "body changed": f"{head}.{body[:-4]}AAAA.{signature}",
            "no token": "x",
        }

    for name in forged(""):
        query = (await opened.begin()).params
        liar.token = forged(query["nonce"])[name]
        answer = await opened.http.get(
            "/auth/callback", params={"state": query["state"], "code": "c"}
        )
        assert answer.status_code == 401, (name, answer.text)
        assert (await opened.session())["user"] is None, name


async def test_a_state_is_this_browsers_and_is_taken_once(home: tuple[House, Liar]) -> None:
    opened, liar = home
    query = (await opened.begin()).params
    liar.nonce = query["nonce"]
    back = {"state": query["state"], "code": "c"}
    async with opened.browser() as other:  # log-in CSRF: another's answer in this browser
        assert (await other.get("/auth/callback", params=back)).status_code == 401
    for state in ("", "x", query["state"][:-1]):
        wrong = await opened.http.get("/auth/callback", params={**back, "state": state})
        assert wrong.status_code == 401
    secret = opened.http.cookies["headrace_login"]
    assert (await opened.http.get("/auth/callback", params=back)).status_code == 303
    async with opened.browser() as other:
        other.cookies.set("headrace_login", secret)
        replayed = await other.get("/auth/callback", params=back)
        assert replayed.status_code == 401
        assert "ended already" in replayed.text
    assert len(liar.forms) == 1  # what was refused never reached the issuer


async def test_an_answer_of_another_issuer_or_an_error(home: tuple[House, Liar]) -> None:
    opened, liar = home
    for more, text in (
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"error": "access_denied", "error_description": "<b>no</b>"}, "&lt;b&gt;no"),
    ):
        query = (await opened.begin()).params
        answer = await opened.http.get(
            "/auth/callback", params={"state": query["state"], "code": "c", **more}
        )
        assert answer.status_code == 401
        assert text in answer.text
    assert liar.forms == []


@pytest.mark.parametrize(
    "next",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
        " /",
        "/é",
        "/" + "x" * 2000,
    ],
)
async def test_next_stays_here(next: str, home: tuple[House, Liar]) -> None:
    answer = await home[0].http.get("/login", params={"next": next})
    assert answer.status_code == 400
    assert "next" in answer.text
    assert "location" not in answer.headers


async def test_an_issuer_that_is_away_is_said(home: tuple[House, Liar]) -> None:
    opened, liar = home
    liar.down = True
    answer = await opened.http.get("/login")
    assert answer.status_code == 502
    assert "Not logged in" in answer.text
    liar.down = False
    assert (await come_back(opened, liar))[0] == 303


async def test_a_cookie_changes_nothing_alone(home: tuple[House, Liar]) -> None:
    opened, liar = home
    liar.say = {}
    assert (await come_back(opened, liar))[0] == 303
    csrf = (await opened.session())["csrf"]
    good = {"x-headrace-csrf": csrf}
    for headers in (
        {},
        {"x-headrace-csrf": ""},
        {"x-headrace-csrf": csrf[:-1]},
        {**good, "origin": "https://evil.example"},
        {**good, "origin": "null"},
    ):
        for method, path in (("POST", "/logout"), ("POST", "/v1/admin/keys"), ("POST", "/render")):
            answer = await opened.http.request(method, path, headers=headers, json={})
            assert answer.status_code == 403, (path, headers)
    # With it the role decides, and a member may make no key.
    answer = await opened.http.post("/v1/admin/keys", headers=good, json={"team": "red"})
    assert "team_admin" in answer.text
    assert (await opened.http.post("/logout", headers={**good, "origin": HOME})).status_code == 200


async def test_over_https_the_cookies_are_fast_in_their_host(tmp_path: Path) -> None:
    with lying() as liar:
        async with house(tmp_path, liar.url, public_url="https://llm.acme.example") as opened:
            opened.http.base_url = "https://llm.acme.example"
            query = (await opened.begin()).params
            assert query["redirect_uri"] == "https://llm.acme.example/auth/callback"
            liar.nonce = query["nonce"]
            answer = await opened.http.get(
                "/auth/callback", params={"state": query["state"], "code": "c"}
            )
            [cookie] = [
                line
                for line in answer.headers.get_list("set-cookie")
                if line.startswith("__Host-headrace=")
            ]
            for part in ("Secure", "HttpOnly", "Path=/", "SameSite=lax", "Max-Age=28800"):
                assert part in cookie
            assert "Domain" not in cookie
