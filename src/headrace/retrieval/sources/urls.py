"""A list of addresses, each fetched with what is known of it: an unchanged page costs one answer.

Addresses of this machine and of private networks are refused unless they are allowed by name, where
a redirect leads there too: whoever writes a list must not reach what only this machine can.
"""

import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from headrace.errors import ConfigError
from headrace.retrieval.parsing import Raw, Refusal, Unreadable
from headrace.retrieval.sources.access import Access
from headrace.retrieval.sources.source import Fetched, Gone, Item, Outcome, Unchanged

_REDIRECTS = 5
_MOVED = (301, 302, 303, 307, 308)


class Urls:
    """Documents at addresses. Close it in the end.

    Args:
        name: Of the source.
        urls: Theirs, http or https.
        allow: Hosts that may lie in private networks.
        access: Who may read what; its patterns match whole addresses.
        timeout_s: Of one answer, all of it.

    Raises: ConfigError: An address that is none.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        *,
        allow: Sequence[str] = (),
        access: Access | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError(f"source {name}: {url!r} is no http or https address")
        self.name = name
        self._urls = tuple(dict.fromkeys(urls))
        self._allow = frozenset(host.lower() for host in allow)
        self._access = access or Access()
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def items(self) -> AsyncIterator[Item]:
        """The addresses, none of them asked yet."""
        for url in self._urls:
            readers = self._access.readers(url)
            assert not isinstance(readers, Refusal)  # only lists beside documents are broken
            yield Item(key=url, readers=readers, metadata={"url": url})

    async def fetch(self, item: Item, *, known: str, limit_bytes: int) -> Outcome:
        """GET it, with If-None-Match or If-Modified-Since where something is known."""
        url = URL(item.key)
        try:
            for _ in range(_REDIRECTS + 1):
                refused = self._refused(url)
                if refused is not None:
                    return refused
                async with self._open().get(
                    url, headers=_conditions(known), allow_redirects=False
                ) as answer:
                    if answer.status in _MOVED and "Location" in answer.headers:
                        url = url.join(URL(answer.headers["Location"]))
                        continue
                    return await _outcome(answer, limit_bytes)
        except _Private as error:
            return _private(str(error))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if isinstance(error.__cause__, _Private):
                return _private(str(error.__cause__))
            said = str(error) or type(error).__name__
            return Refusal(reason=Unreadable.UNAVAILABLE, detail=f"no answer: {said}")
        detail = f"more than {_REDIRECTS} redirects"
        return Refusal(reason=Unreadable.UNAVAILABLE, detail=detail)

    def _refused(self, url: URL) -> Refusal | None:
        host = url.host or ""
        if url.scheme not in ("http", "https"):
            detail = f"it leads to {url.scheme}:, which is not read"
            return Refusal(reason=Unreadable.ACCESS, detail=detail)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None  # a name: judged by what it resolves to
        return _private(host) if host not in self._allow and not address.is_global else None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=_Resolver(self._allow), limit_per_host=4),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                headers={"User-Agent": "headrace", "Accept-Encoding": "identity"},
            )
        return self._session


class _Private(OSError):
    """A name that leads into a private network."""


class _Resolver(AbstractResolver):
    """What is judged is what is connected to: no second look-up that may answer otherwise."""

    def __init__(self, allow: frozenset[str]) -> None:
        self._inner = aiohttp.ThreadedResolver()
        self._allow = allow

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if host.lower() not in self._allow and not all(
            ipaddress.ip_address(one["host"].partition("%")[0]).is_global for one in found
        ):
            raise _Private(host)
        return found

    async def close(self) -> None:
        await self._inner.close()


def _private(host: str) -> Refusal:
    return Refusal(
        reason=Unreadable.ACCESS,
        detail=f"{host} is in a private network; allow it by name in the source's settings",
    )


def _conditions(known: str) -> dict[str, str]:
    said: dict[str, Any] = json.loads(known) if known.startswith("{") else {}
    headers: dict[str, str] = {}
    if etag := said.get("etag"):
        headers["If-None-Match"] = str(etag)
    if modified := said.get("modified"):
        headers["If-Modified-Since"] = str(modified)
    return headers


async def _outcome(answer: aiohttp.ClientResponse, limit_bytes: int) -> Outcome:
    match answer.status:
        case 304:
            return Unchanged()
        case 404 | 410:
            return Gone()
        case 401 | 403:
            detail = f"its server answered {answer.status}"
            return Refusal(reason=Unreadable.ACCESS, detail=detail)
        case 200:
            pass
        case status:
            detail = f"its server answered {status}"
            return Refusal(reason=Unreadable.UNAVAILABLE, detail=detail)
    data = bytearray()
    async for piece in answer.content.iter_chunked(1 << 16):
        data += piece
        if len(data) > limit_bytes:
            detail = f"it has more than {limit_bytes} bytes"
            return Refusal(reason=Unreadable.TOO_LARGE, detail=detail)
    headers = answer.headers
    said = {"etag": headers.get("ETag", ""), "modified": headers.get("Last-Modified", "")}
    return Fetched(
        raw=Raw(
            data=bytes(data),
            name=answer.url.name or answer.url.host or "",
            media_type=answer.content_type,
            encoding=answer.charset or "",
        ),
        revision=json.dumps(said) if any(said.values()) else "",
        modified_s=http_time(said["modified"]),
    )


def http_time(said: str) -> float:
    """Unix time of an HTTP date; 0 where there is none."""
    try:
        return max(parsedate_to_datetime(said).timestamp(), 0.0) if said else 0.0
    except (ValueError, OverflowError):
        return 0.0
