"""Every route of the control plane: method, path, handler; tests enumerate it.

A handler that changes anything writes what it did into the audit log, in the same transaction.
"""

from dataclasses import dataclass

from headrace.gateway.admin import keys, money, operations, people, texts, traces, watch
from headrace.gateway.admin.call import Handler

PREFIX = "/v1/admin/"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdminRoute:
    """One method of one path."""

    method: str
    path: str
    """Starlette's template, below `PREFIX`."""
    handler: Handler


def _route(method: str, path: str, handler: Handler) -> AdminRoute:
    return AdminRoute(method=method, path=path, handler=handler)


TABLE: tuple[AdminRoute, ...] = (
    _route("GET", "whoami", people.whoami),
    _route("GET", "orgs", people.list_orgs),
    _route("POST", "orgs", people.add_org),
    _route("GET", "teams", people.list_teams),
    _route("POST", "teams", people.add_team),
    _route("GET", "users", people.list_users),
    _route("POST", "users", people.add_user),
    _route("PATCH", "users/{id}", people.change_user),
    _route("GET", "sessions", watch.list_sessions),
    _route("DELETE", "sessions/{id}", watch.end_session),
    _route("GET", "keys", keys.list_keys),
    _route("POST", "keys", keys.make_key),
    _route("POST", "keys/{id}/rotate", keys.rotate_key),
    _route("DELETE", "keys/{id}", keys.revoke_key),
    _route("GET", "limits", money.list_limits),
    _route("POST", "limits", money.set_limit),
    _route("DELETE", "limits/{id:int}", money.remove_limit),
    _route("GET", "spend", money.show_spend),
    _route("GET", "spend/focus", money.focus_spend),
    _route("GET", "forecast", money.forecast_limits),
    _route("GET", "audit", watch.read_audit),
    _route("GET", "ledger/verify", money.verify_ledger),
    _route("GET", "config", operations.show_config),
    _route("GET", "traces", traces.list_traces),
    _route("DELETE", "traces", traces.delete_traces),
    _route("DELETE", "texts", texts.delete_texts),
    _route("GET", "traces/policies", traces.list_policies),
    _route("POST", "traces/policies", traces.set_policy),
)
