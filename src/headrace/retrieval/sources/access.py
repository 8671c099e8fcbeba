"""Who may read what of a source: rules over keys, and lists that lie beside documents.

A document's readers are those of the list beside it, else of the last rule that matches its key,
else everybody who may ask the index. What cannot be told is refused: a list that is broken lets
nobody in.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from headrace.retrieval.parsing import Refusal, Unreadable

SUFFIX = ".access.json"
"""`report.pdf.access.json` says who reads `report.pdf`: {"readers": ["team:legal"]}."""
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Keys and who may read them."""

    pattern: str
    """As a shell has it; `*` also matches `/`."""
    readers: frozenset[str] | None
    """None = all who may ask the index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """The rules of one source, the last that matches first."""

    rules: Sequence[Rule] = ()

    def readers(self, key: str, beside: bytes | None = None) -> frozenset[str] | Refusal | None:
        """Who may read a document, by the list beside it where there is one."""
        if beside is not None:
            return _parse(beside, key)
        for rule in reversed(self.rules):
            if fnmatchcase(key, rule.pattern):
                return rule.readers
        return None


def _parse(data: bytes, key: str) -> frozenset[str] | Refusal:
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it has {len(data)} bytes; at most {_MOST_BYTES}")
        found: object = json.loads(data)
        if not isinstance(found, dict) or set(found) != {"readers"}:
            raise ValueError('it is not {"readers": [...]}')
        readers: object = found["readers"]
        if not isinstance(readers, list) or not all(
            isinstance(one, str) and one for one in readers
        ):
            raise ValueError("`readers` is no list of names")
    except (ValueError, RecursionError) as error:
        detail = f"who may read it cannot be told from {key}{SUFFIX}: {error}"
        return Refusal(reason=Unreadable.ACCESS, detail=detail)
    return frozenset(str(one) for one in readers)
