"""Settings of a source → the source."""

import base64
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from headrace.config import SourceSettings, secret
from headrace.errors import ConfigError
from headrace.retrieval.sources import S3, Access, Directory, Rule, Source, Urls

_TAKES: Mapping[str, frozenset[str]] = {
    "directory": frozenset({"path", "include", "exclude"}),
    "urls": frozenset({"path"}),
    "s3": frozenset({"url", "bucket", "prefix", "region", "include", "exclude"}),
}
_WHSEC = "whsec_"
_LEAST_BYTES = 24
"""As Standard Webhooks asks for."""
_OF_ALL = frozenset({"kind", "readers", "fresh_s", "secret"})


def check_source(name: str, source: SourceSettings, *, key: str) -> None:
    """Raises: ConfigError: A kind that is not known, or a setting that is another kind's."""
    if source.kind not in _TAKES:
        raise ConfigError(
            f"{key}.kind = {source.kind!r} is not a kind of source; take {', '.join(_TAKES)}"
        )
    for field in ("path", "include", "exclude", "url", "bucket", "prefix", "region"):
        if getattr(source, field) and field not in _TAKES[source.kind] | _OF_ALL:
            raise ConfigError(f"{key}.{field} has no effect on a source of kind {source.kind}")
    needed = "bucket" if source.kind == "s3" else "path"
    if not getattr(source, needed):
        raise ConfigError(f"{key}.{needed} is missing; a source of kind {source.kind} needs it")


def signing_secret(source: SourceSettings, *, key: str) -> bytes:
    """With which a source's deliveries are signed, as it is now.

    Raises: ConfigError: It is not there, or too short to sign with.
    """
    try:
        text = secret(source.secret)()
    except ConfigError as error:
        raise ConfigError(f"{key}.secret: {error.message}") from None
    made = text.encode()
    if text.startswith(_WHSEC):
        try:
            made = base64.b64decode(text.removeprefix(_WHSEC), validate=True)
        except ValueError:
            raise ConfigError(f"{key}.secret: what follows {_WHSEC} is no base64") from None
    if len(made) < _LEAST_BYTES:
        raise ConfigError(
            f"{key}.secret has {len(made)} bytes; take {_LEAST_BYTES} or more, as of openssl rand "
            "-base64 32"
        )
    return made


@asynccontextmanager
async def opened(name: str, source: SourceSettings) -> AsyncGenerator[Source]:
    """The source, closed in the end. Raises: ConfigError."""
    check_source(name, source, key=f"sources.{name}")
    rules = [Rule(pattern="*", readers=frozenset(source.readers))] if source.readers else []
    made = _MAKERS[source.kind](name, source, Access(rules=rules))
    try:
        yield made
    finally:
        close = getattr(made, "close", None)
        if close is not None:
            await close()


def _directory(name: str, source: SourceSettings, access: Access) -> Source:
    return Directory(
        name,
        Path(source.path).expanduser(),
        include=source.include or ("*",),
        exclude=source.exclude,
        access=access,
    )


def _urls(name: str, source: SourceSettings, access: Access) -> Source:
    path = Path(source.path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"source {name}: cannot read {path}: {error}") from error
    urls = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return Urls(name, urls, access=access)


def _s3(name: str, source: SourceSettings, access: Access) -> Source:
    return S3(
        name,
        source.bucket,
        prefix=source.prefix,
        endpoint=source.url,
        region=source.region or "us-east-1",
        include=source.include or ("*",),
        exclude=source.exclude,
        access=access,
    )


_MAKERS: Mapping[str, Callable[[str, SourceSettings, Access], Source]] = {
    "directory": _directory,
    "urls": _urls,
    "s3": _s3,
}
