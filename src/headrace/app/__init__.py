"""The composition root: settings become objects here, and only here does a room meet its users.

The only room with lazy imports: a command pays for what it uses, `headrace --help` for nothing.
"""

from headrace.app.house import SettingsSource
from headrace.app.indexes import index_errand, open_library
from headrace.app.local import (
    OfflineEngine,
    Opened,
    offline_engine,
    open_backend,
    open_embedder,
    rollout_engine,
)
from headrace.app.models import check, explain_route
from headrace.app.paths import (
    MINILM,
    NO_MODEL,
    bundled_model,
    embedding_name,
    embedding_path,
    model_name,
    model_path,
    named_models,
)
from headrace.app.serving import serve
from headrace.app.stores import TraceStores, open_store, open_trace_stores

__all__ = [
    "MINILM",
    "NO_MODEL",
    "OfflineEngine",
    "Opened",
    "SettingsSource",
    "TraceStores",
    "bundled_model",
    "check",
    "embedding_name",
    "embedding_path",
    "explain_route",
    "index_errand",
    "model_name",
    "model_path",
    "named_models",
    "offline_engine",
    "open_backend",
    "open_embedder",
    "open_library",
    "open_store",
    "open_trace_stores",
    "rollout_engine",
    "serve",
]
