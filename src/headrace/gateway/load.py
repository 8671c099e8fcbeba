"""How many data requests are being answered, by priority; batches look at it."""

from headrace.types import Priority


class Load:
    """Counts; one for all services of a process, which outlive each other."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Priority, 0)

    @property
    def live(self) -> int:
        """Requests that somebody waits for."""
        return self._counts[Priority.INTERACTIVE]

    def enter(self, priority: Priority) -> None:
        self._counts[priority] += 1

    def leave(self, priority: Priority) -> None:
        self._counts[priority] -= 1
