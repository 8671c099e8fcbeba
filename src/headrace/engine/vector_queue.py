"""Embedding requests that wait → the inputs that the next step runs.

A step takes inputs of several requests up to a budget of tokens, each request its share, so that a
request of thousands of texts does not hold up one of a single text; what shares leave over goes in
order of arrival. Work of low priority gets what is left. Plain Python: no torch, no clock of its
own.

Invariant: every input of a request that was added is planned exactly once, unless the request was
dropped first; a step's inputs exceed the budget only where a single one does.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.types import Priority


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorRequest:
    """Inputs to become vectors."""

    id: str
    """Unique among the requests in flight."""
    inputs: tuple[tuple[int, ...], ...]
    deadline_s: float | None = None
    """Absolute, on the engine's clock."""
    priority: Priority = Priority.INTERACTIVE

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids in self.inputs)


class Item(NamedTuple):
    """One input of a step."""

    request: VectorRequest
    at: int

    @property
    def ids(self) -> tuple[int, ...]:
        return self.request.inputs[self.at]


@dataclass(kw_only=True, slots=True)
class _Waiting:
    request: VectorRequest
    planned: int = 0

    @property
    def next_tokens(self) -> int:
        return len(self.request.inputs[self.planned])


@dataclass(slots=True)
class VectorQueue:
    """Requests with inputs that were not planned yet."""

    tokens: int = 0
    """Of inputs that wait."""
    _waiting: dict[str, _Waiting] = field(default_factory=dict[str, _Waiting])

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: VectorRequest) -> None:
        """Put it behind the others."""
        self._waiting[request.id] = _Waiting(request=request)
        self.tokens += request.tokens

    def drop(self, request_id: str) -> None:
        """Forget what waits of a request; one that is unknown, or planned whole, is no error."""
        entry = self._waiting.pop(request_id, None)
        if entry is not None:
            self.tokens -= sum(len(ids) for ids in entry.request.inputs[entry.planned :])

    def late(self, now_s: float) -> list[VectorRequest]:
        """Requests that wait beyond their deadline."""
        found = (entry.request for entry in self._waiting.values())
        return [r for r in found if r.deadline_s is not None and r.deadline_s <= now_s]

    def plan(self, budget: int) -> list[Item]:
        """Take the inputs of the next step, shortest first."""
        items: list[Item] = []
        left = budget
        for entries in self._levels():
            share = budget // len(entries)
            for item in (*_take(entries, share, left, first=not items),):
                items.append(item)
                left -= len(item.ids)
            for item in (*_take(entries, left, left, first=not items),):
                items.append(item)
                left -= len(item.ids)
        self.tokens -= sum(len(item.ids) for item in items)
        for id in {item.request.id for item in items}:
            entry = self._waiting[id]
            if entry.planned == len(entry.request.inputs):
                del self._waiting[id]
        return sorted(items, key=lambda item: len(item.ids))

    def _levels(self) -> Iterator[list[_Waiting]]:
        for priority in Priority:
            entries = [e for e in self._waiting.values() if e.request.priority is priority]
            if entries:
                yield entries


def _take(entries: Iterable[_Waiting], share: int, left: int, *, first: bool) -> Iterator[Item]:
    """Inputs of each entry up to `share` tokens, of all up to `left`; the very `first` anyway."""
    for entry in entries:
        mine = share
        while entry.planned < len(entry.request.inputs):
            size = entry.next_tokens
            if not first and (size > mine or size > left):
                break
            yield Item(entry.request, entry.planned)
            entry.planned += 1
            mine -= size
            left -= size
            first = False


def by_request(items: Sequence[Item]) -> dict[str, list[tuple[int, Item]]]:
    """The items of each request, with their rows in the step."""
    found: dict[str, list[tuple[int, Item]]] = {}
    for row, item in enumerate(items):
        found.setdefault(item.request.id, []).append((row, item))
    return found
