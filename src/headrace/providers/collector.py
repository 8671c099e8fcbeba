"""A collector of telemetry, reached by HTTP POST: bytes out, a verdict back."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import aiohttp

from headrace.providers.upstream import retry_after_s

_TIMEOUT_S = 10.0
_AGAIN = frozenset({429, 502, 503, 504})
_MAX_ANSWER_BYTES = 64 << 10


class Outcome(StrEnum):
    """What became of a body."""

    TAKEN = "taken"
    AGAIN = "again"  # not now: it may be sent again
    REFUSED = "refused"  # never: sending it again changes nothing


class Verdict(NamedTuple):
    outcome: Outcome
    body: bytes = b""
    reason: str = ""
    retry_after_s: int | None = None


class Collector:
    """Keeps its connections; `close` it in the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Verdict:
        """Send one body, once. Which answers mean what: the OTLP specification, "OTLP/HTTP"."""
        try:
            async with self._open().post(
                self.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                found = await answer.content.read(_MAX_ANSWER_BYTES)
                if answer.status == 200:
                    return Verdict(Outcome.TAKEN, found)
                again = answer.status in _AGAIN
                said = found[:200].decode("utf-8", "replace")
                return Verdict(
                    Outcome.AGAIN if again else Outcome.REFUSED,
                    reason=f"{self.url} answered {answer.status}: {said}",
                    retry_after_s=retry_after_s(
                        milliseconds=answer.headers.get("retry-after-ms"),
                        said=answer.headers.get("Retry-After"),
                    ),
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Verdict(Outcome.AGAIN, reason=f"{self.url}: {error or type(error).__name__}")

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
                connector=aiohttp.TCPConnector(limit=2),
            )
        return self._session
