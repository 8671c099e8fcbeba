"""OpenAI's Files with the official client: kept whole, shown to their team, gone when deleted."""

import asyncio
import io
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from sqlalchemy import delete

from databases import KINDS
from gateway_server import services
from headrace.gateway.asgi import build
from headrace.gateway.file_store import FileLimits
from headrace.store.blobs import CHUNK_BYTES
from headrace.store.tables import files
from stored_gateway import Stored, stored

LIMITS = FileLimits(max_bytes=3 << 20, team_bytes=5 << 20)
EVERY_BYTE = bytes(range(256))


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(params=KINDS, scope="module", loop_scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncGenerator[Stored]:
    directory = tmp_path_factory.mktemp("files")
    async with stored(directory, kind=request.param, limits=LIMITS) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(shared: Stored) -> AsyncGenerator[Stored]:
    """Empty for each test."""
    yield shared
    shared.files.clock = time.time
    await shared.database.write(lambda c: c.execute(delete(files)))
    await shared.files.clean(age_s=-5.0)


async def contents(gateway: Stored) -> list[str]:
    return await gateway.files.blobs.old(age_s=-5.0)


async def test_a_file_comes_back_as_it_went(gateway: Stored) -> None:
    for size in (0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 7):
        await go_and_return(gateway, (EVERY_BYTE * (size // 256 + 1))[:size])


async def go_and_return(gateway: Stored, data: bytes) -> None:
    client, size = gateway.openai(), len(data)
    made = await client.files.create(file=("żółw, 1.bin", io.BytesIO(data)), purpose="user_data")
    assert (made.bytes, made.filename, made.purpose) == (size, "żółw, 1.bin", "user_data")
    assert made.status == "processed"
    assert made.expires_at is None
    assert await client.files.retrieve(made.id) == made
    got = await client.files.content(made.id)
    assert got.content == data
    assert made.id in await contents(gateway)


async def test_lists_have_pages_purposes_and_both_orders(gateway: Stored) -> None:
    client = gateway.openai()
    made = [
        (await client.files.create(file=(f"{at}", b"x"), purpose=purpose)).id
        for at, purpose in enumerate(("user_data", "batch", "user_data", "batch", "user_data"))
    ]
    listed = [file.id async for file in client.files.list(limit=2)]
    assert sorted(listed) == sorted(made)
    ascending = await client.files.list(order="asc")
    assert [file.id for file in ascending.data] == listed[::-1]
    some = await client.files.list(purpose="batch")
    assert {file.id for file in some.data} == {made[1], made[3]}
    assert all(file.expires_at == file.created_at + 2_592_000 for file in some.data)
    first = await gateway.call("GET", "/v1/files", params={"limit": 2})
    body = first.json()
    assert (body["has_more"], body["first_id"], body["last_id"]) == (
        True,
        listed[0],
        listed[1],
    )


async def test_deleted_is_deleted(gateway: Stored) -> None:
    client = gateway.openai()
    made = await client.files.create(file=("a", b"secret words"), purpose="user_data")
    kept = await client.files.create(file=("b", b"x"), purpose="user_data")
    gone = await client.files.delete(made.id)
    assert gone.deleted
    assert await contents(gateway) == [kept.id]
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)
    if not gateway.database.postgres:
        # The form went through memory only; the database has the row's names, not its bytes.
        found = [p.read_bytes() for p in gateway.state_dir.rglob("*") if p.is_file()]
        assert not any(b"secret words" in data for data in found)


async def test_another_teams_file_is_not_there(gateway: Stored) -> None:
    red, blue = gateway.openai("red"), gateway.openai("blue")
    made = await red.files.create(file=("a", b"x"), purpose="user_data")
    messages: set[str] = set()
    for id in (made.id, "file-000000000000000000000000"):
        for call in (blue.files.retrieve, blue.files.content, blue.files.delete):
            with pytest.raises(openai.NotFoundError) as caught:
                await call(id)
            messages.add(caught.value.message.replace(id, "ID").split("request_id")[0])
    assert len(messages) == 1
    assert (await blue.files.list()).data == []
    with pytest.raises(openai.NotFoundError, match="after"):
        await blue.files.list(after=made.id)
    assert (await red.files.content(made.id)).content == b"x"


async def test_expiry(gateway: Stored) -> None:
    client = gateway.openai()
    made = await client.files.create(
        file=("a", b"x"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    kept = await client.files.create(file=("b", b"x"), purpose="user_data")
    assert made.expires_at == made.created_at + 3600
    assert await gateway.files.clean() == 0
    gateway.files.clock = lambda: made.created_at + 3600.0
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(made.id)
    assert [file.id for file in (await client.files.list()).data] == [kept.id]
    assert await gateway.files.clean() == 1
    assert await contents(gateway) == [kept.id]


async def test_limits_of_a_file_and_of_a_team(gateway: Stored) -> None:
    client = gateway.openai()
    big = bytes(LIMITS.max_bytes + 1)
    with pytest.raises(openai.APIStatusError, match=r"files\.max_bytes") as caught:
        await client.files.create(file=("a", big), purpose="user_data")
    assert caught.value.status_code == 413
    await client.files.create(file=("a", big[:-1]), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match=r"files\.team_bytes is 5242880"):
        await client.files.create(file=("b", big[:-1]), purpose="user_data")
    await gateway.openai("blue").files.create(file=("b", big[:-1]), purpose="user_data")
    assert len(await contents(gateway)) == 2


async def test_uploads_at_once_do_not_pass_the_quota_together(gateway: Stored) -> None:
    client = gateway.openai()
    data = bytes(1 << 20)
    made = await asyncio.gather(
        *(client.files.create(file=(f"{at}", data), purpose="user_data") for at in range(8)),
        return_exceptions=True,
    )
    assert sum(not isinstance(one, BaseException) for one in made) == 5
    assert len(await contents(gateway)) == 5


def form(*parts: tuple[str, str], end: str = "--b--\r\n") -> bytes:
    body = "".join(
        f"--b\r\ncontent-disposition: form-data; {head}\r\n\r\n{text}\r\n" for head, text in parts
    )
    return (body + end).encode()


FILE = ('name="file"; filename="a"', "x")
PURPOSE = ('name="purpose"', "user_data")
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"


WRONG_FORMS = [
    (form(FILE), "`purpose` is missing"),
    (form(FILE, ('name="purpose"', "fine-tune")), "as user_data"),
    (form(FILE, ('name="purpose"', "batch_output")), "one of batch, user_data"),
    (form(PURPOSE), "`file` is missing"),
    (form(PURPOSE, ('name="file"', "x")), "no filename"),
    (form(FILE, FILE, PURPOSE), "`file` is in the form twice"),
    (form(FILE, PURPOSE, PURPOSE), "`purpose` is in the form twice"),
    (form(FILE, PURPOSE, ('name="colour"', "red")), "`colour` is not a field"),
    (form(FILE, PURPOSE, (f'name="{ANCHOR}"', "now")), "anchor is created_at"),
    (form(FILE, PURPOSE, (f'name="{ANCHOR}"', "created_at")), "send a number"),
    (
        form(FILE, PURPOSE, (f'name="{ANCHOR}"', "created_at"), (f'name="{SECONDS}"', "60")),
        "3600 to 2592000",
    ),
    (form(FILE, PURPOSE, end=""), "breaks off"),
    (form(FILE, ('name="purpose"', "x" * 5000)), "longer than 4096"),
    (form(FILE, ("filename=x", "y")), "has no name"),
    (b"garbage", "not a well-formed form"),
    (b"", "breaks off"),
    (form(*(("name=f" + str(at), "") for at in range(40))), "more than 32 parts"),
]
WRONG_QUERIES = [
    ("limit=0", "1 to 10000"),
    ("limit=a", "1 to 10000"),
    ("order=up", "asc or desc"),
    ("limit=1&limit=2", "twice"),
    ("colour=red", "not a query parameter"),
]


async def test_whatever_is_wrong_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    async with stored(tmp_path, limits=LIMITS) as gateway:
        for body, said in WRONG_FORMS:
            headers = {
                "content-type": "multipart/form-data; boundary=b",
                "authorization": f"Bearer {gateway.keys['red'].token}",
            }
            answer = await gateway.client.post("/v1/files", content=body, headers=headers)
            assert answer.status_code == 400, answer.text
            assert said in answer.json()["error"]["message"]
        answer = await gateway.call("POST", "/v1/files", json={})
        assert "multipart/form-data" in answer.json()["error"]["message"]
        for query, said in WRONG_QUERIES:
            answer = await gateway.call("GET", f"/v1/files?{query}")
            assert answer.status_code == 400
            assert said in answer.json()["error"]["message"]
        await leave(gateway)
        assert await contents(gateway) == []


async def leave(gateway: Stored) -> None:
    """A client that closes the connection in the middle of its upload."""
    messages: list[Any] = [
        {"type": "http.request", "body": form(FILE, PURPOSE)[:80], "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there to be answered")

    headers = {
        "content-type": "multipart/form-data; boundary=b",
        "authorization": f"Bearer {gateway.keys['red'].token}",
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await build(gateway.live)(scope, receive, send)
    assert gateway.records.seen[-1].status == 499


async def test_without_a_store_there_are_none() -> None:
    app: Any = build(services())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1"
    ) as client:
        answer = await client.get("/v1/files")
    assert answer.status_code == 404
    assert "set store.url" in answer.json()["error"]["message"]


async def test_what_no_row_knows_is_cleaned_up(gateway: Stored) -> None:
    """As a crash between the bytes and the row leaves it."""
    made = await gateway.openai().files.create(file=("a", b"x"), purpose="user_data")
    async with gateway.files.blobs.create("file-orphan") as sink:
        await sink.write(b"y")
    assert await gateway.files.clean() == 0  # it may be an upload that has not ended
    assert await gateway.files.clean(age_s=-5.0) == 1
    assert await contents(gateway) == [made.id]
