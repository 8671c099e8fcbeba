"""JSON text of tool calls → name and arguments, the arguments exactly as the model wrote them.

`JsonScan` finds, as characters arrive, where a value ends; `calls_of` reads the calls in it.
Neither raises: what is no call is told apart from one, and stays text.
"""

import json
from typing import Any

_FIRST_KEYS = ("name", "arguments", "parameters", "type", "id", "function")
_DECODER = json.JSONDecoder()


class JsonScan:
    """Finds, a character at a time, where a JSON object or array ends."""

    def __init__(self) -> None:
        self.size = 0
        self.complete = False
        self.tail = ""
        self._depth = 0
        self._string = False
        self._escape = False
        self._key: str | None = ""  # the first key of the first object, until it is known

    def take(self, char: str) -> bool:
        """Take a character; False where no call begins like this."""
        self.size += 1
        if self._string:
            if self._escape:
                self._escape = False
            elif char == "\\":
                self._escape = True
            elif char == '"':
                self._string = False
                if self._key is not None:
                    key, self._key = self._key, None
                    return key in _FIRST_KEYS
            if self._key is not None:
                self._key += char
            return True
        if self._depth == 0 and char not in "{[":
            return char.isspace()
        match char:
            case '"':
                self._string = True
            case "{" | "[":
                self._depth += 1
            case "}" | "]":
                self._depth -= 1
                self.complete = self._depth == 0
            case _:
                pass
        return True


def calls_of(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each call in a JSON text; none where it is not calls."""
    try:
        values = json.loads(text)
        parts = _elements(text) if isinstance(values, list) else [text.strip()]
        calls = [_call_of(part) for part in parts]
    except (ValueError, RecursionError):
        return []
    return [call for call in calls if call is not None] if all(calls) else []


def _call_of(text: str) -> tuple[str, str] | None:
    value = json.loads(text)
    if not isinstance(value, dict):
        return None
    members = _members(text)
    if "name" not in value and isinstance(value.get("function"), dict):
        return _call_of(members["function"])
    name = value.get("name")
    if not isinstance(name, str) or not name:
        return None
    key = next((key for key in ("arguments", "parameters") if key in value), None)
    if key is None:
        return name, "{}"
    arguments: Any = value[key]
    if isinstance(arguments, str):  # encoded twice
        return name, arguments
    return (name, members[key]) if isinstance(arguments, dict) else None


def _elements(text: str) -> list[str]:
    """The texts of an array's elements."""
    elements: list[str] = []
    at = _skip(text, text.index("[") + 1)
    while text[at] != "]":
        end = _DECODER.raw_decode(text, at)[1]
        elements.append(text[at:end])
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at
    return elements


def _members(text: str) -> dict[str, str]:
    """The texts of an object's values, by key."""
    members: dict[str, str] = {}
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # over the colon
        end = _DECODER.raw_decode(text, at)[1]
        members[key] = text[at:end]
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at
    return members


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
