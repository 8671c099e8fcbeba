"""A collector of telemetry, reached by HTTP POST: bytes out, a verdict back."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from headrace.providers.http1 import BrokenAnswer, CannotConnect, Pool
from headrace.providers.upstream import retry_after_s

_TIMEOUT_S = 10.0
_KEEP_ALIVE_S = 15.0
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
        self._pool: Pool | None = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Verdict:
        """Send one body, once. Which answers mean what: the OTLP specification, "OTLP/HTTP"."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._open().post(self.url, headers, body)
                try:
                    found = await answer.read(_MAX_ANSWER_BYTES)
                finally:
                    answer.close()
        except (BrokenAnswer, CannotConnect, TimeoutError, OSError, ValueError) as error:
            return Verdict(Outcome.AGAIN, reason=f"{self.url}: {error or type(error).__name__}")
        if answer.status == 200:
            return Verdict(Outcome.TAKEN, found)
        said = found[:200].decode("utf-8", "replace")
        return Verdict(
            Outcome.AGAIN if answer.status in _AGAIN else Outcome.REFUSED,
            reason=f"{self.url} answered {answer.status}: {said}",
            retry_after_s=retry_after_s(
                milliseconds=answer.header(b"retry-after-ms"), said=answer.header(b"retry-after")
            ),
        )

    async def close(self) -> None:
        """Close every connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    def _open(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(
                connect_s=_TIMEOUT_S, keep_s=_KEEP_ALIVE_S, most=2, headers={"Accept": "*/*"}
            )
        return self._pool
