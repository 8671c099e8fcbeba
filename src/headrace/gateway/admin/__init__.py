"""The control plane, /v1/admin over Starlette: a caller's role says what it may see and change.

    GET  /v1/admin/whoami
    GET, POST  /v1/admin/orgs          admin
    GET, POST  /v1/admin/teams         admin, or an organization's own
    GET, POST  /v1/admin/users         ... or a team's own
    PATCH      /v1/admin/users/{id}    {"role", "team", "name", "disabled"}
    GET        /v1/admin/sessions      of people who are logged in
    DELETE     /v1/admin/sessions/{id}
    GET, POST  /v1/admin/keys          the token is in the answer to POST, once
    POST       /v1/admin/keys/{id}/rotate    {"overlap_s": 86400}
    DELETE     /v1/admin/keys/{id}
    GET, POST  /v1/admin/limits        a caller sees those that bind it; only above it are they set
    DELETE     /v1/admin/limits/{id}
    GET        /v1/admin/spend         ?by=team,model&since_s=&until_s=; a member sees its own key's
    GET        /v1/admin/audit         who changed what; ?actor=&action=&subject=&since_s=&before=
    GET        /v1/admin/ledger/verify admin
    GET        /v1/admin/config        admin: how the last reading of the settings went
    GET, DELETE  /v1/admin/traces      ?team=&end_user=&id=&since_s=...; deleted to the last byte
    DELETE     /v1/admin/texts         ... with stored responses, kept answers; files=1: files too
    GET, POST  /v1/admin/traces/policies   content_ppm and retention_days of an org or a team

Invariant: what is another's answers as what does not exist: a key learns no ids beyond its reach.
Nobody gives a higher role than its own, and every change is in the audit log.
"""

from headrace.gateway.admin.serve import build
from headrace.gateway.admin.table import PREFIX

__all__ = ["PREFIX", "build"]
