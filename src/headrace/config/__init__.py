"""Settings: frozen, typed, from defaults < TOML file < environment < `--set`, each with its origin.

The only room that reads the environment.
"""

from headrace.config.live import LIVE, frozen_changes, is_live, take_over
from headrace.config.places import (
    client_api_key,
    process_environment,
    secret,
    state_dir,
    store_url,
    trace_url,
)
from headrace.config.reading import ENV_PREFIX, as_dict, load, settings_file, with_value
from headrace.config.routes import (
    DataClassSettings,
    EmbeddingRouteSettings,
    ProviderSettings,
    RouteSettings,
    RuleSettings,
)
from headrace.config.settings import (
    AlertSettings,
    BatchSettings,
    CacheSettings,
    EmbeddingSettings,
    EngineSettings,
    FileSettings,
    LogSettings,
    ModelSettings,
    OidcSettings,
    OtlpSettings,
    PathSettings,
    PricingSettings,
    ResponsesSettings,
    RoutingSettings,
    ServerSettings,
    Settings,
    StoreSettings,
    TraceSettings,
)

__all__ = [
    "ENV_PREFIX",
    "LIVE",
    "AlertSettings",
    "BatchSettings",
    "CacheSettings",
    "DataClassSettings",
    "EmbeddingRouteSettings",
    "EmbeddingSettings",
    "EngineSettings",
    "FileSettings",
    "LogSettings",
    "ModelSettings",
    "OidcSettings",
    "OtlpSettings",
    "PathSettings",
    "PricingSettings",
    "ProviderSettings",
    "ResponsesSettings",
    "RouteSettings",
    "RoutingSettings",
    "RuleSettings",
    "ServerSettings",
    "Settings",
    "StoreSettings",
    "TraceSettings",
    "as_dict",
    "client_api_key",
    "frozen_changes",
    "is_live",
    "load",
    "process_environment",
    "secret",
    "settings_file",
    "state_dir",
    "store_url",
    "take_over",
    "trace_url",
    "with_value",
]
