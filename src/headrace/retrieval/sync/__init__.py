"""Sources → an index that says what they say now: only what changed is read, cut and embedded."""

from headrace.retrieval.sync.freshness import Freshness
from headrace.retrieval.sync.state import Outcome, Status, SyncState
from headrace.retrieval.sync.syncer import (
    Handed,
    Listener,
    Progress,
    Syncer,
    SyncReport,
    SyncSettings,
)

__all__ = [
    "Freshness",
    "Handed",
    "Listener",
    "Outcome",
    "Progress",
    "Status",
    "SyncReport",
    "SyncSettings",
    "SyncState",
    "Syncer",
]
