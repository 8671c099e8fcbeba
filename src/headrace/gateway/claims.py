"""An issuer's claims → who that is here: user, team and role by the rules of `[oidc]`.

Invariant: whoever the rules give nothing gets nothing: no team is guessed, the role is member.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from headrace.config import OidcSettings
from headrace.errors import ConfigError, PermissionDenied
from headrace.store.identity import RoleName
from headrace.store.people import Claimed

_EMAIL = "email"
_HIGHEST_FIRST = tuple(RoleName)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimRules:
    """The rules of `[oidc]`, checked."""

    user: str
    org: str
    team: str
    teams: tuple[tuple[str, str], ...]
    role: str
    roles: tuple[tuple[str, RoleName], ...]
    default_team: str

    @classmethod
    def of(cls, settings: OidcSettings) -> "ClaimRules":
        """Raises: ConfigError for a rule that is none, or that nothing can reach."""
        roles: list[tuple[str, RoleName]] = []
        for value, name in _pairs("roles", settings.roles):
            if name not in [role.value for role in RoleName]:
                raise ConfigError(
                    f"oidc.roles: {name!r} is no role; there are "
                    f"{', '.join(role.value for role in RoleName)}"
                )
            roles.append((value, RoleName(name)))
        for mapped, claim in (("roles", "role_claim"), ("teams", "team_claim")):
            if getattr(settings, mapped) and not getattr(settings, claim):
                raise ConfigError(f"oidc.{mapped} is set and oidc.{claim} is not: of which claim?")
        if settings.role_claim and not roles:
            raise ConfigError("oidc.role_claim is set and oidc.roles is not: write VALUE=ROLE")
        if not settings.user_claim:
            raise ConfigError("oidc.user_claim is empty; email, or another that names the user")
        return cls(
            user=settings.user_claim,
            org=settings.org_claim,
            team=settings.team_claim,
            teams=tuple(_pairs("teams", settings.teams)),
            role=settings.role_claim,
            roles=tuple(roles),
            default_team=settings.default_team,
        )

    def read(self, claims: Mapping[str, Any]) -> Claimed:
        """Who the claims are of.

        Raises: PermissionDenied where they name no user, no team, or several.
        """
        user = claims.get(self.user)
        if not isinstance(user, str) or not user:
            raise PermissionDenied(
                f"the issuer's token has no {self.user!r} that could name the user; ask for its "
                "scope with oidc.scopes, or set oidc.user_claim"
            )
        verified = True
        if self.user == _EMAIL:
            verified = claims.get("email_verified") is True
            if claims.get("email_verified", True) is not True:
                raise PermissionDenied(
                    f"the issuer says that {user[:100]} is not verified; verify it there"
                )
        return Claimed(
            account=f"{claims['iss']}|{claims['sub']}",
            id=user,
            name=str(claims.get("name") or "")[:200],
            verified=verified,
            org=self._org(claims),
            team=self._team(claims, user),
            role=self._role(claims),
        )

    def _org(self, claims: Mapping[str, Any]) -> str | None:
        if not self.org:
            return None
        found = _values(claims.get(self.org))
        if len(found) != 1:
            raise PermissionDenied(f"the issuer's token has {len(found)} values of {self.org!r}")
        return found[0]

    def _team(self, claims: Mapping[str, Any], user: str) -> str | None:
        if not self.team:
            return None
        found = _values(claims.get(self.team))
        if self.teams:
            found = [team for value, team in self.teams if value in found][:1]
        found = found or [team for team in (self.default_team,) if team]
        if len(found) != 1:
            raise PermissionDenied(
                f"the claim {self.team!r} of {user[:100]} names {len(found)} teams; map one with "
                "oidc.teams, or set oidc.default_team"
            )
        return found[0]

    def _role(self, claims: Mapping[str, Any]) -> RoleName | None:
        if not self.role:
            return None
        found = _values(claims.get(self.role))
        held = [role for value, role in self.roles if value in found]
        return min(held, key=_HIGHEST_FIRST.index, default=RoleName.MEMBER)


def _pairs(name: str, rules: Sequence[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for rule in rules:
        value, equals, mapped = rule.rpartition("=")
        if not (equals and value.strip() and mapped.strip()):
            raise ConfigError(f"oidc.{name}: {rule!r} is not VALUE={name[:-1].upper()}")
        pairs.append((value.strip(), mapped.strip()))
    return pairs


def _values(claim: object) -> list[str]:
    if isinstance(claim, str):
        return [claim]
    if isinstance(claim, list):
        return [item for item in cast("list[object]", claim) if isinstance(item, str)]
    return []
