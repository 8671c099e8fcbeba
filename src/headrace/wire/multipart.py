"""Bytes of a multipart/form-data body → its parts, as they come, held nowhere.

`FormReader.push` gives what some bytes complete; `close` says whether the form was whole. The
parser underneath is python-multipart's; here are its limits and its errors. Source: RFC 7578.
"""

from dataclasses import dataclass
from typing import TypeAlias

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from headrace.errors import InvalidParameter

_MAX_PARTS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class PartBegan:
    name: str
    filename: str | None
    """None = a plain field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartData:
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class PartEnded:
    pass


FormEvent: TypeAlias = PartBegan | PartData | PartEnded


class FormReader:
    """Reads one form. Unusable after an error."""

    def __init__(self, content_type: str | None) -> None:
        """Begin.

        Args:
            content_type: The request's header.

        Raises: InvalidParameter where it is not a form with a boundary.
        """
        kind, options = parse_options_header(content_type or "")
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidParameter(
                f"the Content-Type is {(content_type or '')[:80]!r}; send multipart/form-data with "
                "a boundary"
            )
        self._events: list[FormEvent] = []
        self._headers: dict[bytes, bytes] = {}
        self._name = self._text = b""
        self._parts = 0
        self._whole = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_began,
                    "on_header_field": self._field,
                    "on_header_value": self._value,
                    "on_header_end": self._header_ended,
                    "on_headers_finished": self._headers_ended,
                    "on_part_data": self._data,
                    "on_part_end": self._part_ended,
                    "on_end": self._ended,
                },
            )
        except FormParserError as error:
            raise InvalidParameter(f"the form's boundary: {error}") from None

    def push(self, data: bytes) -> list[FormEvent]:
        """What these bytes complete.

        Raises: InvalidParameter where they are no form.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidParameter(f"the body is not a well-formed form: {error}") from None
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Raises: InvalidParameter where the last part's end is missing."""
        if not self._whole:
            raise InvalidParameter("the form breaks off: its last boundary is missing")

    def _part_began(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidParameter(f"the form has more than {_MAX_PARTS} parts")
        self._headers = {}

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._text += data[start:end]

    def _header_ended(self) -> None:
        self._headers[self._name.lower()] = self._text
        self._name = self._text = b""

    def _headers_ended(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        kind, options = parse_options_header(disposition)
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise InvalidParameter("a part of the form has no name; send Content-Disposition")
        filename = options.get(b"filename")
        self._events.append(
            PartBegan(
                name=_decoded(name), filename=None if filename is None else _decoded(filename)
            )
        )

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data=data[start:end]))

    def _part_ended(self) -> None:
        self._events.append(PartEnded())

    def _ended(self) -> None:
        self._whole = True


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "replace")
