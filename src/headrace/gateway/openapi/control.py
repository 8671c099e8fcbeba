"""The control plane's bodies and queries: structures as its handlers read them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.gateway.admin import keys, money, people, texts, traces
from headrace.gateway.openapi.shapes import TEXT, Shape, whole

_TIME = whole(0, 1 << 52)
BODIES: Mapping[tuple[str, str], type[Any]] = {
    ("POST", "orgs"): people.OrgBody,
    ("POST", "teams"): people.TeamBody,
    ("POST", "users"): people.UserBody,
    ("PATCH", "users/{id}"): people.UserChange,
    ("POST", "keys"): keys.KeyBody,
    ("POST", "keys/{id}/rotate"): keys.RotateBody,
    ("POST", "limits"): money.LimitBody,
    ("POST", "traces/policies"): traces.PolicyBody,
}
_FILTERS: Mapping[str, Shape] = {
    **dict.fromkeys(traces.TEXTS, TEXT),
    "status": whole(0, 599),
    "since_s": _TIME,
    "until_s": _TIME,
}
QUERIES: Mapping[tuple[str, str], Mapping[str, Shape]] = {
    ("GET", "spend"): {"by": TEXT, "since_s": _TIME, "until_s": _TIME},
    ("GET", "traces"): {
        **_FILTERS,
        "failed": whole(0, 1),
        "limit": whole(0, 1000),
        "before_s": _TIME,
        "before_id": TEXT,
    },
    ("DELETE", "traces"): _FILTERS,
    ("DELETE", "texts"): {
        **{name: _FILTERS[name] for name in texts.FILTERS},
        "files": whole(0, 1),
    },
    ("GET", "audit"): {
        "actor": TEXT,
        "action": TEXT,
        "subject": TEXT,
        "since_s": _TIME,
        "until_s": _TIME,
        "before": _TIME,
        "limit": whole(0, 1000),
    },
}


def components() -> dict[str, Shape]:
    """The schema of each body, by the structure's name."""
    _, found = msgspec.json.schema_components(
        list(BODIES.values()), ref_template="#/components/schemas/{name}"
    )
    return found
