"""The few pieces of Markdown that model cards are made of, and their YAML head."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def front_matter(fields: Mapping[str, Any]) -> str:
    """The YAML that the hub reads; what is None or empty is left out.

    Values are written as JSON, which is YAML: no text can break out of its place.
    """
    told = {name: value for name, value in fields.items() if value not in (None, "", [], ())}
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in told.items()]
    return "\n".join(("---", *lines, "---"))


def without_front_matter(card: str) -> str:
    """A card's text below its YAML."""
    if card.startswith("---\n"):
        _, _, rest = card[4:].partition("\n---\n")
        return rest.lstrip("\n")
    return card


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; texts go through `cell` first."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def cell(text: str) -> str:
    """Text that cannot break out of its table cell."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", "<br>")
