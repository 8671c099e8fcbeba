"""Sessions and issuers' tokens on the API: expiry, revocation, key rotation, roles."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.config import OidcSettings
from headrace.errors import ConfigError, PermissionDenied, UpstreamError
from headrace.gateway.claims import ClaimRules
from headrace.providers import oidc
from headrace.providers.oidc import Issuer
from headrace.store.identity import RoleName
from login_house import House, house
from oidc_server import CLIENT, Liar, lying


async def log_in(home: House, liar: Liar, **say: Any) -> dict[str, Any]:
    query = (await home.begin()).params
    liar.nonce, liar.say = query["nonce"], say
    answer = await home.http.get("/auth/callback", params={"state": query["state"], "code": "c"})
    assert answer.status_code == 303, answer.text
    return await home.session()


async def models(home: House, token: str) -> int:
    async with home.browser() as other:
        answer = await other.get("/v1/models", headers={"authorization": f"Bearer {token}"})
    return answer.status_code


async def admin(home: House, method: str, path: str, body: Any = None) -> Any:
    headers = {"authorization": f"Bearer {home.admin_key}"}
    async with home.browser() as other:
        answer = await other.request(method, f"/v1/admin/{path}", headers=headers, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_session_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with lying() as liar:
        async with house(tmp_path, liar.url) as home:
            session = await log_in(home, liar)
            listed = (await admin(home, "GET", "sessions"))["data"]
            assert [item["id"] for item in listed] == [session["session"]]
            assert (await home.http.get("/v1/models")).status_code == 200
            await admin(home, "DELETE", f"sessions/{session['session']}")
            assert (await home.http.get("/v1/models")).status_code == 401  # at once
            assert (await home.session())["user"] is None
            assert (await admin(home, "GET", "sessions"))["data"] == []


async def test_a_user_is_what_administrators_make_of_it(tmp_path: Path) -> None:
    with lying() as liar:
        async with house(tmp_path, liar.url, bearer=True) as home:
            user = (await log_in(home, liar))["user"]
            token = liar.sign(liar.claims())
            await admin(home, "PATCH", f"users/{user}", {"role": "org_admin", "team": "far"})
            who = (await home.http.get("/v1/admin/whoami")).json()
            assert (who["role"], who["org"], who["team"]) == ("org_admin", "other", "far")
            assert await models(home, token) == 200
            await admin(home, "PATCH", f"users/{user}", {"disabled": True})
            assert (await home.http.get("/v1/models")).status_code == 401
            assert await models(home, token) == 403
            await admin(home, "PATCH", f"users/{user}", {"disabled": False})
            assert await models(home, token) == 200
            assert len(await home.audited("user.change")) == 3


async def test_a_session_lasts_as_long_as_it_says(tmp_path: Path) -> None:
    with lying() as liar:
        async with house(tmp_path, liar.url, session_s=3600) as home:
            session = await log_in(home, liar)
            assert abs(session["expires_s"] - time.time() - 3600) < 60
            assert (await home.http.get("/v1/models")).status_code == 200
            home.door.people._clock = lambda: float(session["expires_s"])
            assert (await home.http.get("/v1/models")).status_code == 401
            assert (await home.session())["user"] is None


async def test_tokens_of_the_issuer_are_taken_where_it_is_set(tmp_path: Path) -> None:
    with lying() as liar:
        for bearer in (True, False):
            where = tmp_path / str(bearer)
            where.mkdir()
            async with house(where, liar.url, bearer=bearer, audience="api") as home:
                now = int(time.time())
                good = liar.claims(aud="api")
                assert await models(home, liar.sign(good)) == (200 if bearer else 401)
                for wrong in (
                    {"aud": CLIENT},
                    {"iss": "https://evil.example"},
                    {"exp": now - 60},
                    {"nbf": now + 120},
                    {"exp": None},
                ):
                    claims = {k: v for k, v in {**good, **wrong}.items() if v is not None}
                    assert await models(home, liar.sign(claims)) == 401, wrong
                assert await models(home, home.admin_key) == 200


async def test_keys_are_rotated_and_made_up_ones_do_not_reach_the_issuer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lying() as liar:
        async with house(tmp_path, liar.url, bearer=True) as home:
            assert await models(home, liar.sign(liar.claims())) == 200
            liar.add_key("two")
            monkeypatch.setattr(oidc, "LOOK_S", 0.0)
            assert await models(home, liar.sign(liar.claims(), key="two")) == 200
            # The old key is not published any more: nothing that it signs is new here.
            assert await models(home, liar.sign(liar.claims(jti="x"))) == 401
            monkeypatch.setattr(oidc, "LOOK_S", 1000.0)
            looked = liar.asked.count("/jwks")
            for at in range(20):
                token = liar.sign(liar.claims(), key="two", kid=f"made-up-{at}")
                assert await models(home, token) == 401
            assert liar.asked.count("/jwks") == looked


async def test_an_issuer_that_is_away_is_believed_for_an_hour(monkeypatch: Any) -> None:
    now = [0.0]
    with lying() as liar:
        settings = OidcSettings(issuer=liar.url, client_id=CLIENT)
        async with Issuer(settings, None, clock=lambda: now[0]) as issuer:
            token = liar.sign(liar.claims())
            await issuer.claims(token, audience=CLIENT)
            liar.down = True
            now[0] = oidc.STALE_S
            assert (await issuer.claims(token, audience=CLIENT))["sub"] == "u1"
            now[0] += 1
            with pytest.raises(UpstreamError):
                await issuer.claims(token, audience=CLIENT)
            liar.down = False
            now[0] += oidc.LOOK_S
            asked = len(liar.asked)
            await asyncio.gather(*(issuer.claims(token, audience=CLIENT) for _ in range(20)))
            assert len(liar.asked) - asked <= 2  # one look for all who wait


async def test_an_issuer_is_who_it_says(monkeypatch: Any) -> None:
    with lying() as liar:
        for url in (liar.url + "/", liar.url.replace("127.0.0.1", "localhost")):
            settings = OidcSettings(issuer=url, client_id=CLIENT)
            async with Issuer(settings, None) as issuer:
                with pytest.raises(UpstreamError, match="calls itself"):
                    await issuer.metadata()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"issuer": "http://login.example"}, "https"),
        ({"issuer": "ftp://127.0.0.1"}, "https"),
        ({"client_id": ""}, "client_id"),
        ({"algorithms": ("RS256", "HS256")}, "HS256"),
        ({"algorithms": ("none",)}, "none"),
        ({"algorithms": ()}, "none at all"),
    ],
)
def test_settings_that_are_not_safe(settings: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"issuer": "https://login.example", "client_id": "x", **settings}
    with pytest.raises(ConfigError, match=text):
        Issuer(OidcSettings(**given), None)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"roles": ("a=admin",)}, "of which claim"),
        ({"teams": ("a=red",)}, "of which claim"),
        ({"role_claim": "groups"}, "oidc.roles is not"),
        ({"role_claim": "groups", "roles": ("a=owner",)}, "no role"),
        ({"role_claim": "groups", "roles": ("admin",)}, "VALUE=ROLE"),
        ({"team_claim": "groups", "teams": ("=red",)}, "VALUE=TEAM"),
        ({"user_claim": ""}, "user_claim"),
    ],
)
def test_rules_that_are_none(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ClaimRules.of(OidcSettings(**settings))


def test_rules_give_the_highest_role_and_the_first_team() -> None:
    rules = ClaimRules.of(
        OidcSettings(
            user_claim="sub",
            role_claim="groups",
            roles=("all=member", "ops=team_admin", "cn=x,dc=y=org_admin"),
            team_claim="groups",
            teams=("ops=blue", "all=red"),
            org_claim="tenant",
        )
    )
    who = {"iss": "i", "sub": "u", "tenant": "acme"}
    for groups, role, team in (
        (["all"], RoleName.MEMBER, "red"),
        (["all", "ops"], RoleName.TEAM_ADMIN, "blue"),
        (["all", "cn=x,dc=y"], RoleName.ORG_ADMIN, "red"),
        ("ops", RoleName.TEAM_ADMIN, "blue"),
    ):
        claimed = rules.read({**who, "groups": groups})
        assert (claimed.role, claimed.team, claimed.org) == (role, team, "acme"), groups
    for groups in (["else"], None, 7, [7]):
        with pytest.raises(PermissionDenied, match="0 teams"):
            rules.read({**who, "groups": groups})
    with pytest.raises(PermissionDenied, match="tenant"):
        rules.read({"iss": "i", "sub": "u", "groups": ["all"]})
    plain = ClaimRules.of(OidcSettings(user_claim="sub", team_claim="team"))
    assert plain.read({**who, "team": "red"}).team == "red"
    assert plain.read({**who, "team": "red"}).role is None
    with pytest.raises(PermissionDenied, match="2 teams"):
        plain.read({**who, "team": ["red", "blue"]})
