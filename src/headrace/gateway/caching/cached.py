"""A `Backend` that gives an answer again where the same team asked the same.

Off unless a route has `cache_ttl_s`. The header `x-headrace-cache: bypass` goes past it, `refresh`
asks anew and keeps the new answer. A hit has no leg: it is labelled (`trail.cache`, the answer's
header) and costs `hit_ppm` of its own price. Only answers that ended by themselves are kept.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from headrace.errors import HeadraceError
from headrace.gateway.caching.asked import BYPASS, REFRESH
from headrace.gateway.caching.calls import MISS, Call
from headrace.gateway.caching.events import Answer, decode, encode, is_whole
from headrace.gateway.caching.key import Scope, answer_id, why_not
from headrace.gateway.caching.shelf import Shelf
from headrace.gateway.http import closing
from headrace.providers.residency import Residency
from headrace.store.answers import Kept
from headrace.types import Backend, ChatRequest, Event

Snapshot = Callable[[ChatRequest], Awaitable[str]]
_TRIES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePolicy:
    """What a route says of its cache."""

    ttl_s: int
    any_sampling: bool = False
    hit_ppm: int = 0
    """What a hit costs, in millionths of the answer's own price."""


async def no_snapshot(_: ChatRequest) -> str:
    """Of a route without retrieval."""
    return ""


class Cached:
    """Before one target of one route."""

    def __init__(
        self,
        backend: Backend,
        shelf: Shelf,
        policy: CachePolicy,
        scope: Scope,
        *,
        residency: Residency | None = None,
        snapshot: Snapshot = no_snapshot,
    ) -> None:
        """
        Args:
            backend: What is asked on a miss.
            shelf: Where answers are.
            policy: The route's.
            scope: Of the names of answers; its snapshot is `snapshot`'s.
            residency: Says whose answers may not be kept; None = all may.
            snapshot: What documents retrieval would see for a request, by content, and with whose
                eyes.
        """
        self._backend = backend
        self._shelf = shelf
        self._policy = policy
        self._scope = scope
        self._residency = residency or Residency()
        self._snapshot = snapshot

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """As `Backend.stream`."""
        reason = self._why_not(request)
        if reason:
            request.trail.note("cache", f"not asked: {reason}")
            async with closing(self._backend.stream(request)) as events:
                async for event in events:
                    yield event
            return
        request.trail.hit_ppm = self._policy.hit_ppm
        snapshot = await self._snapshot(request)
        id = answer_id(request, replace(self._scope, snapshot=snapshot))
        for attempt in range(1, _TRIES + 1):
            call = self._call(request, id, snapshot)
            spoken = False
            try:
                async with closing(call.read(request)) as events:
                    async for event in events:
                        if not spoken:
                            spoken = True
                            self._note(request, id)
                        yield event
                    return
            except HeadraceError as error:
                if spoken or error is not call.error or attempt == _TRIES:
                    raise
                if call.pays(request.trail):
                    raise  # its own call: it led, or whoever did has left
                request.trail.note(
                    "cache",
                    f"the call that was read along failed ({error.message[:200]}); asked anew",
                )

    def _why_not(self, request: ChatRequest) -> str:
        if request.trail.cache_asked == BYPASS:
            return "the request says bypass"
        if not self._residency.may_keep(request.caller):
            return "answers of this data class are not kept"
        return why_not(request, any_sampling=self._policy.any_sampling)

    def _call(self, request: ChatRequest, id: str, snapshot: str) -> Call:
        """The running call of that name, or a new one."""
        calls = self._shelf.calls
        refresh = request.trail.cache_asked == REFRESH
        running = calls.get(id)
        if running is not None and not refresh:
            return running

        def source(call: Call) -> AsyncIterator[Event]:
            return self._answer(call, request, id, snapshot, refresh=refresh)

        def ended(call: Call) -> None:
            if calls.get(id) is call:
                del calls[id]

        made = Call(request, source, ended=ended)
        calls[id] = made
        return made

    async def _answer(
        self, call: Call, request: ChatRequest, id: str, snapshot: str, *, refresh: bool
    ) -> AsyncIterator[Event]:
        kept = None if refresh else await self._kept(request, id)
        if kept is not None:
            call.replayed = True
            call.kept = kept.legs
            call.trail.quotes.extend(kept.quotes)
            for event in kept.events:
                yield event
            return
        # Every reader minds its own deadline; the leader's must not end what others read on.
        shared = replace(request, trail=call.trail, deadline_s=None)
        async with closing(self._backend.stream(shared)) as events:
            async for event in events:
                yield event
        call.kept = tuple(call.trail.legs)
        if call.trail.quotes and await self._snapshot(request) != snapshot:
            call.trail.note("cache", "not kept: the index has changed meanwhile")
            return
        self._keep(call, request, id)

    async def _kept(self, request: ChatRequest, id: str) -> Answer | None:
        found = await self._shelf.get(id)
        caller = request.caller
        # The name has the team in it; a row that says otherwise is not this team's all the same.
        if found is None or (found.org, found.team) != (caller.org, caller.team):
            return None
        try:
            return decode(found.body)
        except ValueError:
            return None

    def _keep(self, call: Call, request: ChatRequest, id: str) -> None:
        if not is_whole(call.events):
            call.trail.note("cache", "not kept: the answer did not end by itself")
            return
        quotes = tuple(dict.fromkeys(call.trail.quotes))
        body = encode(Answer(call.events, call.kept, quotes))
        most = self._shelf.settings.max_answer_bytes
        if len(body) > most:
            call.trail.note("cache", f"not kept: {len(body)} bytes are more than {most}")
            return
        now_s = int(self._shelf.clock())
        caller = request.caller
        self._shelf.put(
            Kept(
                id=id,
                org=caller.org,
                team=caller.team,
                key=caller.key_id,
                route=self._scope.route,
                release=self._scope.release,
                created_s=now_s,
                expires_s=now_s + self._policy.ttl_s,
                body=body,
                quotes=quotes,
            )
        )

    def _note(self, request: ChatRequest, id: str) -> None:
        trail = request.trail
        said = "asked anew" if trail.cache == MISS else "a kept answer"
        if trail.cache_asked == REFRESH:
            said += ", as the request says refresh"
        trail.note(
            "cache",
            f"{trail.cache}: {said} ({id[:12]}, kept for {self._policy.ttl_s} s)",
            result=trail.cache,
            id=id[:12],
            config=self._scope.version,
        )
