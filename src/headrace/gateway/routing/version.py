"""The routing configuration → its content hash, which every decision names."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from headrace.config import Settings

_SHOWN = 12


def config_version(settings: Settings, classifiers: Mapping[str, str] | None = None) -> str:
    """Hash of all that decides where a request goes.

    Args:
        settings: Routes, rules, data classes and providers; secrets are only references.
        classifiers: Route -> hash of its classifier's files.
    """
    spelled = json.dumps(
        {
            "routes": {name: asdict(route) for name, route in settings.routes.items()},
            "providers": {name: asdict(item) for name, item in settings.providers.items()},
            "data_classes": {name: asdict(item) for name, item in settings.data_classes.items()},
            "routing": asdict(settings.routing),
            "classifiers": dict(classifiers or {}),
        },
        sort_keys=True,
    )
    return hashlib.sha256(spelled.encode()).hexdigest()[:_SHOWN]
