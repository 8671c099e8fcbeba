"""Settings: frozen, typed, from defaults < TOML file < environment < `--set`, each with its origin.

Nothing else in headrace reads the environment. An unknown key is an error, with the nearest known
one named. Keys are dotted (`engine.max_batch_tokens`); in the environment the same key is
`HEADRACE_ENGINE_MAX_BATCH_TOKENS`.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

from headrace.config.settings import Settings
from headrace.config.values import TABLES, coerce, nearest, with_table
from headrace.errors import ConfigError

ENV_PREFIX = "HEADRACE_"


def load(
    *,
    file: Path | None = None,
    sets: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Build the settings of this process.

    Args:
        file: TOML file; None = `headrace.toml` in the working directory where there is one.
        sets: `key=value` strings of `--set`, the last word.
        environ: The environment; None = this process's.

    Raises:
        ConfigError: An unknown key, a value of the wrong type, or an unreadable file.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, tuple[object, str]] = {}
    path = file if file is not None else Path("headrace.toml")
    if file is not None or path.is_file():
        values.update({key: (value, str(path)) for key, value in _read_toml(path)})
    known = flat(Settings())
    by_env = {ENV_PREFIX + key.replace(".", "_").upper(): key for key in known}
    values.update(_standard(environ))
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        if name not in by_env:
            raise ConfigError(
                f"environment variable {name} is not a setting{nearest(name, by_env)}"
            )
        values[by_env[name]] = (text, name)
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"--set {item!r} has no '='; write key=value")
        values[key.strip()] = (text, "--set")
    settings = Settings()
    for key, (value, origin) in values.items():
        settings = with_value(settings, key, value, origin=origin)
    return settings


def _standard(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    """What OpenTelemetry's own environment variables say; ours stand above them."""
    found: dict[str, tuple[object, str]] = {}
    for name, key in (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp.endpoint"),
        ("OTEL_SERVICE_NAME", "otlp.service"),
    ):
        if environ.get(name):
            found[key] = (environ[name], name)
    if environ.get("OTEL_EXPORTER_OTLP_HEADERS"):
        name = "OTEL_EXPORTER_OTLP_HEADERS"
        found["otlp.headers"] = (f"env:{name}", name)
    name = "OTEL_SEMCONV_STABILITY_OPT_IN"
    if "gen_ai_latest_experimental" in environ.get(name, "").replace(" ", "").split(","):
        found["otlp.names"] = ("latest", name)
    return found


def with_value(settings: Settings, key: str, value: object, *, origin: str) -> Settings:
    """The settings with one dotted key replaced; strings are parsed to the key's type."""
    section, _, name = key.partition(".")
    if section in TABLES:
        return with_table(settings, section, name, value, origin)
    known = flat(settings)
    if key not in known:
        raise ConfigError(f"{origin}: unknown setting {key!r}{nearest(key, known)}")
    part = getattr(settings, section)
    kind = get_type_hints(type(part))[name]
    changed = replace(part, **{name: coerce(key, value, kind, origin)})
    return replace(settings, **{section: changed}, origins={**settings.origins, key: origin})


def settings_file(file: Path | None = None) -> Path:
    """The TOML file that `load` reads, whether or not it exists."""
    return (file if file is not None else Path("headrace.toml")).absolute()


def as_dict(settings: Settings) -> dict[str, object]:
    """Dotted key -> value, for `--json` and `/explain`."""
    tables = {
        f"{section}.{name}.{item.name}": getattr(entry, item.name)
        for section in TABLES
        for name, entry in getattr(settings, section).items()
        for item in fields(entry)
    }
    return flat(settings) | tables


def _read_toml(path: Path) -> list[tuple[str, object]]:
    try:
        with path.open("rb") as stream:
            tree = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    flat: list[tuple[str, object]] = []
    for section, table in tree.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path}: {section!r} is not in a section; write [server] or [engine]"
            )
        flat += [(f"{section}.{name}", value) for name, value in table.items()]
    return flat


def flat(settings: Settings) -> dict[str, object]:
    return {
        f"{section.name}.{item.name}": getattr(getattr(settings, section.name), item.name)
        for section in fields(settings)
        if is_dataclass(getattr(settings, section.name))
        for item in fields(getattr(settings, section.name))
    }
