"""Bytes of a `text/event-stream` become the data of its events; sans I/O.

Invariant: the events do not depend on how the bytes were cut into chunks. Only `data` is kept: the
OpenAI protocol uses no other field. Source: WHATWG HTML, section 9.2.6.
"""

from headrace.errors import UpstreamError

MAX_EVENT_BYTES = 16 << 20


class SseReader:
    """`push` bytes as they come; each complete event's data comes back once, in order."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False

    def push(self, chunk: bytes) -> list[str]:
        """The events that this chunk completes.

        Raises: UpstreamError for an event over the limit or one that is not UTF-8.
        """
        if not self._rest and not self._data and not self._after_cr:
            whole = _whole_events(chunk)
            if whole is not None and len(chunk) <= self._limit:
                return whole
        events: list[str] = []
        start = 0
        if self._after_cr and chunk:
            # The line feed of a CRLF that was cut in two ends no second line.
            start = 1 if chunk[:1] == b"\n" else 0
            self._after_cr = False
        while True:
            end, after = _line_end(chunk, start)
            if end < 0:
                break
            self._rest += chunk[start:end]
            self._take_line(bytes(self._rest), events)
            self._rest.clear()
            self._after_cr = chunk[end : end + 1] == b"\r" and after == len(chunk) == end + 1
            start = after
        self._rest += chunk[start:]
        if len(self._rest) + self._data_bytes > self._limit:
            raise UpstreamError(f"an event of the stream is larger than {self._limit} bytes")
        return events

    @property
    def unfinished(self) -> bool:
        """Whether bytes of an event that never ended are left."""
        return bool(self._rest.strip()) or bool(self._data)

    def _take_line(self, line: bytes, events: list[str]) -> None:
        if not line:
            if self._data:
                raw = b"\n".join(self._data)
                self._data.clear()
                self._data_bytes = 0
                try:
                    events.append(raw.decode("utf-8"))
                except UnicodeDecodeError as error:
                    raise UpstreamError(f"an event of the stream is not UTF-8: {error}") from error
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value[1:] if value[:1] == b" " else value
            self._data.append(value)
            self._data_bytes += len(value) + 1  # a million empty lines are an event too


def _whole_events(chunk: bytes) -> list[str] | None:
    """The events of a chunk that is nothing but whole events of one `data` line each, as most are;
    None where it is anything else."""
    if not chunk.endswith(b"\n\n") or b"\r" in chunk:
        return None
    events: list[str] = []
    for event in chunk[:-2].split(b"\n\n"):
        if not event.startswith(b"data: ") or b"\n" in event:
            return None
        try:
            events.append(event[6:].decode("utf-8"))
        except UnicodeDecodeError:
            return None
    return events


def _line_end(chunk: bytes, start: int) -> tuple[int, int]:
    """Where the line that begins at `start` ends, and where the next begins; -1 = not yet."""
    feed = chunk.find(b"\n", start)
    carriage = chunk.find(b"\r", start, feed if feed >= 0 else len(chunk))
    if carriage >= 0:
        return carriage, carriage + (2 if chunk[carriage + 1 : carriage + 2] == b"\n" else 1)
    return feed, feed + 1
