"""What TOML, the environment or `--set` say → a setting's own type, or an error that names it."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any, cast, get_args, get_origin, get_type_hints

from headrace.config.indexes import IndexSettings
from headrace.config.routes import (
    DataClassSettings,
    EmbeddingRouteSettings,
    ProviderSettings,
    RouteSettings,
    RuleSettings,
)
from headrace.config.settings import Settings
from headrace.errors import ConfigError

TABLES: Mapping[str, type[Any]] = {
    "providers": ProviderSettings,
    "routes": RouteSettings,
    "embedding_routes": EmbeddingRouteSettings,
    "data_classes": DataClassSettings,
    "indexes": IndexSettings,
}


def with_table(settings: Settings, section: str, name: str, value: object, origin: str) -> Settings:
    """The settings with one named table."""
    kind = TABLES[section]
    if not isinstance(value, dict):
        raise ConfigError(f"{origin}: {section}.{name} is no table; write [{section}.NAME] in TOML")
    made = table_of(kind, f"{section}.{name}", cast("dict[str, object]", value), origin)
    entries = {**getattr(settings, section), name: kind(**made)}
    origins = {**settings.origins, **{f"{section}.{name}.{item}": origin for item in made}}
    return replace(settings, **{section: entries}, origins=origins)


def table_of(
    kind: type[Any], key: str, values: Mapping[str, object], origin: str
) -> dict[str, Any]:
    """The fields of a table, each of its type."""
    hints = get_type_hints(kind)
    made: dict[str, Any] = {}
    for item, found in values.items():
        if item not in hints:
            raise ConfigError(
                f"{origin}: unknown setting {f'{key}.{item}'!r}{nearest(item, hints)}"
            )
        wanted = hints[item]
        if get_origin(wanted) is Mapping:
            made[item] = _tables_of(get_args(wanted)[1], f"{key}.{item}", found, origin)
        elif isinstance(wanted, type) and is_dataclass(wanted):
            inner = _table(f"{key}.{item}", found, origin)
            made[item] = wanted(**table_of(wanted, f"{key}.{item}", inner, origin))
        elif get_origin(wanted) is tuple:
            made[item] = list_of(get_args(wanted)[0], f"{key}.{item}", found, origin)
        else:
            made[item] = coerce(f"{key}.{item}", found, wanted, origin)
    return made


def _tables_of(kind: type[Any], key: str, found: object, origin: str) -> dict[str, Any]:
    """Named tables within a table."""
    return {
        name: kind(
            **table_of(kind, f"{key}.{name}", _table(f"{key}.{name}", inner, origin), origin)
        )
        for name, inner in _table(key, found, origin).items()
    }


def _table(key: str, found: object, origin: str) -> dict[str, object]:
    if not isinstance(found, dict):
        raise ConfigError(f"{origin}: {key} = {found!r} is no table; write [{key}] in TOML")
    return cast("dict[str, object]", found)


_LISTS = {str: "strings", float: "numbers", RuleSettings: "tables; write [[routes.NAME.rules]]"}


def list_of(kind: type[Any], key: str, found: object, origin: str) -> tuple[Any, ...]:
    """The items of an array, each of its type."""
    wrong = ConfigError(f"{origin}: {key} = {found!r} is not a list of {_LISTS[kind]}")
    if not isinstance(found, list):
        raise wrong
    made: list[Any] = []
    for at, item in enumerate(cast("list[object]", found)):
        if kind is RuleSettings and isinstance(item, dict):
            fields_of = cast("dict[str, object]", item)
            made.append(RuleSettings(**table_of(kind, f"{key}[{at}]", fields_of, origin)))
        elif kind is float and isinstance(item, int | float) and not isinstance(item, bool):
            made.append(float(item))
        elif kind is str and isinstance(item, str):
            made.append(item)
        else:
            raise wrong
    return tuple(made)


def nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def texts(key: str, value: object, origin: str) -> tuple[str, ...]:
    """A list of TOML, or text with commas of the environment or `--set`."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return list_of(str, key, value, origin)


def coerce(key: str, value: object, kind: Any, origin: str) -> object:
    if get_origin(kind) is tuple:
        return texts(key, value, origin)
    if get_origin(kind) is not None:  # `bool | None`
        kind = get_args(kind)[0]
    wrong = ConfigError(f"{origin}: {key} = {value!r} is not a {kind.__name__}")
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _BOOLS:
            return _BOOLS[value.lower()]
        raise wrong
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong
    if kind is str:
        if not isinstance(value, str):
            raise wrong
        return value
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        raise wrong from None
    if kind is int and isinstance(value, float) and value != number:
        raise wrong
    return number
