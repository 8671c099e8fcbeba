"""Host and Origin of what reaches a service without keys: its owner's own pages and programs only.

Without keys whoever reaches the port is its owner, and a browser on this machine reaches it for any
page it shows. A page of another origin says so in `Origin`; one whose name was made to point here
(DNS rebinding) has its own name in `Host`. Both are refused; programs send neither.

Source: RFC 6454 (origins); CWE-350; the MCP specification's advice for local servers.
"""

import ipaddress
from urllib.parse import urlsplit

from headrace.errors import PermissionDenied

_LOOPBACK = frozenset({"localhost"})


def check_local(host: str | None, origin: str | None, allowed: frozenset[str]) -> None:
    """Let a request through that comes from here.

    Args:
        host: The `Host` header.
        origin: The `Origin` header.
        allowed: Names beside loopback ones, lower case, that the service is reached by.

    Raises: PermissionDenied.
    """
    if host is not None and not _is_local(_name(f"//{host}"), allowed):
        raise PermissionDenied(
            f"the Host header is {host[:80]!r}, and a service without API keys answers for "
            "loopback names only; use 127.0.0.1, add the name to server.allowed_hosts, or serve "
            "with keys"
        )
    if origin is None:
        return
    if host is None or urlsplit(origin).netloc.lower() != host.lower():
        raise PermissionDenied(
            f"a page of {origin[:80]!r} asks, and a service without API keys answers its own pages "
            "only; serve with keys"
        )


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_local(name: str | None, allowed: frozenset[str]) -> bool:
    if name is None:
        return False
    if name in _LOOPBACK or name in allowed:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
