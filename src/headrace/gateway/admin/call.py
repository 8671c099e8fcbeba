"""One request to the control plane on its way: who asks, with what, and how far its role reaches.

Invariant: what is another's answers as what does not exist: a key learns no ids beyond its reach.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request

from headrace.errors import InvalidParameter, NotFound, PermissionDenied
from headrace.gateway.reload import ConfigState
from headrace.store import identity
from headrace.store.database import Database
from headrace.store.identity import Key, RoleName
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
        config: ConfigState | None = None,
    ) -> None:
        self.config = config
        """How the last reading of the settings went; None = nobody follows them."""
        self.database = database
        self.caller = caller
        self.request = request
        self._body = body
        self.now_s = int(time.time())

    def body(self, kind: type[T]) -> T:
        """The body as a structure. Raises: InvalidParameter."""
        try:
            return msgspec.json.decode(self._body or b"{}", type=kind)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f"the body: {error}") from None

    def need(self, role: RoleName) -> None:
        """Raises: PermissionDenied for a key of a lower role."""
        if RANK.get(self.caller.role, -1) < RANK[role.value]:
            raise PermissionDenied(
                f"the key {self.caller.key_id} has the role {self.caller.role or 'none'}; this "
                f"needs {role.value}"
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
    low = RANK[key.role.value] <= RANK.get(call.caller.role, -1)
    if not (low and call.reaches(key.org, key.team)):
        raise NotFound(f"there is no key {id[:80]!r}")
    return key
