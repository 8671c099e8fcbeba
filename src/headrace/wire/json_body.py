"""JSON bytes of a request become an object whose every field is accounted for, or a clear 400.

Invariants: nothing but `UserError` is raised for any bytes; a field is taken by name exactly
once, and what nobody took is refused by name. `null` means absent, as OpenAI has it. Stricter
than RFC 8259 where it leaves a choice: a duplicated key, NaN, Infinity and a lone surrogate are
errors.
"""

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn, cast

import msgspec

from headrace.errors import InvalidParameter, UnknownParameter, UnsupportedParameter, UserError

MAX_TOKEN_ID = 2**31 - 1
_SHOWN_CHARS = 80


class Fields:
    """The fields of one JSON object; `path` is how an error names it."""

    def __init__(self, values: Mapping[str, Any], *, path: str = "") -> None:
        self._values = values
        self._taken: set[str] = set()
        self.path = path

    def at(self, name: str) -> str:
        """Path of a field, for an error's `param`."""
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Any:
        """The field's value as it came; None where absent or null."""
        self._taken.add(name)
        return self._values.get(name)

    def take_absent(self, names: Collection[str]) -> bool:
        """Whether none of them is there; they are taken then."""
        if not self._values.keys().isdisjoint(names):
            return False
        self._taken.update(names)
        return True

    def integer(self, name: str, *, low: int, high: int) -> int | None:
        """An integer within `[low, high]`."""
        value = self.take(name)
        return None if value is None else integer_at(value, self.at(name), low=low, high=high)

    def number(self, name: str, *, low: float, high: float, above: bool = False) -> float | None:
        """A number within `[low, high]`, or where `above` within `(low, high]`."""
        value = self.take(name)
        if value is None:
            return None
        return number_at(value, self.at(name), low=low, high=high, above=above)

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            _wrong(value, self.at(name), "true or false")
        return value

    def string(self, name: str, *, max_chars: int | None = None) -> str | None:
        """A string, perhaps empty."""
        value = self.take(name)
        return None if value is None else string_at(value, self.at(name), max_chars=max_chars)

    def required_string(self, name: str, *, max_chars: int | None = None) -> str:
        """A string that is there and not empty."""
        value = self.string(name, max_chars=max_chars)
        if not value:
            raise InvalidParameter(
                f"`{self.at(name)}` is {'missing' if value is None else 'empty'}; send a string",
                param=self.at(name),
            )
        return value

    def array(self, name: str) -> list[Any] | None:
        """A list."""
        value = self.take(name)
        return None if value is None else array_at(value, self.at(name))

    def nested(self, name: str) -> "Fields | None":
        """A nested object."""
        value = self.take(name)
        return None if value is None else object_at(value, self.at(name))

    def mapping(self, name: str) -> dict[str, Any] | None:
        """An object kept as it came (a JSON Schema, template variables)."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            _wrong(value, self.at(name), "an object")
        return cast("dict[str, Any]", value)

    def rest(self) -> dict[str, Any]:
        """Take all that nobody took yet, as it came."""
        left = {name: value for name, value in self._values.items() if name not in self._taken}
        self._taken.update(left)
        return left

    def close(
        self,
        *,
        without_effect: Mapping[str, Sequence[Any]] | None = None,
        unsupported: Mapping[str, str] | None = None,
    ) -> None:
        """Refuse what nobody took.

        Args:
            without_effect: Known fields and the values of them that change nothing here.
            unsupported: Known fields that are not honoured, with the way out.

        Raises:
            UnsupportedParameter: A known field with a value that would have an effect.
            UnknownParameter: A field in no protocol we know.
        """
        if self._taken.issuperset(self._values):
            return
        harmless, refused = without_effect or {}, unsupported or {}
        for name, value in self._values.items():
            if name in self._taken:
                continue
            param = self.at(name)
            if name in harmless or name in refused:
                allowed = harmless.get(name, ())
                if value is None or any(type(value) is type(x) and value == x for x in allowed):
                    continue
                accepted = ", ".join(json.dumps(x) for x in allowed)
                way_out = refused.get(name) or f"leave it out or send {accepted}"
                raise UnsupportedParameter(
                    f"`{param}` = {shown(value)} is not supported; {way_out}", param=param
                )
            known = [*self._taken, *harmless, *refused]
            close = difflib.get_close_matches(name[:64], known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else "leave it out"
            raise UnknownParameter(f"`{shortened(param)}` is not a parameter; {hint}", param=param)


def parse(body: bytes, *, what: str = "the body") -> Fields:
    """The object that a request's body, or a line of a file, is; `what` is how an error names it.

    Raises:
        UserError: Not JSON, not an object, or JSON that says two things at once.
    """
    if not body.strip():
        raise UserError(f"{what} is empty; send a JSON object")
    try:
        value = msgspec.json.decode(body)
        # msgspec keeps the last of two equal keys and says nothing, so the keys are read again.
        _KEYS.decode(body.decode())
    except RecursionError:
        raise UserError(f"the JSON of {what} is nested too deeply") from None
    except ValueError as error:  # msgspec.DecodeError, JSONDecodeError, UnicodeDecodeError
        raise UserError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{what} must be a JSON object, not {_kind(value)}")
    return Fields(cast("dict[str, Any]", value))


def integer_at(value: object, path: str, *, low: int, high: int) -> int:
    """`value` as an integer within limits."""
    if isinstance(value, bool) or not isinstance(value, int):
        # msgspec reads an integer beyond 64 bits as a float.
        _wrong(value, path, f"an integer from {low} to {high}")
    if not low <= value <= high:
        raise InvalidParameter(
            f"`{path}` {shown(value)} is out of range; it must be from {low} to {high}", param=path
        )
    return value


def number_at(value: object, path: str, *, low: float, high: float, above: bool = False) -> float:
    """`value` as a number within limits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(value, path, "a number")
    if not low <= value <= high or (above and value == low):
        bounds = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise InvalidParameter(
            f"`{path}` {shown(value)} is out of range; it must be {bounds}", param=path
        )
    return float(value)


def string_at(value: object, path: str, *, max_chars: int | None = None) -> str:
    """`value` as a string."""
    if not isinstance(value, str):
        _wrong(value, path, "a string")
    if max_chars is not None and len(value) > max_chars:
        raise InvalidParameter(
            f"`{path}` has {len(value)} characters; the limit is {max_chars}", param=path
        )
    return value


def array_at(value: object, path: str) -> list[Any]:
    """`value` as a list."""
    if not isinstance(value, list):
        _wrong(value, path, "a list")
    return cast("list[Any]", value)


def object_at(value: object, path: str) -> Fields:
    """`value` as an object's fields."""
    if not isinstance(value, dict):
        _wrong(value, path, "an object")
    return Fields(cast("dict[str, Any]", value), path=path)


def one_of(value: str, path: str, choices: Sequence[str]) -> str:
    """`value`, if it is one of `choices`."""
    if value not in choices:
        raise InvalidParameter(
            f"`{path}` {shown(value)} is not one of {', '.join(choices)}", param=path
        )
    return value


def shown(value: object) -> str:
    """A value as an error message shows it: JSON, shortened."""
    if isinstance(value, str):
        return json.dumps(shortened(value), ensure_ascii=False)
    if isinstance(value, dict | list):
        return f"{_kind(value)} of {len(cast('list[Any]', value))}"
    return shortened(json.dumps(value))


def shortened(text: str) -> str:
    """`text`, or its beginning where it is long."""
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _wrong(value: object, path: str, wanted: str) -> NoReturn:
    raise InvalidParameter(f"`{path}` must be {wanted}, not {_kind(value)}", param=path)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return f"the string {shown(value)}"
        case int() | float():
            return f"the number {shortened(json.dumps(value))}"
        case list():
            return "a list"
        case _:
            return "an object"


def _unique(pairs: list[tuple[str, Any]]) -> None:
    """Called by `json` for each object of the body, innermost first."""
    if len(pairs) == len({name for name, _ in pairs}):
        return
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidParameter(
                f"the key {shown(name)} comes twice in one object; send it once", param=name
            )
        seen.add(name)


_KEYS = json.JSONDecoder(object_pairs_hook=_unique)
