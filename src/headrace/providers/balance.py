"""A pool: several targets for one name; an order for each request, then the first that answers.

| policy | order |
|---|---|
| weighted | drawn without replacement, in proportion (Efraimidis and Spirakis 2006) |
| least-busy | fewest requests of this worker running there, in proportion to its weight |
| latency | least expected wait: peak EWMA of the first content, times requests running |
| prefix | highest weighted rendezvous hash of the conversation's beginning |

`prefix` keeps a conversation, and all that begin alike, on the replica whose KV cache has them; a
replica that joins or leaves moves only its own share (Schindelhauer and Schomaker 2005).
"""

import hashlib
import json
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from headrace.providers.load import Load
from headrace.providers.resilience import Fallback, closing
from headrace.types import Backend, ChatRequest, Event, Role

POLICIES = ("weighted", "least-busy", "latency", "prefix")
_PREFIX_CHARACTERS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One target of a pool."""

    name: str
    backend: Backend
    load: Load
    weight: float = 1.0
    """More than 0."""


class Pool:
    """A `Backend` over its members."""

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        policy: str,
        *,
        slow_after_s: float = 0.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._members = tuple(members)
        self._policy = policy
        self._slow_after_s = slow_after_s
        self._chance = chance

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        order = self.order(request)
        request.trail.note(
            "balance",
            f"{self._name}: {self._policy} of {self._told(request)} puts {order[0].name} first",
            policy=self._policy,
            chosen=order[0].name,
        )
        chain = Fallback(
            [member.backend for member in order],
            names=[member.name for member in order],
            slow_after_s=self._slow_after_s,
        )
        async with closing(chain.stream(request)) as events:
            async for event in events:
                yield event

    def order(self, request: ChatRequest) -> list[Member]:
        """Who is asked, the first first."""
        match self._policy:
            case "least-busy":
                scored = [((m.load.running + 1) / m.weight, self._chance()) for m in self._members]
            case "latency":
                scored = [(m.load.cost_s / m.weight, self._chance()) for m in self._members]
            case "prefix":
                begins = prefix(request)
                scored = [(-rendezvous(begins, m.name, m.weight), 0.0) for m in self._members]
            case _:
                scored = [
                    (-math.log(max(self._chance(), 1e-300)) / m.weight, 0.0) for m in self._members
                ]
        return [self._members[at] for _, at in sorted(zip(scored, range(len(scored)), strict=True))]

    def _told(self, request: ChatRequest) -> str:
        match self._policy:
            case "least-busy":
                told = [f"{m.name} ({m.load.running} running)" for m in self._members]
            case "latency":
                told = [f"{m.name} ({_seconds(m.load.latency_s)})" for m in self._members]
            case "prefix":
                told = [f"{m.name}" for m in self._members]
                told[-1] += f" for the prefix {prefix(request).hex()[:12]}"
            case _:
                told = [f"{m.name} ({m.weight:g})" for m in self._members]
        return ", ".join(told)


def prefix(request: ChatRequest) -> bytes:
    """Names what a conversation begins with: tenant, tools, instructions and the first words said.

    It is the same for each later turn; the system prompt alone would send everybody to one place.
    """
    begins: list[object] = [request.caller.tenant, [tool.name for tool in request.tools]]
    for message in request.messages:
        begins.append((message.role.value, message.text[:_PREFIX_CHARACTERS]))
        if message.role not in (Role.SYSTEM, Role.DEVELOPER):
            break
    return hashlib.blake2b(json.dumps(begins).encode(), digest_size=16).digest()


def rendezvous(key: bytes, name: str, weight: float) -> float:
    """A member's score for a key; the highest wins, as often as its weight says."""
    drawn = hashlib.blake2b(key + name.encode(), digest_size=8).digest()
    uniform = (int.from_bytes(drawn) + 1) / (2**64 + 2)
    return -weight / math.log(uniform)


def _seconds(value: float | None) -> str:
    return "untried" if value is None else f"{value:.3f} s"
