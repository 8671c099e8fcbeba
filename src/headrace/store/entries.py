"""One request's money as one record: while it runs (`held`), and when it has ended.

The same record is a line of a worker's journal, a row of `holds`, and what `book` makes rows of.
"""

from typing import NamedTuple

import msgspec

HELD = "held"
SETTLED = "settled"
UNRESOLVED = "unresolved"
"""The worker died while it ran: what it used is not known, so all that was held counts."""


class Charge(NamedTuple):
    """What a request takes from one window."""

    window_id: int
    held: int
    used: int
    """While it runs, what would count if nothing more were ever heard of it."""


class LegLine(NamedTuple):
    """One call of a provider, or of the local engine, as it was paid."""

    provider: str
    """As the settings name it; empty = the local engine."""
    upstream: str
    """The provider's own name of the model."""
    outcome: str
    estimated: int
    """1 = cut short: the tokens are the most that it may have used."""
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    compute_us: int
    kv_byte_s: int
    cost_nanousd: int


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    kind: str
    at_s: int
    org: str = ""
    team: str = ""
    user: str = ""
    key: str = ""
    feature: str = ""
    model: str = ""
    route: str = ""
    finish: str = ""
    batch: str = ""
    """Of a line of a batch; `reruns` says what that means where its worker dies."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanousd: int = 0
    held_nanousd: int = 0
    price_hash: str = ""
    provider: str = ""
    """Of the only call, as `LegLine`; while it runs, of the first that may be made."""
    upstream: str = ""
    cache: str = ""
    """hit | miss; empty = no cache was asked."""
    estimated: int = 0
    compute_us: int = 0
    kv_byte_s: int = 0
    calls: int = 0
    legs: tuple[LegLine, ...] = ()
    """Where there was not exactly one call."""
    charges: tuple[Charge, ...] = ()


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Entry).decode


def reruns(entry: Entry) -> bool:
    """Whether a request whose worker died is asked again under the same id, and booked then: an
    attempt that nobody got an answer of is not billed beside it."""
    return bool(entry.batch)


def unresolved(entry: Entry) -> Entry:
    """A running request as it is booked when its worker died."""
    return msgspec.structs.replace(
        entry, kind=UNRESOLVED, finish="crash", cost_nanousd=entry.held_nanousd, estimated=1
    )


def spell_charges(charges: tuple[Charge, ...]) -> str:
    """As `transactions.charges` has them."""
    return ",".join(f"{charge.window_id}:{charge.used}" for charge in charges)
