"""What a check decided; what a release is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a check or policy decided, and why."""

    allowed: bool
    rule: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """An immutable release of anything that changes behaviour."""

    kind: str
    name: str
    sha256: str
