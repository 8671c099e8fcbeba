"""Text as it streams → text that is safe to show, and the stop string that ended it.

Invariant: the result depends on the text only, never on how it was cut: the stop string that
completes first wins, of several that complete at one character the longest. Only text that may
still become a stop string is held back.
"""

from dataclasses import dataclass

from headrace.errors import InvalidParameter


@dataclass(frozen=True, kw_only=True, slots=True)
class StopResult:
    text: str
    """Safe to emit."""
    matched: str | None
    """The stop string that ended the text; nothing follows it."""


class StopMatcher:
    """Finds the first of several stop strings in a stream."""

    def __init__(self, stops: tuple[str, ...], *, include: bool) -> None:
        """Watch for `stops`.

        Args:
            stops: Non-empty strings; none at all is allowed.
            include: The matched stop string is part of the text.

        Raises:
            InvalidParameter: An empty stop string.
        """
        if "" in stops:
            raise InvalidParameter(
                "`stop` has an empty string, which would match at once", param="stop"
            )
        self._stops = stops
        self._include = include
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self._matched: str | None = None

    def push(self, text: str) -> StopResult:
        """Take more text; after a match everything further is dropped."""
        if self._matched is not None:
            return StopResult(text="", matched=self._matched)
        buffer = self._held + text
        found = [
            (at + len(stop), at, stop) for stop in self._stops if (at := buffer.find(stop)) >= 0
        ]
        if found:
            end, start, self._matched = min(found)
            self._held = ""
            return StopResult(text=buffer[: end if self._include else start], matched=self._matched)
        keep = self._partial(buffer)
        self._held = buffer[len(buffer) - keep :]
        return StopResult(text=buffer[: len(buffer) - keep], matched=None)

    def flush(self) -> str:
        """The held text, once it is known that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _partial(self, buffer: str) -> int:
        """How many characters at the end may begin a stop string."""
        for size in range(min(self._longest - 1, len(buffer)), 0, -1):
            tail = buffer[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
