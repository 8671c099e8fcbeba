"""The query of a URL, every parameter of which is accounted for: taken by name, or refused by name.

Invariant: nothing but `UserError` is raised for any bytes. A parameter comes once, but for lists,
which OpenAI's clients write as `name[]=`.
"""

from urllib.parse import parse_qsl

from headrace.errors import InvalidParameter, UserError
from headrace.wire.json_body import Fields, integer_at, one_of, shown, string_at

_MOST = 100


class Query:
    """The parameters of one request."""

    def __init__(self, raw: bytes) -> None:
        """Read them.

        Raises: UserError for what is no query, InvalidParameter for one that comes twice.
        """
        try:
            pairs = parse_qsl(
                raw.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(raw),
                errors="strict",
                max_num_fields=_MOST,
            )
        except ValueError as error:  # UnicodeDecodeError among them
            raise UserError(f"the query of the URL cannot be read: {error}") from None
        values: dict[str, str | list[str]] = {}
        for key, value in pairs:
            name = key.removesuffix("[]")
            before = values.get(name)
            if key != name or isinstance(before, list):
                values[name] = [*(before if isinstance(before, list) else ()), value]
            elif before is not None:
                raise InvalidParameter(f"`{name[:80]}` comes twice; send it once", param=name)
            else:
                values[name] = value
        self._fields = Fields(values)

    def string(self, name: str, *, max_chars: int = 256) -> str | None:
        """A text."""
        value = self._fields.take(name)
        return None if value is None else string_at(value, name, max_chars=max_chars)

    def choice(self, name: str, choices: tuple[str, ...], *, default: str) -> str:
        """One of some words."""
        value = self.string(name)
        return default if value is None else one_of(value, name, choices)

    def integer(self, name: str, *, low: int, high: int, default: int) -> int:
        """A whole number within `[low, high]`."""
        value = self.string(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 20):
            raise InvalidParameter(
                f"`{name}` {shown(value)} must be an integer from {low} to {high}", param=name
            )
        return integer_at(int(value), name, low=low, high=high)

    def many(self, name: str) -> list[str]:
        """A list of texts; a single one is a list too."""
        value = self._fields.take(name)
        if value is None:
            return []
        return [value] if isinstance(value, str) else list(value)

    def close(
        self,
        *,
        without_effect: dict[str, tuple[str, ...]] | None = None,
        unsupported: dict[str, str] | None = None,
    ) -> None:
        """Refuse what nobody took; as `Fields.close`."""
        self._fields.close(without_effect=without_effect, unsupported=unsupported)
