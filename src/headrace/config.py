"""Settings: frozen, typed, from defaults < TOML file < environment < `--set`, each with its origin.

Nothing else in headrace reads the environment. An unknown key is an error, with the nearest known
one named. Keys are dotted (`engine.max_batch_tokens`); in the environment the same key is
`HEADRACE_ENGINE_MAX_BATCH_TOKENS`.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from headrace.errors import ConfigError

ENV_PREFIX = "HEADRACE_"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    host: str = "127.0.0.1"
    port: int = 8080
    auth: bool = True
    """False only where `host` is a loopback address."""
    max_body_bytes: int = 32 << 20
    drain_s: float = 30.0
    """On SIGTERM, how long running requests may take to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    path: str = ""
    """Checkpoint directory or hub id; empty = the bundled sprout."""
    name: str = ""
    """The name clients use; empty = the directory's or id's own."""
    dtype: str = "auto"
    """auto | float32 | bfloat16 | float16; auto = the checkpoint's, float32 for sprout."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N."""
    quantization: str = "none"
    """none | int8 | int4: round a full-precision checkpoint's weights while it is loaded;
    `headrace quantize` does it better, once."""
    quantization_group: int = 32
    """Weights that share a scale: 32, 64 or 128."""
    chat_template: str = ""
    """A Jinja file used instead of the checkpoint's own."""
    context_tokens: int = 0
    """0 = what the checkpoint says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    kernels: str = "auto"
    """auto | native | torch; auto = native on a CPU that has them, for bfloat16 and quantized
    weights; Triton and CUDA graphs on a GPU. `headrace doctor` says which run."""
    block_tokens: int = 32
    """Tokens a KV block holds; a power of two, with native kernels at least 16."""
    kv_dtype: str = "auto"
    """auto | bfloat16 | int8; auto = bfloat16 with native kernels, else the model's own."""
    kv_cache_bytes: int = 0
    """0 = a quarter of the free memory, at least one full context."""
    max_batch_tokens: int = 512
    """Tokens one step may run: the budget that decode and chunked prefill share."""
    mixed_prefill_tokens: int = 0
    """Prompt tokens a step may run beside sequences that are decoding: it bounds how long their
    next tokens wait for others' prompts. 0 = 64 on a CPU, no bound on a GPU."""
    max_running: int = 128
    """Sequences in the batch."""
    max_queued_requests: int = 1024
    max_queued_tokens: int = 4_000_000
    """Prompt tokens waiting; past it new requests get 429 with Retry-After."""
    prefix_cache: bool = True
    threads: int = 0
    """Compute threads; 0 = one per physical core."""
    step_timeout_s: float = 300.0
    """A step that takes longer means a hung worker: it is killed and restarted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    url: str = ""
    """sqlite:///PATH or postgresql://USER@HOST/NAME; empty = headrace.db in the state directory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PathSettings:
    state_dir: str = ""
    """API keys and other state; empty = $XDG_STATE_HOME/headrace or ~/.local/state/headrace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    paths: PathSettings = PathSettings()
    store: StoreSettings = StoreSettings()
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    """Dotted key -> where its value came from; a key that is absent has its default."""


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
    known = _keys(Settings())
    by_env = {ENV_PREFIX + key.replace(".", "_").upper(): key for key in known}
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        if name not in by_env:
            raise ConfigError(
                f"environment variable {name} is not a setting{_nearest(name, by_env)}"
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


def with_value(settings: Settings, key: str, value: object, *, origin: str) -> Settings:
    """The settings with one dotted key replaced; strings are parsed to the key's type."""
    known = _keys(settings)
    if key not in known:
        raise ConfigError(f"{origin}: unknown setting {key!r}{_nearest(key, known)}")
    section, name = key.split(".")
    part = getattr(settings, section)
    kind = get_type_hints(type(part))[name]
    changed = replace(part, **{name: _coerce(key, value, kind, origin)})
    return replace(settings, **{section: changed}, origins={**settings.origins, key: origin})


def as_dict(settings: Settings) -> dict[str, object]:
    """Dotted key -> value, for `--json` and `/explain`."""
    return _keys(settings)


def state_dir(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Where this user's headrace keeps what must outlive the process; not created here."""
    environ = os.environ if environ is None else environ
    if settings.paths.state_dir:
        return Path(settings.paths.state_dir).expanduser()
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "headrace"


def store_url(settings: Settings) -> str:
    """Where keys, limits and the ledger are."""
    return settings.store.url or f"sqlite:///{state_dir(settings).absolute() / 'headrace.db'}"


def process_environment(**extra: str) -> dict[str, str]:
    """This process's environment with `extra` set, for a child process."""
    return {**os.environ, **extra}


def client_api_key(environ: Mapping[str, str] | None = None) -> str | None:
    """The key that client commands send where `--key` is not given: $OPENAI_API_KEY."""
    environ = os.environ if environ is None else environ
    return environ.get("OPENAI_API_KEY") or None


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


def _keys(settings: Settings) -> dict[str, object]:
    return {
        f"{section.name}.{item.name}": getattr(getattr(settings, section.name), item.name)
        for section in fields(settings)
        if is_dataclass(getattr(settings, section.name))
        for item in fields(getattr(settings, section.name))
    }


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _coerce(key: str, value: object, kind: Any, origin: str) -> object:
    if get_origin(kind) is not None:  # pragma: no cover - no setting has such a type today
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
