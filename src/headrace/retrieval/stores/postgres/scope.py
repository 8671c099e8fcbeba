"""Who asks, and for what: conditions of SQL, and what they let through.

Documents that the same principals may read share an *audience*. A query first learns which
audiences its principals belong to; from there on access is `audience = ANY(...)` inside each
statement, and BM25's statistics are sums over those audiences, so neither a score nor a count says
anything of a document that is hidden. Filters become conditions over `documents.facts`, a jsonb of
all that may be asked for, every value a parameter. Their meaning is `stores.filters.holds`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from headrace.retrieval.contracts import Scope
from headrace.retrieval.stores import filters
from headrace.retrieval.stores.postgres import single
from headrace.types.retrieval import AllOf, AnyOf, Compare, Filter, Not, OneOf, Scalar, Where

if TYPE_CHECKING:
    from asyncpg import Connection

_UNKEPT = re.compile("[\0\ud800-\udfff]")
_SIGNS = {Compare.LT: "<", Compare.LE: "<=", Compare.GT: ">", Compare.GE: ">="}


@dataclass(slots=True)
class Parameters:
    """Values of a statement, in order of their `$n`."""

    values: list[object] = field(default_factory=list[object])

    def add(self, value: object) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


def facts_of(fields: Mapping[str, Scalar]) -> str:
    """JSON in which every number is exact: a float's decimals are written to the last."""
    pairs = (f"{json.dumps(name)}:{_value(value)}" for name, value in fields.items())
    return "{" + ",".join(pairs) + "}"


def _value(value: Scalar) -> str:
    if isinstance(value, float):
        return str(Decimal(value))
    return json.dumps(value)


def condition(filter: Filter, parameters: Parameters) -> str:
    """A filter as SQL over `d.facts`; true or false, never NULL."""
    match filter:
        case Where(field=name, compare=compare, value=value):
            return _compare(name, compare, value, parameters)
        case OneOf(field=name, values=values):
            wanted = parameters.add([facts_of({name: value}) for value in values])
            return f"(d.facts @> ANY({wanted}::jsonb[]))"
        case AllOf(filters=parts):
            return _joined(" AND ", parts, "true", parameters)
        case AnyOf(filters=parts):
            return _joined(" OR ", parts, "false", parameters)
        case Not(filter=part):
            return f"(NOT {condition(part, parameters)})"


def _joined(by: str, parts: Sequence[Filter], none: str, parameters: Parameters) -> str:
    if not parts:
        return none
    return "(" + by.join(condition(part, parameters) for part in parts) + ")"


def _compare(name: str, compare: Compare, value: Scalar, parameters: Parameters) -> str:
    if compare in (Compare.EQ, Compare.NE):
        equal = f"(d.facts @> {parameters.add(facts_of({name: value}))}::jsonb)"
        return equal if compare is Compare.EQ else f"(NOT {equal})"
    key = f"{parameters.add(name)}::text"
    kind = f"jsonb_typeof(d.facts -> {key})"
    if not isinstance(value, str):
        wanted = f"{parameters.add(_value(value))}::jsonb"
        test = f"{kind} = 'number' AND d.facts -> {key} {_SIGNS[compare]} {wanted}"
    elif compare is Compare.PREFIX:
        wanted = f"{parameters.add(value)}::text"
        test = f"{kind} = 'string' AND starts_with(d.facts ->> {key}, {wanted})"
    else:
        wanted = f"{parameters.add(value)}::text"
        text = f'(d.facts ->> {key}) COLLATE "C"'
        test = f"{kind} = 'string' AND {text} {_SIGNS[compare]} {wanted}"
    return f"coalesce({test}, false)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What one scope lets through of one moment of an index."""

    snapshot: str
    active: int
    everything: bool
    """No document is hidden or filtered away."""
    audiences: Sequence[int]
    """That its principals belong to."""
    all_audiences: bool
    filter: Filter | None
    total: int
    """Chunks that there are: for choosing a plan, never told."""
    readable: int
    """Chunks that its principals may read, whatever the filter."""
    mean_length: float
    """Words a chunk, of those."""
    matching: int
    """Chunks that pass the filter too."""

    def where(self, parameters: Parameters) -> str:
        """The scope as SQL over `documents d`."""
        parts: list[str] = []
        if not self.all_audiences:
            parts.append(f"d.audience = ANY({parameters.add(list(self.audiences))}::integer[])")
        if self.filter is not None:
            parts.append(condition(self.filter, parameters))
        return " AND ".join(parts) or "true"


def _nameable(principals: Iterable[str]) -> Iterable[str]:
    """Those that a document's readers can name: PostgreSQL's text takes no others."""
    return (name for name in sorted(principals) if _UNKEPT.search(name) is None)


async def see(connection: "Connection", scope: Scope) -> Sight:
    """What a scope lets through, as this transaction's snapshot has it.

    Raises: InvalidParameter where its filter asks what cannot be compared.
    """
    filters.check(scope.filter)
    born, revision, active = await single.row(
        connection, "SELECT born, revision, active FROM state"
    )
    principals = None if scope.principals is None else [*_nameable(scope.principals)]
    rows = await connection.fetch(
        "SELECT number, chunks, length FROM audiences "
        "WHERE $1::text[] IS NULL OR readers IS NULL OR readers && $1::text[]",
        principals,
    )
    total = await single.value(connection, "SELECT sum(chunks)::bigint FROM audiences")
    readable = sum(row[1] for row in rows)
    sight = Sight(
        snapshot=f"{born}.{revision}",
        active=active,
        everything=principals is None and scope.filter is None,
        audiences=[row[0] for row in rows],
        all_audiences=principals is None,
        filter=scope.filter,
        total=total,
        readable=readable,
        mean_length=sum(row[2] for row in rows) / readable if readable else 1.0,
        matching=readable,
    )
    if scope.filter is None:
        return sight
    parameters = Parameters()
    matching = await single.value(
        connection,
        f"SELECT coalesce(sum(d.chunks), 0) FROM documents d WHERE {sight.where(parameters)}",
        *parameters.values,
    )
    return replace(sight, matching=int(matching))
