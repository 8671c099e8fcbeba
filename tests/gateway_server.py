"""The gateway over a scripted backend, on a real socket in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace

import uvicorn

from headrace.gateway.asgi import Served, Services, build
from headrace.observe.metrics import Metrics
from headrace.observe.usage import UsageRecord
from headrace.testing import ScriptedBackend, Step, reply
from headrace.tokens import Rendered, Span, SpanKind
from headrace.types import ChatRequest, Label, ModelCard, Role

Script = Sequence[Step] | Callable[..., Iterable[Step]]


class ByteCodec:
    """One token a byte."""

    def tokenize(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        return ((256,) if add_special else ()) + tuple(text.encode())

    def detokenize(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        return tuple("<bos>" if i == 256 else chr(i) for i in ids)

    def render(self, request: ChatRequest) -> Rendered:
        text = "".join(message.text for message in request.messages)
        ids = self.tokenize(text, add_special=True)
        content = Span(
            start=1,
            end=len(ids),
            message=0,
            part=0,
            role=Role.USER,
            kind=SpanKind.CONTENT,
            label=Label(),
        )
        mark = replace(content, start=0, end=1, kind=SpanKind.CONTROL, label=None, part=None)
        return Rendered(ids=ids, spans=(mark, content), text=text)


class Records(Metrics):
    """Metrics that know what arrived, and a sink that keeps what came of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[UsageRecord] = []
        self.came = 0

    def arrived(self, route: str) -> None:
        self.came += 1
        super().arrived(route)

    def record(self, record: UsageRecord) -> None:
        super().record(record)
        self.seen.append(record)


@dataclass
class Gateway:
    url: str
    port: int
    backend: ScriptedBackend
    records: Records

    def wait(self, condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until, "it never came true"
            time.sleep(0.005)

    def last(self) -> UsageRecord:
        """Of the request that was answered last: its record follows its last byte."""
        self.wait(lambda: 0 < self.records.came == len(self.records.seen))
        return self.records.seen[-1]

    def raw(self, data: bytes, *, read_all: bool = False) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as peer:
            peer.sendall(data)
            got = peer.recv(1 << 16)
            while read_all and (more := peer.recv(1 << 16)):
                got += more
            return got


def services(script: Script = reply, *, base: Services | None = None) -> Services:
    backend = ScriptedBackend(script)
    card = ModelCard(name="m", context_tokens=4096, created_s=1_700_000_000, fingerprint="fp")
    served = Served(card=card, chat=backend, completions=backend, codec=ByteCodec())
    base = base or Services(models={})
    return replace(base, models={**base.models, "m": served})


@contextlib.contextmanager
def serving(
    script: Script = reply,
    *,
    base: Services | None = None,
    stack: contextlib.AsyncExitStack | None = None,
) -> Generator[Gateway]:
    """Serve; what is on the stack is closed by the server's own loop."""

    records = Records()
    made = replace(services(script, base=base), metrics=records)
    backend = made.models["m"].chat
    assert isinstance(backend, ScriptedBackend)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        build(made),  # pyright: ignore[reportArgumentType] - its ASGI types are narrower
        log_level="critical",
        timeout_graceful_shutdown=2,
        http="httptools",
        loop="asyncio",
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        async with stack or contextlib.AsyncExitStack():
            await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.005)
    port = listener.getsockname()[1]
    try:
        yield Gateway(f"http://127.0.0.1:{port}", port, backend, records)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
        assert not thread.is_alive()
