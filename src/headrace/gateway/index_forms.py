"""The body of POST /v1/indexes/{index}/documents: JSON with texts, or a form with files.

A form's files are its parts `file`, as many as there are; a file's name is its document's id.
`readers` and `metadata`, as JSON, are of all of them.
"""

from collections.abc import Sequence

from headrace.errors import InvalidParameter
from headrace.gateway.calls import read_body
from headrace.gateway.http import Exchange
from headrace.gateway.queries import read_query
from headrace.gateway.services import Services
from headrace.types import NewDocument
from headrace.wire.index_calls import FORM_FIELDS, decode_documents, decode_file
from headrace.wire.multipart import FormReader, PartBegan, PartData


async def read_documents(services: Services, exchange: Exchange) -> Sequence[NewDocument]:
    """What a request brings. Raises: UserError."""
    read_query(exchange)
    kind = (exchange.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return decode_documents(await read_body(services, exchange))
    reader = FormReader(exchange.header(b"content-type"))
    form = _Form()
    for event in reader.push(await read_body(services, exchange)):
        if isinstance(event, PartBegan):
            form.begin(event)
        elif isinstance(event, PartData):
            form.take(event.data)
    reader.close()
    return form.documents()


class _Form:
    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        self._fields: dict[str, bytearray] = {}
        self._into = bytearray()

    def begin(self, part: PartBegan) -> None:
        self._into = bytearray()
        if part.name == "file":
            if not part.filename:
                raise InvalidParameter("`file` has no filename; send one", param="file")
            if part.filename in self._files:
                raise InvalidParameter(
                    f"`file` {part.filename[:80]!r} is in the form twice", param="file"
                )
            self._files[part.filename] = self._into
            return
        name = part.name[:80]
        if name not in FORM_FIELDS:
            raise InvalidParameter(
                f"`{name}` is not a part of this form; it takes file, {', '.join(FORM_FIELDS)}",
                param=name,
            )
        if name in self._fields:
            raise InvalidParameter(f"`{name}` is in the form twice", param=name)
        self._fields[name] = self._into

    def take(self, data: bytes) -> None:
        self._into += data

    def documents(self) -> Sequence[NewDocument]:
        if not self._files:
            raise InvalidParameter("`file` is missing; send one or more", param="file")
        fields = {name: data.decode("utf-8", "replace") for name, data in self._fields.items()}
        return [decode_file(name, name, bytes(data), fields) for name, data in self._files.items()]
