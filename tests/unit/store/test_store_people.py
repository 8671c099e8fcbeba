"""People: who logs in becomes a user, keeps its name for good, and ends where it is disabled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from databases import KINDS, fresh
from headrace.errors import NotFound, PermissionDenied
from headrace.store import identity, people, sessions
from headrace.store.database import Database
from headrace.store.identity import NewKey, RoleName, find_key
from headrace.store.people import Change, Claimed, Person

NOW = 1_764_000_000
ANN = Claimed(account="https://i|1", id="ann@acme.example", name="Ann", verified=True, team="red")


async def house(database: Database) -> None:
    async def work(connection: Any) -> None:
        for org in ("acme", "other"):
            await identity.add_org(connection, org, now_s=NOW)
        for team, org in {"red": "acme", "blue": "acme", "far": "other"}.items():
            await identity.add_team(connection, team, org=org, now_s=NOW)

    await database.write(work)


async def admit(database: Database, claimed: Claimed, default: str = "") -> Person:
    admitted = await database.write(
        lambda c: people.admit(c, claimed, default_team=default, now_s=NOW)
    )
    return admitted.person


async def change(database: Database, id: str, change: Change, now_s: int = NOW) -> Person:
    return await database.write(lambda c: people.change_person(c, id, change, now_s=now_s))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_account_is_one_user_for_good(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await house(database)
        made = await admit(database, replace(ANN, role=RoleName.ORG_ADMIN))
        assert (made.id, made.org, made.team) == ("ann@acme.example", "acme", "red")
        assert made.role is RoleName.ORG_ADMIN
        renamed = replace(ANN, id="ann.b@acme.example", team="blue", role=None)
        again = await admit(database, renamed)
        assert (again.id, again.team, again.role) == (made.id, "blue", RoleName.ORG_ADMIN)
        with pytest.raises(PermissionDenied, match="another account"):
            await admit(database, replace(ANN, account="https://i|2"))


async def test_a_made_user_is_taken_over_by_a_verified_name_only(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await house(database)
        await database.write(lambda c: identity.add_user(c, ANN.id, team="blue", now_s=NOW))
        with pytest.raises(PermissionDenied, match="verified"):
            await admit(database, replace(ANN, verified=False, team=None))
        person = await admit(database, replace(ANN, team=None))
        assert (person.team, person.account) == ("blue", ANN.account)


async def test_teams_are_there_and_of_the_organization(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await house(database)
        for claimed, text in (
            (replace(ANN, team="gone"), "which there is not"),
            (replace(ANN, team="far", org="acme"), "not its"),
            (replace(ANN, team=None), "name no team"),
        ):
            with pytest.raises(PermissionDenied, match=text):
                await admit(database, claimed)
        assert await database.read(people.people) == []  # whoever was refused is nobody
        assert (await admit(database, replace(ANN, team=None), default="red")).team == "red"


@pytest.mark.parametrize("kind", KINDS)
async def test_disabled_is_the_end_of_keys_and_sessions(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:
        await house(database)
        person = await admit(database, ANN)
        new = NewKey(org="acme", team="red", user=person.id)
        key = await database.write(lambda c: identity.make_key(c, new, now_s=NOW))
        session = await database.write(
            lambda c: sessions.make_session(c, person, lasts_s=60, now_s=NOW)
        )
        for disabled in (True, False):
            await change(database, person.id, Change(disabled=disabled))
            found = await database.read(lambda c: find_key(c, identity.digest(key.token)))
            assert found is not None
            assert found.live(NOW + 1) is not disabled
            held = await database.read(
                lambda c: sessions.find_session(c, identity.digest(session.token))
            )
            assert held is not None
            assert (held.person.disabled_s is not None) is disabled
            if disabled:
                with pytest.raises(PermissionDenied, match="disabled"):
                    await admit(database, ANN)


async def test_who_moves_leaves_its_keys(tmp_path: Path) -> None:
    async with fresh("sqlite", tmp_path) as database:
        await house(database)
        person = await admit(database, ANN)
        new = NewKey(org="acme", team="red", user=person.id)
        key = await database.write(lambda c: identity.make_key(c, new, now_s=NOW))
        moved = await change(database, person.id, Change(team="far"))
        assert (moved.org, moved.team) == ("other", "far")
        left = await database.read(lambda c: identity.get_key(c, key.key.id))
        assert left.revoked_s == NOW
        with pytest.raises(NotFound):
            await change(database, person.id, Change(team="gone"))
        with pytest.raises(NotFound):
            await change(database, "bob", Change(name="B"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_state_answers_once_and_for_a_while(kind: str, tmp_path: Path) -> None:
    async with fresh(kind, tmp_path) as database:

        async def take(state: str, now_s: int = NOW) -> str | None:
            return await database.write(lambda c: sessions.take_login(c, state, now_s=now_s))

        for state in ("a", "b"):
            await database.write(
                lambda c, s=state: sessions.begin_login(c, s, next="/x", lasts_s=60, now_s=NOW)
            )
        assert await take("c") is None
        assert await take("a") == "/x"
        assert await take("a") is None
        assert await take("b", NOW + 60) is None


async def test_logins_that_nobody_ends_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_MOST_LOGINS", 3)
    async with fresh("sqlite", tmp_path) as database:
        for at in range(5):
            await database.write(
                lambda c, a=at: sessions.begin_login(
                    c, f"s{a}", next="/", lasts_s=60 + a, now_s=NOW
                )
            )
        left = [
            state
            for state in (f"s{at}" for at in range(5))
            if await database.write(lambda c, s=state: sessions.take_login(c, s, now_s=NOW))
        ]
        assert left == ["s2", "s3", "s4"]
