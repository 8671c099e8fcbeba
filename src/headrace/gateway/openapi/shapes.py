"""JSON Schemas in few words. An optional field may be null: that means absent, as OpenAI has it.

Source: JSON Schema 2020-12, which OpenAPI 3.1 takes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Shape: TypeAlias = dict[str, Any]

TEXT: Shape = {"type": "string"}
WHOLE: Shape = {"type": "integer"}
NUMBER: Shape = {"type": "number"}
BOOLEAN: Shape = {"type": "boolean"}
ANY_OBJECT: Shape = {"type": "object"}
ANYTHING: Shape = {}


def text(low: int = 0, high: int | None = None, pattern: str = "") -> Shape:
    """A string of so many characters."""
    shape: Shape = {"type": "string"}
    if low:
        shape["minLength"] = low
    if high is not None:
        shape["maxLength"] = high
    if pattern:
        shape["pattern"] = pattern
    return shape


def whole(low: int, high: int) -> Shape:
    """An integer within limits."""
    return {"type": "integer", "minimum": low, "maximum": high}


def number(low: float, high: float, *, above: bool = False) -> Shape:
    """A number within limits; `above` the lower one."""
    return {
        "type": "number",
        "exclusiveMinimum" if above else "minimum": low,
        "maximum": high,
    }


def some(shape: Shape, low: int = 0, high: int | None = None) -> Shape:
    """A list."""
    found: Shape = {"type": "array", "items": shape}
    if low:
        found["minItems"] = low
    if high is not None:
        found["maxItems"] = high
    return found


def one(*values: object) -> Shape:
    """One of some values."""
    return {"enum": list(values)}


def either(*shapes: Shape) -> Shape:
    """Any of some shapes."""
    return {"anyOf": list(shapes)}


def nullable(shape: Shape) -> Shape:
    """The shape, or null."""
    if shape == ANYTHING:
        return shape
    if "enum" in shape:
        return {"enum": [*shape["enum"], None]}
    if isinstance(shape.get("type"), str):
        return {**shape, "type": [shape["type"], "null"]}
    return either(shape, {"type": "null"})


def record(
    needed: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None, *, open: bool = False
) -> Shape:
    """An object: fields that must be there, and others that may be, or be null.

    `open` = it may have fields that are not named.
    """
    shape: Shape = {
        "type": "object",
        "properties": {
            **needed,
            **{name: nullable(found) for name, found in (optional or {}).items()},
        },
    }
    if needed:
        shape["required"] = list(needed)
    if not open:
        shape["additionalProperties"] = False
    return shape


def inert(values: Mapping[str, Sequence[object]]) -> dict[str, Shape]:
    """The fields of a decoder's `WITHOUT_EFFECT`, with the values that it takes."""
    return {name: {"enum": list(found)} for name, found in values.items()}
