"""OpenAI's Files: POST, GET and DELETE /v1/files, and a file's content.

An upload goes to the store as it comes and is held nowhere; another team's file is not there.
"""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import msgspec

from headrace.errors import InvalidParameter, PayloadTooLarge
from headrace.gateway.file_store import FileStore, need_files, owner_of
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange, closing
from headrace.gateway.queries import read_list_query, read_query
from headrace.gateway.services import Services
from headrace.store.blobs import Sink
from headrace.store.files import File, Page, new_file_id
from headrace.types import Caller
from headrace.wire.file_fields import decode_upload, encode_list
from headrace.wire.multipart import FormReader, PartBegan, PartData

_FORM_BYTES = 64 << 10
"""Of an upload beside its file."""
_FIELD_BYTES = 4 << 10
_MOST_LISTED = 10_000


async def upload(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/files."""
    read_query(exchange)
    store = need_files(services.files)
    id = new_file_id()
    form = _Form(store.limits.max_bytes)
    reader = FormReader(exchange.header(b"content-type"))
    async with store.blobs.create(id) as sink:
        chunks = exchange.chunks(
            max_bytes=store.limits.max_bytes + _FORM_BYTES, timeout_s=store.limits.upload_s
        )
        await form.read(reader, chunks, sink)
        asked = decode_upload(form.fields)
        if form.filename is None:
            raise InvalidParameter("`file` is missing; send it as a part of the form", param="file")
    now_s = store.now_s
    file = File(
        id=id,
        owner=owner_of(caller),
        key=caller.key_id,
        created_s=now_s,
        purpose=asked.purpose,
        filename=form.filename,
        size_bytes=form.size,
        expires_s=None if asked.ttl_s is None else now_s + asked.ttl_s,
    )
    await store.add(file)
    await exchange.answer(200, msgspec.json.encode(describe(file)))


async def list_files(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """GET /v1/files."""
    store = need_files(services.files)
    asked = read_list_query(
        exchange, "purpose", default=_MOST_LISTED, most=_MOST_LISTED, order=True
    )
    page = Page(limit=asked.limit, after=asked.after, newest_first=asked.newest_first)
    purpose = asked.others.get("purpose", "")
    found, more = await store.page(owner_of(caller), page, purpose=purpose)
    await exchange.answer(200, encode_list([describe(file) for file in found], has_more=more))


async def get_file(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """GET /v1/files/{file}."""
    read_query(exchange)
    store = need_files(services.files)
    file = await store.get(exchange.params["file"], owner_of(caller))
    await exchange.answer(200, msgspec.json.encode(describe(file)))


async def delete_file(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """DELETE /v1/files/{file}: the bytes too."""
    read_query(exchange)
    store = need_files(services.files)
    id = exchange.params["file"]
    await store.delete(id, owner_of(caller))
    await exchange.answer(200, msgspec.json.encode({"id": id, "object": "file", "deleted": True}))


async def content(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """GET /v1/files/{file}/content."""
    read_query(exchange)
    store = need_files(services.files)
    file = await store.get(exchange.params["file"], owner_of(caller))
    await _send(exchange, store, file, timeout_s=services.limits.send_s)


def describe(file: File) -> dict[str, Any]:
    """A file as OpenAI shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_s,
        "expires_at": file.expires_s,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


async def _send(exchange: Exchange, store: FileStore, file: File, *, timeout_s: float) -> None:
    name = quote(file.filename, safe="")
    headers = (
        (b"content-type", b"application/octet-stream"),
        (b"content-disposition", f"attachment; filename*=UTF-8''{name}".encode()),
        (b"x-content-type-options", b"nosniff"),  # whatever it is, no browser runs it
    )
    async with closing(store.content(file)) as pieces:
        async for piece in pieces:
            if not exchange.status:
                await exchange.start_content(size_bytes=file.size_bytes, headers=headers)
            await exchange.write(piece, timeout_s=timeout_s)
    if not exchange.status:
        await exchange.start_content(size_bytes=file.size_bytes, headers=headers)
    await exchange.end()


class _Form:
    """The parts of an upload while they come."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._part: PartBegan | None = None
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0

    async def read(self, reader: FormReader, chunks: AsyncIterator[bytes], sink: Sink) -> None:
        """Everything: fields here, the file into the sink."""
        async with closing(chunks):
            async for chunk in chunks:
                for event in reader.push(chunk):
                    if isinstance(event, PartBegan):
                        self._begin(event)
                    elif isinstance(event, PartData):
                        await self._take(event.data, sink)
        reader.close()

    def _begin(self, part: PartBegan) -> None:
        self._part = part
        if part.name == "file":
            if self.filename is not None:
                raise InvalidParameter("`file` is in the form twice", param="file")
            if part.filename is None:
                raise InvalidParameter("`file` has no filename; send one", param="file")
            self.filename = part.filename[:255]
            return
        if part.name in self.fields:
            raise InvalidParameter(f"`{part.name[:80]}` is in the form twice", param=part.name[:80])
        self.fields[part.name] = ""

    async def _take(self, data: bytes, sink: Sink) -> None:
        part = self._part
        assert part is not None
        if part.name == "file":
            self.size += len(data)
            if self.size > self._max_bytes:
                raise PayloadTooLarge(
                    f"the file is larger than {self._max_bytes} bytes; send less, or raise "
                    "files.max_bytes"
                )
            await sink.write(data)
            return
        text = self.fields[part.name] + data.decode("utf-8", "replace")
        if len(text) > _FIELD_BYTES:
            raise InvalidParameter(
                f"`{part.name[:80]}` is longer than {_FIELD_BYTES}", param=part.name[:80]
            )
        self.fields[part.name] = text
