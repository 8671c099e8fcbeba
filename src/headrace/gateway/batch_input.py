"""An input file → the lines of its batch, or the faults that keep it from beginning.

The file is read once, in pieces; what is kept of a line is where it lies.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from headrace.errors import HeadraceError
from headrace.store.batches import NewLine
from headrace.wire.batch_calls import LineFault, read_line

_MOST_FAULTS = 100
CHUNK_LINES = 1000


class Piece(NamedTuple):
    """A line of a file; `data` is empty where it is longer than allowed."""

    number: int
    start: int
    size: int
    data: bytes


async def split(pieces: AsyncIterator[bytes], *, max_bytes: int) -> AsyncIterator[Piece]:
    """The lines of a file that are not blank, counted from 1."""
    buffer, start, number = bytearray(), 0, 0
    dropped = 0
    async for piece in pieces:
        buffer += piece
        at = 0
        while (end := buffer.find(b"\n", at)) >= 0:
            number += 1
            line = b"" if dropped or end - at > max_bytes else bytes(buffer[at:end])
            size = dropped + end - at
            if size and (not line or line.strip()):
                yield Piece(number, start, size, line)
            start += size + 1
            at, dropped = end + 1, 0
        del buffer[:at]
        if len(buffer) > max_bytes:
            dropped += len(buffer)
            buffer.clear()
    size = dropped + len(buffer)
    if size and (dropped or buffer.strip()):
        yield Piece(number + 1, start, size, b"" if dropped else bytes(buffer))


@dataclass(kw_only=True, slots=True)
class Checker:
    """Reads lines; what is right is in `fresh` until it is taken, what is wrong in `faults`."""

    endpoint: str
    max_lines: int
    max_bytes: int
    find: Callable[[str], object]
    """Raises where a model is not there for the caller."""
    model: str = ""
    total: int = 0
    fresh: list[NewLine] = field(default_factory=list[NewLine])
    faults: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _seen: set[str] = field(default_factory=set[str])

    @property
    def hopeless(self) -> bool:
        """Whether more faults would help nobody."""
        return len(self.faults) >= _MOST_FAULTS

    def take(self, piece: Piece) -> None:
        """Check one."""
        try:
            custom_id = self._checked(piece)
        except LineFault as fault:
            self._fault(fault.code, fault.message, line=piece.number, param=fault.param)
            return
        self.total += 1
        if not self.faults:
            self.fresh.append(NewLine(piece.number, custom_id, piece.start, piece.size))

    def close(self) -> None:
        """After the last line."""
        if not self.total and not self.faults:
            self._fault("empty_file", "the input file has no requests", line=None, param=None)

    def refused(self, error: HeadraceError) -> None:
        """The key may not do this, whatever the lines say."""
        self._fault(error.code, error.message, line=None, param=None)

    def _checked(self, piece: Piece) -> str:
        if not piece.data:
            raise LineFault(
                "line_too_long",
                f"the line has {piece.size} bytes; server.max_body_bytes is {self.max_bytes}",
            )
        line = read_line(piece.data, self.endpoint)
        if line.custom_id in self._seen:
            raise LineFault(
                "duplicate_custom_id",
                f"`custom_id` {line.custom_id[:80]!r} is an earlier line's too",
                "custom_id",
            )
        if len(self._seen) >= self.max_lines:
            raise LineFault(
                "too_many_tasks",
                f"the batch has more than {self.max_lines} requests (batches.max_lines)",
            )
        if self.model and line.model != self.model:
            raise LineFault(
                "mismatched_model",
                f"`body.model` is {line.model[:80]!r}; the first line's is {self.model!r}, and a "
                "batch has one model",
                "body.model",
            )
        if not self.model:
            try:
                self.find(line.model)
            except HeadraceError as error:
                raise LineFault(error.code, error.message, "body.model") from None
            self.model = line.model
        self._seen.add(line.custom_id)
        return line.custom_id

    def _fault(self, code: str, message: str, *, line: int | None, param: str | None) -> None:
        if not self.hopeless:
            fault = {"code": code, "message": message, "line": line, "param": param}
            self.faults.append(fault)
