"""One request to the control plane on its way: who asks, with what, and how far its role reaches.

Invariant: what is another's answers as what does not exist: a key learns no ids beyond its reach.
"""

import difflib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request

from headrace.errors import InvalidParameter, NotFound, PermissionDenied
from headrace.gateway.erasure import Erasure
from headrace.gateway.reload import ConfigState
from headrace.gateway.traces import Traces
from headrace.store import identity
from headrace.store.audit import Actor, record
from headrace.store.database import Database
from headrace.store.identity import Key, RoleName
from headrace.store.people import Person, get_person
from headrace.types import Caller

RANK = {role.value: at for at, role in enumerate(reversed(RoleName))}
"""Of a role: the higher may what the lower may."""
T = TypeVar("T")
Handler: TypeAlias = Callable[["Call"], Awaitable[Any]]


class Call:
    """One request on its way: who, with what, and the database."""

    def __init__(
        self,
        database: Database,
        caller: Caller,
        request: Request,
        body: bytes,
        *,
        id: str,
        config: ConfigState | None = None,
        traces: Traces | None = None,
        served: Collection[str] | None = None,
        erasure: Erasure | None = None,
    ) -> None:
        self.erasure = erasure
        """None = this service has nothing to delete texts from."""
        self._served = served
        self.traces = traces
        """None = none are kept."""
        self.config = config
        """How the last reading of the settings went; None = nobody follows them."""
        self.database = database
        self.caller = caller
        self.request = request
        self.id = id
        self._body = body
        self.now_s = int(time.time())

    @property
    def who(self) -> str:
        """The caller, in messages."""
        caller = self.caller
        return f"the user {caller.user}" if caller.person else f"the key {caller.key_id}"

    async def audit(
        self,
        connection: AsyncConnection,
        action: str,
        subject: str,
        *,
        org: str = "",
        team: str = "",
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Write into the audit log what this call changes, in the transaction of the change.

        Args:
            connection: Of that transaction.
            action: As `key.revoke`.
            subject: What is changed.
            org: Whose it is: its administrators see the entry. So for the next.
            team: Empty = no team's.
            detail: What it is changed to; never a secret.
        """
        caller = self.caller
        actor = Actor(
            id=caller.user if caller.person else caller.key_id,
            role=caller.role,
            via="api",
            request=self.id,
        )
        await record(
            connection,
            actor,
            action,
            subject,
            org=org,
            team=team,
            detail=detail,
            now_s=self.now_s,
        )

    def whole(self, name: str, default: int, *, most: int = 1 << 52) -> int:
        """A whole number of the query. Raises: InvalidParameter."""
        text = self.request.query_params.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 16 or int(text) > most:
            raise InvalidParameter(
                f"{name} is {text[:40]!r}; it takes a whole number up to {most}", param=name
            )
        return int(text)

    def body(self, kind: type[T]) -> T:
        """The body as a structure. Raises: InvalidParameter."""
        try:
            return msgspec.json.decode(self._body or b"{}", type=kind)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"the body: {error}") from None

    def check_served(self, models: Iterable[str]) -> None:
        """Raises: InvalidParameter for a model that is not served now."""
        for name in models:
            if self._served is None or name in self._served:
                continue
            near = difflib.get_close_matches(name, self._served, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            there = ", ".join(sorted(self._served)[:20]) or "none"
            raise InvalidParameter(
                f"the model {name[:80]!r} is not served{meant} (served: {there}); "
                'for one that is to come say "unserved": true',
                param="models",
            )

    def need(self, role: RoleName) -> None:
        """Raises: PermissionDenied for a key of a lower role."""
        if RANK.get(self.caller.role, -1) < RANK[role.value]:
            raise PermissionDenied(
                f"{self.who} has the role {self.caller.role or 'none'}; this needs {role.value}"
            )

    def reaches(self, org: str, team: str) -> bool:
        """Whether a team is the caller's to administer."""
        match self.caller.role:
            case RoleName.ADMIN:
                return True
            case RoleName.ORG_ADMIN:
                return org == self.caller.org
            case RoleName.TEAM_ADMIN:
                return team == self.caller.team
            case _:
                return False

    @property
    def org(self) -> str | None:
        """What lists are confined to; None = nothing."""
        return None if self.caller.role == RoleName.ADMIN else self.caller.org

    @property
    def team(self) -> str | None:
        wide = (RoleName.ADMIN, RoleName.ORG_ADMIN)
        return None if self.caller.role in wide else self.caller.team


async def reach_team(call: Call, connection: AsyncConnection, team: str) -> str:
    """A team's organization. Raises: NotFound also where the team is another's."""
    org = await identity.org_of(connection, team)
    if not call.reaches(org, team):
        raise NotFound(f"there is no team {team[:80]!r}", param="team")
    return org


async def reach_key(call: Call, connection: AsyncConnection) -> Key:
    """The key that the path names. Raises: NotFound also where it is another's, or higher."""
    id = str(call.request.path_params["id"])
    key = await identity.get_key(connection, id)
    if not (outranks(call, key.role) and call.reaches(key.org, key.team)):
        raise NotFound(f"there is no key {id[:80]!r}")
    return key


async def reach_person(call: Call, connection: AsyncConnection, id: str) -> Person:
    """A user. Raises: NotFound also where it is another's, or higher."""
    person = await get_person(connection, id)
    if not (outranks(call, person.role) and call.reaches(person.org, person.team)):
        raise NotFound(f"there is no user {id[:80]!r}")
    return person


def outranks(call: Call, role: RoleName) -> bool:
    """Whether a role is the caller's or lower."""
    return RANK[role.value] <= RANK.get(call.caller.role, -1)
