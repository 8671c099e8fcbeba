"""People log in at real OpenID Connect servers, and the gateway knows them."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from login_house import HOME, House, house
from oidc_server import Person, certified_provider, mock_provider

CALLBACK = f"{HOME}/auth/callback"


async def log_in(home: House, who: str, next: str = "/") -> httpx.Response:
    url = await home.begin(next)
    with Person() as person:
        back = await asyncio.to_thread(person.go, str(url), login=who, until=CALLBACK)
    return await home.http.get(back)


async def test_a_person_logs_in_works_and_logs_out(tmp_path: Path) -> None:
    with mock_provider() as issuer:
        async with house(tmp_path, issuer) as home:
            assert await home.session() == {"user": None, "login": "/login"}
            answer = await log_in(home, "ann@acme.example", "/somewhere?x=1")
            assert (answer.status_code, answer.headers["location"]) == (303, "/somewhere?x=1")
            cookies = answer.headers.get_list("set-cookie")
            [cookie] = [line for line in cookies if line.startswith("headrace_session=")]
            assert "HttpOnly" in cookie
            assert "SameSite=lax" in cookie
            session = await home.session()
            assert session["user"] == "ann@acme.example"
            assert (session["org"], session["team"], session["role"]) == ("acme", "red", "member")

            body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            assert (await home.http.get("/v1/models")).status_code == 200
            refused = await home.http.post("/v1/chat/completions", json=body)
            assert refused.status_code == 403
            assert "x-headrace-csrf" in refused.text
            csrf = {"x-headrace-csrf": session["csrf"]}
            said = await home.http.post("/v1/chat/completions", json=body, headers=csrf)
            assert said.status_code == 200, said.text

            assert (await home.http.post("/logout")).status_code == 403
            left = await home.http.post("/logout", headers=csrf)
            assert left.status_code == 200
            assert left.json()["issuer_logout"].startswith(f"{issuer}/oauth2/end_session?")
            assert (await home.session())["user"] is None
            assert [e.actor for e in await home.audited("session.")] == ["ann@acme.example"] * 2


async def test_the_certified_provider_with_pkce_required(tmp_path: Path) -> None:
    with certified_provider(tmp_path, CALLBACK) as issuer:
        mapped: dict[str, Any] = {
            "scopes": ("openid", "email", "profile"),
            "team_claim": "groups",
            "teams": ("nobody=far", "ops=blue"),
            "role_claim": "groups",
            "roles": ("eng=team_admin", "nobody=admin"),
        }
        async with house(tmp_path, issuer, **mapped) as home:
            answer = await log_in(home, "bob")
            assert answer.status_code == 303, answer.text
            session = await home.session()
            assert session["user"] == "bob@acme.example"
            assert (session["org"], session["team"]) == ("acme", "blue")
            assert session["role"] == "team_admin"
            who = (await home.http.get("/v1/admin/whoami")).json()
            assert (who["user"], who["team"]) == ("bob@acme.example", "blue")
            # Logged in once more, it is the same user and another session.
            again = await log_in(home, "bob")
            assert again.status_code == 303
            assert (await home.session())["session"] != session["session"]
            assert len(await home.audited("user.add")) == 1


async def test_a_code_is_good_once(tmp_path: Path) -> None:
    with mock_provider() as issuer:
        async with house(tmp_path, issuer) as home:
            url = await home.begin()
            with Person() as person:
                back = await asyncio.to_thread(person.go, str(url), login="ann@x.y", until=CALLBACK)
            first = await home.http.get(back)
            assert first.status_code == 303, first.text
            # The same answer again, in the browser that has it all: its state was taken.
            home.http.cookies.set("headrace_login", "x", path="/auth/")
            assert (await home.http.get(back)).status_code == 401
            # And the code itself, in a log-in that is under way.
            query = httpx.URL(await home.begin()).params
            code = httpx.URL(back).params["code"]
            replayed = await home.http.get(
                "/auth/callback", params={"state": query["state"], "code": code, "iss": issuer}
            )
            assert replayed.status_code == 401
            assert "refused" in replayed.text
