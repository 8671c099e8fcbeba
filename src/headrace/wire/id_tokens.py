"""An issuer's signed tokens ⇄ claims: signature, algorithm, issuer, audience and times are checked.

Invariants: only asymmetric algorithms, so that a public key can never be taken for a shared secret,
and never `none`; the key is chosen by the token's `kid` among keys of the issuer only, never from
the token itself. Source: RFC 7519, RFC 8725 (JWT best practices), OpenID Connect Core 3.1.3.7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jwt
from jwt import PyJWK

from headrace.errors import ConfigError, Unauthorized

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
_MOST_BYTES = 16 << 10


class UnknownKeyId(Unauthorized):
    """The token names a key that is not known; the issuer may have a new one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a token must be."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    leeway_s: int = 30
    """By how much clocks may differ."""


def check_algorithms(names: Sequence[str]) -> tuple[str, ...]:
    """The names, where all may be allowed. Raises: ConfigError."""
    wrong = [name for name in names if name not in ALGORITHMS]
    if wrong or not names:
        raise ConfigError(
            f"oidc.algorithms: {', '.join(wrong) or 'none at all'}; choose from "
            f"{', '.join(ALGORITHMS)}: with a shared secret whoever can check a token can make one"
        )
    return tuple(names)


def read_keys(document: object) -> dict[str, PyJWK]:
    """The signature keys of a JWK set by id; one without an id is under the empty one."""
    found: dict[str, PyJWK] = {}
    if not isinstance(document, dict):
        return found
    listed = cast("dict[str, object]", document).get("keys")
    for item in cast("list[object]", listed) if isinstance(listed, list) else []:
        if not isinstance(item, dict):
            continue
        entry = cast("dict[str, Any]", item)
        if entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            found[str(entry.get("kid", ""))] = PyJWK(entry)
        except jwt.PyJWTError:
            continue  # of a kind that nobody here knows: it signs nothing for us
    return found


def verify(token: str, keys: Mapping[str, PyJWK], rules: Rules) -> Mapping[str, Any]:
    """The claims of a token.

    Raises:
        UnknownKeyId: It was signed with a key that is not among these.
        Unauthorized: It is malformed, forged, of another issuer or audience, or not valid now.
    """
    if len(token) > _MOST_BYTES:
        raise Unauthorized(f"the token is {len(token)} bytes; at most {_MOST_BYTES} are read")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise Unauthorized(f"this is no signed token: {error}") from None
    algorithm = str(header.get("alg"))
    if algorithm not in rules.algorithms:
        raise Unauthorized(
            f"the token's algorithm {algorithm[:20]!r} is not allowed; allowed: "
            f"{', '.join(rules.algorithms)}"
        )
    key = _key(header, keys)
    try:
        return jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=rules.audience,
            issuer=rules.issuer,
            leeway=rules.leeway_s,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except (jwt.PyJWTError, ValueError, TypeError) as error:  # the last two: another kind of key
        raise Unauthorized(f"the issuer's token is not valid here: {error}") from None


def _key(header: Mapping[str, Any], keys: Mapping[str, PyJWK]) -> PyJWK:
    id = header.get("kid")
    if id is None and len(keys) == 1:
        return next(iter(keys.values()))
    key = keys.get(str(id)) if id is not None else keys.get("")
    if key is None:
        raise UnknownKeyId(f"the issuer has no key {str(id)[:80]!r}")
    return key
