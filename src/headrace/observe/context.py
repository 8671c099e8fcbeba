"""W3C Trace Context: the headers of a request become its place in a trace, and are passed on.

A `traceparent` that is malformed is treated as absent, as the specification demands: a trace that
begins here is better than one joined by mistake. Source: https://www.w3.org/TR/trace-context-2/.
"""

import hashlib
import re
from typing import NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_ID = re.compile(r"[0-9a-f]{32}")
_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MAX_MEMBERS = 32
_MAX_STATE_CHARACTERS = 512


class TraceContext(NamedTuple):
    """A request's place in a trace."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """Of the request here, 16 hexadecimal digits."""
    parent_id: str = ""
    """The caller's span; empty = the trace begins here."""
    sampled: bool = True
    """Whether the caller records the trace."""
    state: str = ""
    """`tracestate`, passed on as it came."""

    @property
    def traceparent(self) -> str:
        """The header of a call on the request's behalf."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def join(request_id: str, traceparent: str | None, tracestate: str | None = None) -> TraceContext:
    """The context of a request.

    Args:
        request_id: Where it is 32 hexadecimal digits, also the trace's id where none came; else
            that is made of it.
        traceparent: The header, if there was exactly one.
        tracestate: The header; several are joined with commas.
    """
    if not _ID.fullmatch(request_id):
        request_id = hashlib.sha256(request_id.encode()).hexdigest()[:32]
    span_id = request_id[16:32]
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent.strip())
    if found is None or not _holds(*found.groups()):
        return TraceContext(request_id, span_id)
    _, trace_id, parent_id, flags, _ = found.groups()
    return TraceContext(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent_id,
        sampled=bool(int(flags, 16) & 1),
        state=_state(tracestate),
    )


def _holds(version: str, trace_id: str, parent_id: str, flags: str, more: str | None) -> bool:
    known = version != "ff" and (version != "00" or more is None)
    return known and bool(flags) and int(trace_id, 16) != 0 and int(parent_id, 16) != 0


def _state(header: str | None) -> str:
    members = [member.strip() for member in (header or "").split(",") if member.strip()]
    state = ",".join(members)
    good = len(members) <= _MAX_MEMBERS and all(_MEMBER.fullmatch(member) for member in members)
    return state if good and len(state) <= _MAX_STATE_CHARACTERS else ""
