"""What an OpenID Connect issuer says of itself: which addresses, and that they are its own.

Source: OpenID Connect Discovery 1.0, section 4.3; RFC 8414.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from headrace.errors import ConfigError, UpstreamError


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """What an issuer says of itself."""

    authorization: str
    token: str
    jwks: str
    end_session: str = ""
    """Empty = it does not end its own sessions."""
    auth_methods: tuple[str, ...] = ("client_secret_basic",)
    says_issuer: bool = False
    """Whether it names itself in each answer to an authorization request (RFC 9207)."""


def read_metadata(found: Mapping[str, Any], *, issuer: str) -> Metadata:
    """An issuer's metadata. Raises: UpstreamError where they are not its own, or not safe."""
    if found.get("issuer") != issuer:
        raise UpstreamError(
            f"the issuer at {issuer} calls itself {str(found.get('issuer'))[:200]!r}; "
            "write oidc.issuer exactly so"
        )
    addresses: dict[str, str] = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        addresses[name] = str(found.get(name) or "")
        try:
            check_address(f"the issuer's {name}", addresses[name])
        except ConfigError as error:
            raise UpstreamError(error.message) from None
    methods = found.get("token_endpoint_auth_methods_supported")
    return Metadata(
        authorization=addresses["authorization_endpoint"],
        token=addresses["token_endpoint"],
        jwks=addresses["jwks_uri"],
        end_session=str(found.get("end_session_endpoint") or ""),
        auth_methods=tuple(map(str, cast("list[Any]", methods)))
        if isinstance(methods, list)
        else ("client_secret_basic",),
        says_issuer=found.get("authorization_response_iss_parameter_supported") is True,
    )


def check_address(name: str, url: str) -> None:
    """Raises: ConfigError for what is neither https nor on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and is_loopback(parts.hostname):
        return
    raise ConfigError(
        f"{name} = {url[:200]!r}; it takes an https address (http only on loopback): tokens go "
        "there"
    )


def is_loopback(host: str) -> bool:
    """Whether a host's name is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
