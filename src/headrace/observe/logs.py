"""Usage records and the library's own messages → one line each on standard error.

Two forms: plain `key=value` for people, JSON for machines. No prompt, no completion and no key is
ever in a line.
"""

import json
import logging
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

from headrace.config import LogSettings
from headrace.errors import ConfigError
from headrace.observe.usage import UsageRecord
from headrace.types import Usage

LOGGER = "headrace"
REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The request that this task works for: every line that is logged on the way names it."""
_REQUESTS = logging.getLogger(f"{LOGGER}.request")


class RequestLog:
    """A `UsageSink` that logs one line a request."""

    def record(self, record: UsageRecord) -> None:
        """Log it: at WARNING where the server failed, else at INFO."""
        level = logging.WARNING if record.status >= 500 else logging.INFO
        if not _REQUESTS.isEnabledFor(level):
            return
        # Made by hand: `Logger.log` would look through the stack for the line that asks.
        line = logging.LogRecord(_REQUESTS.name, level, __file__, 0, "request", (), None)
        line.__dict__["fields"] = request_fields(record)
        _REQUESTS.handle(line)


def request_fields(record: UsageRecord) -> dict[str, Any]:
    """What a line says: the record without empty values, counts flattened, times rounded."""
    said: dict[str, Any] = {}
    for name in _SAID:
        value = getattr(record, name)
        if value:
            said[name] = round(value, 6) if isinstance(value, float) else value
    if record.legs:
        said["legs"] = ",".join(
            f"{leg.provider or 'local'}/{leg.model}={leg.outcome}" for leg in record.legs
        )
    for name in _COUNTS:
        count = getattr(record.usage, name)
        if count:
            said[name] = count
    return said


_SAID = tuple(
    field.name for field in fields(UsageRecord) if field.name not in ("usage", "notes", "legs")
)
_COUNTS = tuple(field.name for field in fields(Usage))


class LineFormatter(logging.Formatter):
    """One line a record, plain or JSON."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._as_json = as_json
        self._second = -1
        self._clock = ""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows in the plain form and is a field in the JSON form."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        request = REQUEST.get()
        if request and "id" not in fields:
            fields = {**fields, "request": request}
        if not self._as_json:
            plain = not (record.exc_info or record.exc_text or record.stack_info)
            line = self._plain(record) if plain else super().format(record)
            said = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
            return f"{line} {said}" if said else line
        body: dict[str, Any] = {
            "time": self._time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body, ensure_ascii=False, default=str)

    def _plain(self, record: logging.LogRecord) -> str:
        """As the base class has it, of a record without a traceback."""
        return f"{self._time(record)} {record.levelname} {record.name}: {record.getMessage()}"

    def _time(self, record: logging.LogRecord) -> str:
        """As `formatTime`, whose clock is asked once a second."""
        second = int(record.created)
        if second != self._second:
            self._clock = self.formatTime(record, self.default_time_format)
            self._second = second
        return f"{self._clock},{record.msecs:03.0f}"


FORMATS = ("plain", "json")
LEVELS = ("debug", "info", "warning", "error")


def check(settings: LogSettings) -> None:
    """Raises: ConfigError naming the setting that cannot be."""
    for name, value, known in (
        ("format", settings.format, FORMATS),
        ("level", settings.level, LEVELS),
    ):
        if value not in known:
            raise ConfigError(f"logs.{name} = {value!r}; there are {', '.join(known)}")


def set_up(settings: LogSettings) -> None:
    """`configure` by the settings. Raises: ConfigError."""
    check(settings)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    configure(as_json=settings.format == "json", level=level)


def configure(*, as_json: bool = False, level: int = logging.INFO) -> None:
    """Send headrace's messages to standard error; a second call replaces the first."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(as_json=as_json))
    # No line of ours says in which thread or process it was made, so nobody need find out.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def _plain(value: object) -> str:
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    # A caller's own text (its end user's id) must not be able to forge a line or a field.
    return text if text.isprintable() and " " not in text and "=" not in text else json.dumps(text)
