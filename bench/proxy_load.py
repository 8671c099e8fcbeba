"""A client that costs little: raw sockets, one thread, as many requests at once as asked for.

Invariant: each connection has one request at a time and is read to its answer's end before the
next; what is counted was received within the window. Latencies are of plain calls only.
"""

import selectors
import socket
import time
from dataclasses import dataclass, field

_HEAD_END = b"\r\n\r\n"
_CHUNKED_END = b"\r\n0\r\n\r\n"
_EVENT = b"data: {"


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What arrived in one stretch of time."""

    seconds: float
    answers: int
    events: int
    """Server-sent events with an object in them."""
    latencies_s: list[float]


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    length: int = -1
    """Of the whole answer, head included; 0 = it ends with its last chunk; -1 = not known yet."""
    asked_s: float = 0.0


class Load:
    """`count` connections to one address, each sending `request` again and again."""

    def __init__(self, port: int, request: bytes, count: int) -> None:
        self._port = port
        self._request = request
        self._count = count

    def run(self, *, warm_s: float, seconds: float) -> Window:
        """Keep it up for a while, and count after the first `warm_s`.

        Raises: RuntimeError for an answer other than 200, or a connection that ends.
        """
        selector = selectors.DefaultSelector()
        connections: list[_Connection] = []
        try:
            for _ in range(self._count):
                connection = _Connection(socket.create_connection(("127.0.0.1", self._port)))
                connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connections.append(connection)
                self._ask(connection)
            self._serve(selector, time.perf_counter() + warm_s)
            began = time.perf_counter()
            answers, events, latencies = self._serve(selector, began + seconds)
            took = time.perf_counter() - began
            return Window(seconds=took, answers=answers, events=events, latencies_s=latencies)
        finally:
            for connection in connections:
                connection.socket.close()
            selector.close()

    def _ask(self, connection: _Connection) -> None:
        connection.received.clear()
        connection.length = -1
        connection.asked_s = time.perf_counter()
        connection.socket.sendall(self._request)

    def _serve(
        self, selector: selectors.BaseSelector, until: float
    ) -> tuple[int, int, list[float]]:
        answers = events = 0
        latencies: list[float] = []
        while time.perf_counter() < until:
            for key, _ in selector.select(0.05):
                connection: _Connection = key.data
                data = connection.socket.recv(1 << 18)
                if not data:
                    raise RuntimeError(f"the connection ended: {bytes(connection.received[-500:])}")
                connection.received += data
                events += data.count(_EVENT)  # the gateways send whole events
                if self._whole(connection):
                    answers += 1
                    latencies.append(time.perf_counter() - connection.asked_s)
                    self._ask(connection)
        return answers, events, latencies

    @staticmethod
    def _whole(connection: _Connection) -> bool:
        received = connection.received
        if connection.length < 0:
            end = received.find(_HEAD_END)
            if end < 0:
                return False
            head = bytes(received[:end]).lower()
            if b" 200 " not in head[:20]:
                raise RuntimeError(f"not an answer: {bytes(received[:800])}")
            at = head.find(b"content-length:")
            connection.length = 0
            if at >= 0:
                connection.length = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        if connection.length:
            return len(received) >= connection.length
        return received.endswith(_CHUNKED_END)
