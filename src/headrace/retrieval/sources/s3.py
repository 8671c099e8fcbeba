"""A bucket of anything that speaks S3: ListObjectsV2 and GetObject, signed by botocore.

An object is unchanged where its ETag is: no object is read to find that out.
"""

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import aiohttp
from yarl import URL

from headrace.errors import ConfigError, DataError, MissingExtra
from headrace.retrieval.parsing import Raw, Refusal, Unreadable
from headrace.retrieval.sources.access import SUFFIX, Access
from headrace.retrieval.sources.source import Fetched, Gone, Item, Outcome

Sign = Callable[[str], Mapping[str, str]]
"""Address → headers that prove who asks; may go to the network, so it runs on a thread."""

_MOST_LIST_BYTES = 8 << 20
_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class S3:
    """The objects of a bucket under a prefix. Close it in the end.

    Args:
        name: Of the source.
        bucket: Its name.
        prefix: Keys have to begin with it.
        endpoint: Of another server than Amazon's.
        region: Amazon's name of it.
        include: Patterns of keys; one has to match.
        exclude: Patterns of which none may match.
        access: Who may read what; lists beside objects count as those beside files.
        sign: None = `signed` with the credentials that Amazon's tools find.
        timeout_s: Of one answer, all of it.
    """

    def __init__(
        self,
        name: str,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str = "",
        region: str = "us-east-1",
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        access: Access | None = None,
        sign: Sign | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.name = name
        base = endpoint.rstrip("/") or f"https://s3.{region}.amazonaws.com"
        self._base = f"{base}/{quote(bucket, safe='')}"
        self._prefix = prefix
        self._include, self._exclude = include, exclude
        self._access = access or Access()
        self._sign = sign or signed(region)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def items(self) -> AsyncIterator[Item]:
        """All objects but folders and lists of readers. Raises: DataError."""
        found = [entry async for entry in self._entries()]
        lists = {entry.key for entry in found if entry.key.endswith(SUFFIX)}
        for entry in found:
            if entry.key in lists or entry.key.endswith("/") or not self._chosen(entry.key):
                continue
            beside = await self._beside(entry.key) if entry.key + SUFFIX in lists else None
            readers = self._access.readers(entry.key, beside)
            refused = isinstance(readers, Refusal)
            yield Item(
                key=entry.key,
                revision=entry.revision,
                size_bytes=entry.size_bytes,
                modified_s=entry.modified_s,
                readers=frozenset() if refused else readers,
                refusal=readers if refused else None,
            )

    async def fetch(self, item: Item, *, known: str, limit_bytes: int) -> Outcome:
        """GetObject."""
        try:
            async with await self._get(self._address(item.key)) as answer:
                if answer.status == 404:
                    return Gone()
                if answer.status != 200:
                    denied = answer.status in (401, 403)
                    return Refusal(
                        reason=Unreadable.ACCESS if denied else Unreadable.UNAVAILABLE,
                        detail=f"its server answered {answer.status}",
                    )
                data = await _bounded(answer, limit_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = str(error) or type(error).__name__
            return Refusal(reason=Unreadable.UNAVAILABLE, detail=f"no answer: {said}")
        if data is None:
            detail = f"it has more than {limit_bytes} bytes"
            return Refusal(reason=Unreadable.TOO_LARGE, detail=detail)
        raw = Raw(
            data=data,
            name=item.name,
            media_type=answer.content_type,
            encoding=answer.charset or "",
        )
        return Fetched(raw=raw, revision=answer.headers.get("ETag", ""))

    async def _entries(self) -> AsyncIterator[Item]:
        token = ""
        while True:
            asked = {"list-type": "2", "prefix": self._prefix}
            if token:
                asked["continuation-token"] = token
            # Sorted and percent-encoded as the signature has it.
            address = f"{self._base}?{urlencode(sorted(asked.items()), quote_via=quote, safe='')}"
            page = await self._page(address)
            for found in page.iter(f"{_SPACE}Contents"):
                yield Item(
                    key=found.findtext(f"{_SPACE}Key") or "",
                    revision=found.findtext(f"{_SPACE}ETag") or "",
                    size_bytes=int(found.findtext(f"{_SPACE}Size") or 0),
                    modified_s=_time(found.findtext(f"{_SPACE}LastModified") or ""),
                )
            token = page.findtext(f"{_SPACE}NextContinuationToken") or ""
            if not token:
                return

    async def _page(self, address: str) -> ElementTree.Element:
        try:
            async with await self._get(address) as answer:
                data = await _bounded(answer, _MOST_LIST_BYTES)
                if answer.status != 200 or data is None:
                    raise DataError(
                        f"source {self.name}: the bucket cannot be listed, its server answered "
                        f"{answer.status}; nothing was deleted"
                    )
            return ElementTree.fromstring(data)
        except (aiohttp.ClientError, TimeoutError, OSError, ElementTree.ParseError) as error:
            raise DataError(
                f"source {self.name}: the bucket cannot be listed: {error}; nothing was deleted"
            ) from error

    async def _beside(self, key: str) -> bytes:
        async with await self._get(self._address(key + SUFFIX)) as answer:
            data = await _bounded(answer, 1 << 20)
        return data if answer.status == 200 and data is not None else b""  # lets nobody in

    async def _get(self, address: str) -> aiohttp.ClientResponse:
        headers = await asyncio.to_thread(self._sign, address)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout_s)
            )
        return await self._session.get(URL(address, encoded=True), headers=headers)

    def _address(self, key: str) -> str:
        return f"{self._base}/{quote(key, safe='/~')}"

    def _chosen(self, key: str) -> bool:
        if not any(fnmatchcase(key, pattern) for pattern in self._include):
            return False
        return not any(fnmatchcase(key, pattern) for pattern in self._exclude)


def signed(region: str, *, profile: str = "") -> Sign:
    """Signature version 4 by botocore, with the credentials that it finds where AWS's tools look.

    Raises:
        MissingExtra: botocore is not installed.
        ConfigError: There are no credentials, or no such profile.
    """
    try:
        import botocore.exceptions
        import botocore.session
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError:
        raise MissingExtra(
            "S3 needs botocore to sign requests: pip install 'headrace[s3]'"
        ) from None
    try:
        credentials = botocore.session.Session(profile=profile or None).get_credentials()
    except botocore.exceptions.BotoCoreError as error:
        raise ConfigError(f"AWS credentials: {error}") from error
    if credentials is None:
        raise ConfigError(
            "there are no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "name a profile"
        )

    def sign(address: str) -> Mapping[str, str]:
        request = AWSRequest(method="GET", url=address)
        S3SigV4Auth(credentials.get_frozen_credentials(), "s3", region).add_auth(request)
        return dict(request.headers.items())

    return sign


async def _bounded(answer: aiohttp.ClientResponse, limit_bytes: int) -> bytes | None:
    data = bytearray()
    async for piece in answer.content.iter_chunked(1 << 16):
        data += piece
        if len(data) > limit_bytes:
            return None
    return bytes(data)


def _time(said: str) -> float:
    try:
        return datetime.datetime.fromisoformat(said).timestamp()
    except ValueError:
        return 0.0
