"""Organizations, teams, users and service keys: rows, and a key's token → whose it is.

A key is `hr-` and 256 random bits, so a plain SHA-256 at rest is enough: there is nothing to guess.
The token is returned once, where it is made. Rotating gives a key a new token and lets the old one
live on for the overlap. Ids of organizations, teams and users are the
names that people give them.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Table, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import Conflict, InvalidParameter, NotFound
from headrace.store.audit import Actor, record
from headrace.store.database import bump
from headrace.store.tables import keys, orgs, teams, users

PREFIX = "hr-"
DEFAULT = "default"
"""The organization and the team of whoever named none."""
FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a request may say that it is for."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
_SHOWN_CHARACTERS = 8


class RoleName(StrEnum):
    """What a key may administer; each includes the next."""

    ADMIN = "admin"  # everything
    ORG_ADMIN = "org_admin"  # its organization
    TEAM_ADMIN = "team_admin"  # its team
    MEMBER = "member"  # nothing: it sees its own spend


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key as it is kept: everything but the token."""

    id: str
    prefix: str
    name: str
    org: str
    team: str
    user: str | None
    role: RoleName
    models: frozenset[str]
    """Served names it may use; empty = all. So for the next two."""
    routes: frozenset[str]
    features: frozenset[str]
    data_class: str
    """Of all its requests, beside what they say of themselves; empty = none."""
    created_s: int
    expires_s: int | None
    revoked_s: int | None

    def live(self, now_s: float) -> bool:
        """Whether it opens anything at that time."""
        ends = [at for at in (self.expires_s, self.revoked_s) if at is not None]
        return not ends or now_s < min(ends)


class MadeKey(NamedTuple):
    key: Key
    token: str
    """Shown now and never again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """What a key is made from."""

    name: str = ""
    org: str = DEFAULT
    team: str = DEFAULT
    user: str | None = None
    role: RoleName = RoleName.MEMBER
    models: Sequence[str] = ()
    routes: Sequence[str] = ()
    features: Sequence[str] = ()
    data_class: str = ""
    expires_s: int | None = None


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


async def add_org(connection: AsyncConnection, id: str, *, now_s: int) -> None:
    """Raises: InvalidParameter, Conflict."""
    await _add(connection, orgs, "organization", id=id, created_s=now_s)


async def add_team(connection: AsyncConnection, id: str, *, org: str, now_s: int) -> None:
    """Raises: InvalidParameter, NotFound for the organization, Conflict."""
    await _must_exist(connection, orgs, "organization", org)
    await _add(connection, teams, "team", id=id, org=org, created_s=now_s)


async def add_user(connection: AsyncConnection, id: str, *, team: str, now_s: int) -> None:
    """Raises: InvalidParameter, NotFound for the team, Conflict."""
    found = await _must_exist(connection, teams, "team", team)
    await _add(connection, users, "user", id=id, org=found.org, team=team, created_s=now_s)


async def org_of(connection: AsyncConnection, team: str) -> str:
    """The organization that a team belongs to. Raises: NotFound."""
    return (await _must_exist(connection, teams, "team", team)).org


async def must_be(connection: AsyncConnection, *, org: str = "", team: str = "") -> None:
    """Raises: NotFound where the organization or team is not there; empty = not asked."""
    if org:
        await _must_exist(connection, orgs, "organization", org)
    if team:
        await _must_exist(connection, teams, "team", team)


async def org_ids(connection: AsyncConnection) -> list[str]:
    return list(await connection.scalars(select(orgs.c.id).order_by(orgs.c.id)))


async def team_rows(connection: AsyncConnection, *, org: str | None = None) -> list[Row[Any]]:
    """Teams as (id, org, created_s), of one organization or of all."""
    query = select(teams).order_by(teams.c.id)
    return list(await connection.execute(query if org is None else query.where(teams.c.org == org)))


async def user_rows(connection: AsyncConnection, *, team: str | None = None) -> list[Row[Any]]:
    """Users as (id, org, team, created_s), of one team or of all."""
    query = select(users).order_by(users.c.id)
    return list(
        await connection.execute(query if team is None else query.where(users.c.team == team))
    )


async def make_key(connection: AsyncConnection, new: NewKey, *, now_s: int) -> MadeKey:
    """Make a key, and its token.

    Raises:
        NotFound: No such team or user, or the team is another organization's.
        InvalidParameter: A scope with a comma, or an end that is past.
    """
    if await org_of(connection, new.team) != new.org:
        raise NotFound(f"the organization {new.org!r} has no team {new.team!r}", param="team")
    if new.user is not None:
        team = await connection.scalar(select(users.c.team).where(users.c.id == new.user))
        if team != new.team:  # another team's is as if it were not there
            raise NotFound(f"the team {new.team!r} has no user {new.user!r}", param="user")
    if new.expires_s is not None and new.expires_s <= now_s:
        raise InvalidParameter(
            f"expires_s {new.expires_s} is past: now is {now_s}", param="expires_s"
        )
    values = {
        "name": new.name[:200],
        "org": new.org,
        "team": new.team,
        "user": new.user,
        "role": new.role.value,
        "models": _joined("models", new.models),
        "routes": _joined("routes", new.routes),
        "features": _joined("features", _tags(new.features)),
        "data_class": new.data_class[:100],
        "expires_s": new.expires_s,
    }
    return await _insert_key(connection, values, now_s)


async def rotate_key(
    connection: AsyncConnection, id: str, *, overlap_s: int, now_s: int
) -> MadeKey:
    """A new token for a key; the one before it ends after the overlap, any older one now.

    The key itself stays, with its limits and its spend.

    Raises:
        NotFound: No such key.
        Conflict: It is not live.
        InvalidParameter: A negative overlap.
    """
    if overlap_s < 0:
        raise InvalidParameter(f"overlap_s {overlap_s} is negative", param="overlap_s")
    key = await get_key(connection, id)
    if not key.live(now_s):
        raise Conflict(f"the key {id} has ended; make a new one")
    token = PREFIX + secrets.token_urlsafe(32)
    await connection.execute(
        update(keys)
        .where(keys.c.id == id)
        .values(
            previous_sha256=keys.c.sha256,
            previous_until_s=now_s + overlap_s,
            sha256=digest(token),
            prefix=token[:_SHOWN_CHARACTERS],
        )
    )
    await bump(connection)
    return MadeKey(await get_key(connection, id), token)


async def revoke_key(connection: AsyncConnection, id: str, *, now_s: int) -> None:
    """End a key now. Raises: NotFound."""
    changed = await connection.execute(
        update(keys).where(keys.c.id == id).values(revoked_s=func.coalesce(keys.c.revoked_s, now_s))
    )
    if not changed.rowcount:
        raise NotFound(f"there is no key {id[:80]!r}")
    await bump(connection)


async def find_key(connection: AsyncConnection, sha256: str) -> Key | None:
    """The key of that token's digest, live or not; of a replaced token, with that one's end.

    A disabled user's key has ended for as long as its user is.
    """
    wanted = or_(keys.c.sha256 == sha256, keys.c.previous_sha256 == sha256)
    query = select(keys, users.c.disabled_s).outerjoin(users, users.c.id == keys.c.user)
    row = (await connection.execute(query.where(wanted))).one_or_none()
    if row is None:
        return None
    key = key_of(row)
    if row.disabled_s is not None:
        key = replace(key, revoked_s=min(row.disabled_s, key.revoked_s or row.disabled_s))
    if row.sha256 == sha256:
        return key
    ends = [at for at in (key.expires_s, row.previous_until_s) if at is not None]
    return replace(key, expires_s=min(ends))


async def get_key(connection: AsyncConnection, id: str) -> Key:
    """Raises: NotFound."""
    row = (await connection.execute(select(keys).where(keys.c.id == id))).one_or_none()
    if row is None:
        raise NotFound(f"there is no key {id[:80]!r}")
    return key_of(row)


async def list_keys(
    connection: AsyncConnection, *, org: str | None = None, team: str | None = None
) -> list[Key]:
    """All keys, an organization's or a team's; the newest first."""
    wanted: list[ColumnElement[bool]] = []
    if org is not None:
        wanted.append(keys.c.org == org)
    if team is not None:
        wanted.append(keys.c.team == team)
    query = select(keys).where(*wanted).order_by(keys.c.created_s.desc(), keys.c.id)
    return [key_of(row) for row in await connection.execute(query)]


async def ensure_default(connection: AsyncConnection, *, now_s: int) -> None:
    """Make the default organization and team where there is no organization yet."""
    await bump(connection)
    if not await connection.scalar(select(func.count()).select_from(orgs)):
        await add_org(connection, DEFAULT, now_s=now_s)
        await add_team(connection, DEFAULT, org=DEFAULT, now_s=now_s)


async def first_start(
    connection: AsyncConnection, *, now_s: int, sha256s: Iterable[str] = ()
) -> MadeKey | None:
    """Make the default organization and team, and one admin key where there is no key at all.

    Args:
        connection: In a write transaction, so that of two replicas one makes it.
        now_s: Unix time.
        sha256s: Digests of keys that an earlier headrace kept in a file; they stay valid, as admin
            keys, and then none is made.

    Returns: The key, to be shown once; None where there are keys.
    """
    await bump(connection)  # a lock on the row: of two replicas the second waits and then sees
    if await connection.scalar(select(func.count()).select_from(keys)):
        return None
    await ensure_default(connection, now_s=now_s)
    owner = {"name": "first", "org": DEFAULT, "team": DEFAULT, "role": RoleName.ADMIN.value}
    kept = list(dict.fromkeys(sha256s))
    for sha256 in kept:
        await connection.execute(
            insert(keys).values(**owner, id=_key_id(), sha256=sha256, created_s=now_s)
        )
    made = None if kept else await _insert_key(connection, owner, now_s)
    await record(
        connection,
        Actor(id="headrace", via="start"),
        "key.make",
        made.key.id if made is not None else f"{len(kept)} keys of keys.json",
        org=DEFAULT,
        team=DEFAULT,
        detail={"role": RoleName.ADMIN.value, "name": "first"},
        now_s=now_s,
    )
    return made


def key_of(row: Row[Any]) -> Key:
    """A row as a `Key`."""
    return Key(
        id=row.id,
        prefix=row.prefix,
        name=row.name,
        org=row.org,
        team=row.team,
        user=row.user,
        role=RoleName(row.role),
        models=_split(row.models),
        routes=_split(row.routes),
        features=_split(row.features),
        data_class=row.data_class,
        created_s=row.created_s,
        expires_s=row.expires_s,
        revoked_s=row.revoked_s,
    )


async def _insert_key(connection: AsyncConnection, values: dict[str, Any], now_s: int) -> MadeKey:
    token = PREFIX + secrets.token_urlsafe(32)
    made = {
        **values,
        "id": _key_id(),
        "sha256": digest(token),
        "prefix": token[:_SHOWN_CHARACTERS],
        "created_s": now_s,
    }
    await connection.execute(insert(keys).values(**made))
    await bump(connection)
    row = (await connection.execute(select(keys).where(keys.c.id == made["id"]))).one()
    return MadeKey(key_of(row), token)


def _key_id() -> str:
    return f"key_{secrets.token_hex(8)}"


async def _add(connection: AsyncConnection, table: Table, what: str, **values: Any) -> None:
    if not _ID.fullmatch(values["id"]):
        raise InvalidParameter(
            f"{what} id {values['id'][:80]!r}: letters, digits and . _ @ + -, at most 100, the "
            "first a letter or digit",
            param="id",
        )
    try:
        async with connection.begin_nested():
            await connection.execute(insert(table).values(**values))
    except IntegrityError:
        raise Conflict(f"there is already a {what} {values['id']!r}", param="id") from None
    await bump(connection)


async def _must_exist(connection: AsyncConnection, table: Table, what: str, id: str) -> Row[Any]:
    row = (await connection.execute(select(table).where(table.c.id == id))).one_or_none()
    if row is None:
        raise NotFound(f"there is no {what} {id[:80]!r}", param=what)
    return row


def _joined(name: str, values: Sequence[str]) -> str:
    for value in values:
        if not value or "," in value or len(value) > 200:
            raise InvalidParameter(
                f"{name}: {value[:80]!r} is empty, longer than 200 or has a comma", param=name
            )
    return ",".join(values)


def _tags(features: Sequence[str]) -> Sequence[str]:
    """Raises: InvalidParameter for one that no request can have: the key would open nothing."""
    for feature in features:
        if not FEATURE.fullmatch(feature):
            raise InvalidParameter(
                f"the feature {feature[:80]!r} can be no request's: it takes up to 64 letters, "
                "digits, dots, dashes and underscores, the first a letter or a digit",
                param="features",
            )
    return features


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()
