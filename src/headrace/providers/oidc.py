"""An OpenID Connect issuer: its metadata and keys, the code of a log-in → the claims of a person.

Invariants: what the issuer says is cached for `FRESH_S` and used for at most `STALE_S` while it is
away; a token with an unknown key makes at most one look a `LOOK_S`, so made-up ones are cheap.
Source: OpenID Connect Core 1.0 and Discovery 1.0; RFC 7636 (PKCE); RFC 9700 (best practices).
"""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import quote, quote_plus, urlencode, urlsplit

import aiohttp
import msgspec
from jwt import PyJWK

from headrace.config import OidcSettings
from headrace.errors import ConfigError, Unauthorized, UpstreamError, UpstreamTimeout
from headrace.providers.oidc_metadata import Metadata, check_address, read_metadata
from headrace.wire.id_tokens import Rules, UnknownKeyId, check_algorithms, read_keys, verify

FRESH_S = 300.0
STALE_S = 3600.0
LOOK_S = 10.0
_TIMEOUT_S = 10.0
_MOST_BYTES = 1 << 20


class Issuer:
    """One issuer as a client sees it; `async with` it."""

    def __init__(
        self,
        settings: OidcSettings,
        secret: Callable[[], str] | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: secret: The client's, asked for at each log-in; None = it has none.

        Raises: ConfigError.
        """
        check_address("oidc.issuer", settings.issuer)
        if not settings.client_id:
            raise ConfigError("oidc.client_id is not set; the issuer knows this service by it")
        self.url = settings.issuer
        self._client_id = settings.client_id
        self._secret = secret
        self._scopes = settings.scopes
        self._algorithms = check_algorithms(settings.algorithms)
        self._leeway_s = settings.clock_skew_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._metadata: Metadata | None = None
        self._keys: Mapping[str, PyJWK] = {}
        self._keys_at = self._tried_at = float("-inf")
        self._metadata_at = float("-inf")
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Issuer":
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    async def authorization_url(
        self, *, redirect: str, state: str, nonce: str, verifier: str
    ) -> str:
        """Where a browser goes to log in.

        Raises: UpstreamError where the issuer does not answer.
        """
        metadata = await self.metadata()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect,
            "scope": " ".join(dict.fromkeys(("openid", *self._scopes))),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(metadata.authorization).query else "?"
        return f"{metadata.authorization}{joint}{urlencode(query, quote_via=quote)}"

    async def log_in(
        self, *, code: str, redirect: str, nonce: str, verifier: str
    ) -> Mapping[str, Any]:
        """The claims of whoever came back with a code.

        Raises:
            Unauthorized: The code is not good, or the token is not of this log-in.
            UpstreamError: The issuer does not answer, or answers nonsense.
        """
        metadata = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": verifier,
        }
        answer = await self._post(metadata, form)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise UpstreamError("the issuer's answer has no id_token; is openid among the scopes?")
        claims = await self.claims(token, audience=self._client_id)
        if claims.get("nonce") != nonce:
            raise Unauthorized("the issuer's token is of another log-in: its nonce is not this one")
        audiences = claims["aud"]
        party = claims.get("azp")
        if party not in (None, self._client_id) or (
            party is None and isinstance(audiences, list) and len(cast("list[Any]", audiences)) > 1
        ):
            raise Unauthorized(f"the issuer's token was made for {str(party)[:80]!r}")
        return claims

    async def claims(self, token: str, *, audience: str) -> Mapping[str, Any]:
        """The claims of a token of this issuer.

        Raises: Unauthorized; UpstreamError where its keys are not known and cannot be had.
        """
        rules = Rules(
            issuer=self.url,
            audience=audience,
            algorithms=self._algorithms,
            leeway_s=self._leeway_s,
        )
        keys = await self._current_keys()
        try:
            return verify(token, keys, rules)
        except UnknownKeyId:
            async with self._lock:
                if self._keys is keys and self._clock() - self._tried_at >= LOOK_S:
                    await self._fetch_keys()
            return verify(token, self._keys, rules)

    async def metadata(self) -> Metadata:
        """What it says of itself. Raises: UpstreamError."""
        async with self._lock:
            return await self._known_metadata()

    async def _known_metadata(self) -> Metadata:
        age_s = self._clock() - self._metadata_at
        if self._metadata is not None and age_s < FRESH_S:
            return self._metadata
        try:
            url = self.url.rstrip("/") + "/.well-known/openid-configuration"
            self._metadata = read_metadata(await self._get(url), issuer=self.url)
            self._metadata_at = self._clock()
        except UpstreamError:
            if self._metadata is None or age_s > STALE_S:
                raise
        return self._metadata

    async def _current_keys(self) -> Mapping[str, PyJWK]:
        if self._clock() - self._keys_at < FRESH_S:
            return self._keys
        async with self._lock:
            age_s = self._clock() - self._keys_at
            if age_s >= FRESH_S and (age_s > STALE_S or self._clock() - self._tried_at >= LOOK_S):
                try:
                    await self._fetch_keys()
                except UpstreamError:
                    if age_s > STALE_S:
                        raise
        return self._keys

    async def _fetch_keys(self) -> None:
        self._tried_at = self._clock()
        found = read_keys(await self._get((await self._known_metadata()).jwks))
        if not found:
            raise UpstreamError("the issuer lists no key that could sign a token")
        self._keys, self._keys_at = found, self._clock()

    async def _get(self, url: str) -> Mapping[str, Any]:
        return await self._ask("GET", url)

    async def _post(self, metadata: Metadata, form: dict[str, str]) -> Mapping[str, Any]:
        headers: dict[str, str] = {}
        if self._secret is None:
            form["client_id"] = self._client_id
        elif "client_secret_basic" in metadata.auth_methods:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(self._secret())}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self._client_id, "client_secret": self._secret()}
        return await self._ask("POST", metadata.token, form=form, headers=headers)

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any]:
        assert self._http is not None, "an Issuer is used inside `async with`"
        try:
            request = self._http.request(
                method, url, data=form, headers=headers, allow_redirects=False
            )
            async with request as response:
                body = await _read(response)
                status = response.status
        except TimeoutError:
            raise UpstreamTimeout(f"the issuer did not answer within {_TIMEOUT_S:g} s") from None
        except aiohttp.ClientError as error:
            raise UpstreamError(f"the issuer does not answer: {error}") from error
        try:
            found = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = None
        if not isinstance(found, dict):
            raise UpstreamError(f"the issuer answered {status} and no JSON object to {url}")
        answer = cast("dict[str, Any]", found)
        if form is not None and status in (400, 401):
            said = f"{answer.get('error')}: {answer.get('error_description', '')}"
            raise Unauthorized(f"the issuer refused this log-in: {said[:200]}")
        if status != 200:
            raise UpstreamError(f"the issuer answered {status} to {url}")
        return answer


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > _MOST_BYTES:
            raise UpstreamError(f"the issuer answered more than {_MOST_BYTES} bytes")
    return body
