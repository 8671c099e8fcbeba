"""Where state lies, and the secrets and variables that only the environment has."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace.config.settings import Settings
from headrace.errors import ConfigError


def secret(reference: str, environ: Mapping[str, str] | None = None) -> Callable[[], str]:
    """The value that `env:NAME` or `file:PATH` stands for, now and whenever it is asked for.

    Raises:
        ConfigError: Another kind of reference (a key in a config file is a key in a backup), or
            nothing is there.
    """
    environ = os.environ if environ is None else environ
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = environ.get(where, "").strip()
        if not value:
            raise ConfigError(f"the environment variable {where} is not set; a key is read from it")
        return lambda: value
    if kind == "file":
        file = _SecretFile(Path(where).expanduser())
        file()
        return file
    raise ConfigError("a key must be written as env:NAME or file:PATH, never itself")


class _SecretFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = (0, 0)
        self._value = ""

    def __call__(self) -> str:
        try:
            found = self._path.stat()
            if (found.st_mtime_ns, found.st_ino) != self._read_at:
                self._value = self._path.read_text(encoding="utf-8").strip()
                self._read_at = (found.st_mtime_ns, found.st_ino)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read a key from {self._path}: {error}") from error
        if not self._value:
            raise ConfigError(f"{self._path} is empty; a key is read from it")
        return self._value


def state_dir(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Where this user's headrace keeps what must outlive the process; not created here."""
    environ = os.environ if environ is None else environ
    if settings.paths.state_dir:
        return Path(settings.paths.state_dir).expanduser()
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "headrace"


def index_dir(settings: Settings) -> Path:
    """Where indexes lie; not created here."""
    given = settings.retrieval.directory
    return Path(given).expanduser() if given else state_dir(settings) / "indexes"


def index_url(settings: Settings) -> str:
    """Of the PostgreSQL that keeps the indexes; empty = they are files in `index_dir`.

    Raises: ConfigError.
    """
    chosen = settings.retrieval
    if chosen.home not in ("", "files", "postgres"):
        raise ConfigError(
            f'retrieval.home = {chosen.home!r} is not known; write "files" or "postgres"'
        )
    if chosen.connections < 1:
        raise ConfigError(f"retrieval.connections = {chosen.connections} must be 1 or more")
    if chosen.home == "files":
        if chosen.url:
            raise ConfigError('retrieval.url has no effect with retrieval.home = "files"')
        return ""
    url = chosen.url or settings.store.url
    if url.startswith(("postgresql", "postgres:")):
        return url
    if chosen.url:
        raise ConfigError("retrieval.url is of no PostgreSQL; write postgresql://USER@HOST/NAME")
    if chosen.home:
        raise ConfigError(
            'retrieval.home = "postgres" needs one: set retrieval.url, or store.url, to '
            "postgresql://USER@HOST/NAME"
        )
    return ""


def store_url(settings: Settings) -> str:
    """Where keys, limits and the ledger are."""
    return settings.store.url or f"sqlite:///{state_dir(settings).absolute() / 'headrace.db'}"


def trace_url(settings: Settings) -> str:
    """Where traces are. Apart from an SQLite store, so that rewriting one file, which deleting for
    good needs, never waits for money's, nor money for it."""
    if settings.traces.url:
        return settings.traces.url
    url = store_url(settings)
    scheme, separator, path = url.partition(":///")
    if not separator or not scheme.startswith("sqlite"):
        return url
    return f"{scheme}:///{Path(path).with_name('traces.db')}"


def process_environment(**extra: str) -> dict[str, str]:
    """This process's environment with `extra` set, for a child process."""
    return {**os.environ, **extra}


def client_api_key(environ: Mapping[str, str] | None = None) -> str | None:
    """The key that client commands send where `--key` is not given: $OPENAI_API_KEY."""
    environ = os.environ if environ is None else environ
    return environ.get("OPENAI_API_KEY") or None
