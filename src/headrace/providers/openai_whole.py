"""A whole answer of OpenAI's protocol, one JSON object, becomes the events its stream would be.

Invariant: what a `ChunkReader` promises. The object is read as one chunk in which everything came
at once, so both ways of asking have one reading of each field.
"""

from collections.abc import Iterator
from typing import Any

from headrace.errors import UpstreamError
from headrace.providers import shapes
from headrace.providers.openai_errors import from_error_object
from headrace.providers.openai_events import ChunkReader
from headrace.types import Event, Usage

_MAX_BYTES = 16 << 20


class WholeReader:
    """An `EventReader`: `push` bytes as they come, then `end`."""

    def __init__(self, *, choices: int) -> None:
        self._inner = ChunkReader(choices=choices)
        self._parts: list[bytes] = []
        self._size = 0
        self.done = False
        """Never: only the connection's end ends the object."""
        self.heard_all = False

    @property
    def heard(self) -> Usage | None:
        """The answer's usage, once it is read."""
        return self._inner.heard

    def push(self, data: bytes) -> tuple[Event, ...]:
        """Nothing yet. Raises: UpstreamError for an answer over the limit."""
        self._size += len(data)
        if self._size > _MAX_BYTES:
            raise UpstreamError(f"the server's answer is larger than {_MAX_BYTES} bytes")
        self._parts.append(data)
        return ()

    def end(self) -> Iterator[Event]:
        """Everything.

        Raises: UpstreamError where it is not whole, or what the server's own error object says.
        """
        data = b"".join(self._parts)
        answer = shapes.parse(data)
        if answer.get("error") is not None:
            raise from_error_object(answer["error"], status=None)
        with shapes.shaped(data):
            choices = [_as_delta(choice) for choice in shapes.objects(answer.get("choices"))]
            yield from self._inner.read({**answer, "choices": choices})
        yield from self._inner.end()


def _as_delta(choice: dict[str, Any]) -> dict[str, Any]:
    if "text" in choice:  # /completions
        return choice
    return {**choice, "delta": shapes.mapping(choice.get("message"))}
