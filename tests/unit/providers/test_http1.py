"""The client of providers against raw bytes on a socket."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from headrace.providers.http1 import BrokenAnswer, CannotConnect, Pool

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    def __init__(self) -> None:
        self.url = ""
        self.connections = 0
        self.heads: list[bytes] = []


@asynccontextmanager
async def serving(script: Script) -> AsyncGenerator[Server]:
    server, tasks = Server(), set[asyncio.Task[None]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                server.heads.append(head)
                size = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                await reader.readexactly(int(size or b"0"))
                await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/x?a=1"
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def pool(*, most: int = 0, keep_s: float = 5.0) -> AsyncGenerator[Pool]:
    made = Pool(connect_s=5.0, keep_s=keep_s, most=most, headers={"X-Ours": "1"})
    try:
        yield made
    finally:
        await made.close()


def saying(*parts: bytes, end: bool = False) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.005)
        if end:
            raise ConnectionError

    return script


async def read(client: Pool, url: str) -> bytes:
    answer = await client.post(url, {"X-More": "2"}, b"{}")
    try:
        return await answer.read(1 << 20)
    finally:
        answer.close()


WHOLE = {
    "in one piece": [OK],
    "in single bytes": [OK[at : at + 1] for at in range(len(OK))],
    "in chunks": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n",
        b"1\r\nk\r\n0\r\n\r\n",
    ],
    "after a word between": [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 X\r\nA: b\r\n\r\n" + OK,
    ],
}


@pytest.mark.parametrize("parts", WHOLE.values(), ids=WHOLE.keys())
async def test_a_whole_answer_and_its_connection_again(parts: list[bytes]) -> None:
    async with serving(saying(*parts)) as server, pool() as client:
        assert [await read(client, server.url) for _ in range(3)] == [b"ok"] * 3
        assert server.connections == 1
    head = server.heads[0]
    assert head.startswith(b"POST /v1/x?a=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    for line in (b"X-Ours: 1", b"X-More: 2", b"Content-Length: 2", b"Accept-Encoding: identity"):
        assert line + b"\r\n" in head


async def test_an_answer_that_ends_with_its_connection() -> None:
    script = saying(b"HTTP/1.1 200 OK\r\n\r\no", b"k", end=True)
    async with serving(script) as server, pool() as client:
        assert await read(client, server.url) == b"ok"
        assert await read(client, server.url) == b"ok"
        assert server.connections == 2


BROKEN = {
    "cut short": ([OK[:-1]], "not whole"),
    "cut in a chunk": (
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\no"],
        "not whole",
    ),
    "nothing": ([], "without an answer"),
    "cut in its head": ([b"HTTP/1.1 200 OK\r\nConte"], "without an answer"),
    "no HTTP": ([b"SSH-2.0\r\n\r\n"], "no HTTP"),
    "two lengths": (
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n"],
        "no HTTP",
    ),
    "another protocol": (
        [b"HTTP/1.1 101 X\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n"],
        "no HTTP",
    ),
    "compressed": (
        [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"],
        "compressed",
    ),
    "an endless head": ([b"HTTP/1.1 200 OK\r\n", b"A: " + b"b" * 70_000 + b"\r\n\r\n"], "head"),
}


@pytest.mark.parametrize(("parts", "words"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer(parts: list[bytes], words: str) -> None:
    async with serving(saying(*parts, end=True)) as server, pool() as client:
        with pytest.raises(BrokenAnswer, match=words):
            await asyncio.wait_for(read(client, server.url), 5)


async def test_what_comes_after_an_answer_is_no_answer_to_the_next() -> None:
    said = iter([OK + OK.replace(b"ok", b"no"), OK])

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(next(said))

    async with serving(script) as server, pool() as client:
        assert await read(client, server.url) == b"ok"
        assert await read(client, server.url) == b"ok"
        assert server.connections == 2


async def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    async with serving(saying(OK, end=True)) as server, pool() as client:
        for _ in range(3):
            assert await read(client, server.url) == b"ok"
            await asyncio.sleep(0.05)
        assert server.connections == 3


async def test_an_idle_connection_is_closed() -> None:
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        assert await reader.read() == b""
        gone.set()

    async with serving(script) as server, pool(keep_s=0.05) as client:
        assert await read(client, server.url) == b"ok"
        await asyncio.wait_for(gone.wait(), 5)


async def test_so_many_at_once_and_the_others_wait() -> None:
    now = most = 0

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        writer.write(OK)

    async with serving(script) as server, pool(most=2) as client:
        assert set(await asyncio.gather(*(read(client, server.url) for _ in range(9)))) == {b"ok"}
        left = asyncio.create_task(read(client, server.url))
        await asyncio.sleep(0.005)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert await asyncio.wait_for(read(client, server.url), 5) == b"ok"
    assert most == 2


async def test_who_reads_slowly_stops_the_sender() -> None:
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        for number in range(1024):
            writer.write(b"%d" % (number % 10) * 65536)
            await writer.drain()
            sent += 65536

    async with serving(script) as server, pool() as client:
        answer = await client.post(server.url, {}, b"")
        await asyncio.sleep(0.3)
        assert sent < 32 << 20
        size = 0
        while data := await answer.read_some():
            size += len(data)
        assert size == 64 << 20
        answer.close()


async def test_closing_the_pool_ends_whoever_waits() -> None:
    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(script) as server, pool() as client:
        waiting = asyncio.create_task(read(client, server.url))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(BrokenAnswer):
            await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nb", "a\0b"])
async def test_a_header_that_is_two_is_not_sent(value: str) -> None:
    async with serving(saying(OK)) as server, pool() as client:
        with pytest.raises(ValueError, match="line break or a NUL"):
            await client.post(server.url, {"A": value}, b"")
        assert not server.heads


@pytest.mark.parametrize("url", ["ftp://x/y", "http:///x", "http://x/a b", "http://x/ä"])
async def test_what_is_no_address(url: str) -> None:
    async with pool() as client:
        with pytest.raises(ValueError, match=r"address|percent"):
            await client.post(url, {}, b"")


async def test_nobody_there() -> None:
    async with serving(saying(OK)) as server:
        pass
    async with pool() as client:
        with pytest.raises(CannotConnect):
            await client.post(server.url, {}, b"")
