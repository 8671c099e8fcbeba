"""A request → the name of its answer, or why it has none.

Two requests have one name only where the organization, the team, the data classes, the route, its
configuration, the models' releases, the retrieval snapshot and every field that shapes an answer
are the same. Fields are taken from `ChatRequest` itself, so one that is added to it counts from
then on.
"""

import hashlib
from dataclasses import dataclass, fields

import msgspec

from headrace.types import ChatRequest

_NO_PART = frozenset({"model", "caller", "trace", "trail", "deadline_s"})
"""Who asks counts as organization, team and classes, the model as route, release and target."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What a name covers beside the request."""

    route: str
    target: str
    """Which of the route's backends answers, as its rules decided."""
    release: str
    """Hash of all models that may answer."""
    version: str
    """Of the routing configuration."""
    snapshot: str = ""
    """Of the documents that retrieval may add; it changes whenever a source is refreshed."""


def answer_id(request: ChatRequest, scope: Scope) -> str:
    """The name: 256 bits, in hex."""
    caller = request.caller
    shaping = {
        item.name: msgspec.to_builtins(getattr(request, item.name), order="sorted")
        for item in fields(request)
        if item.name not in _NO_PART
    }
    spelled = msgspec.json.encode(
        {
            "org": caller.org,
            "team": caller.team,
            "tenant": caller.tenant,
            "classes": sorted(caller.data_classes),
            "scope": msgspec.to_builtins(scope),
            "request": shaping,
        },
        order="sorted",
    )
    return hashlib.sha256(spelled).hexdigest()


def why_not(request: ChatRequest, *, any_sampling: bool) -> str:
    """Why a request's answer is not kept; empty = it may be.

    A client that sets no temperature and no seed asks for chance, and gets it: only temperature 0
    or a seed says that the same answer will do, unless the operator says so for the route.
    """
    sampling = request.sampling
    if any_sampling or sampling.temperature == 0 or sampling.seed is not None:
        return ""
    return f"temperature is {sampling.temperature:g} and there is no seed"
