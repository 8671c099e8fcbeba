"""Scopes → which documents they let through, as parameters of SQL over indexed attributes.

A filter is taken apart into comparisons; each is one statement whose answer is kept and, as
documents are never changed in place, only extended by those that came later. What they mean
together is arithmetic of masks. The meaning is `filters.holds`; tests hold the two together.
"""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headrace.retrieval.stores.filters import FIELDS
from headrace.types.retrieval import AllOf, AnyOf, Compare, Filter, Not, OneOf, Scalar, Where

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
_KEPT = 256
_OPERATORS = {Compare.LT: "<", Compare.LE: "<=", Compare.GT: ">", Compare.GE: ">="}


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """Rows of documents that pass one comparison, among those after a given row."""

    sql: str
    parameters: Mapping[str, Scalar]
    """Beside `after`, the row."""


def readers(principals: frozenset[str]) -> Statement:
    """Documents that these principals may read and not everybody."""
    return Statement(
        sql="SELECT document FROM attributes WHERE key = 'r' AND document > :after AND value IN "
        "(SELECT value FROM json_each(:principals))",
        parameters={"principals": json.dumps(sorted(principals))},
    )


PUBLIC = Statement(
    sql="SELECT document FROM attributes WHERE key = 'p' AND value = 0 AND document > :after",
    parameters={},
)


def equal(field: str, value: Scalar) -> Statement:
    """Documents whose field is this."""
    if field in FIELDS:
        condition = f"{field} = :value" if _comparable(field, value) else "0"
        return Statement(
            sql=f"SELECT row FROM documents WHERE row > :after AND {condition}",
            parameters={"value": value},
        )
    key, value = (f"b:{field}", int(value)) if isinstance(value, bool) else (f"m:{field}", value)
    return Statement(
        sql="SELECT document FROM attributes "
        "WHERE key = :key AND value = :value AND document > :after",
        parameters={"key": key, "value": value},
    )


def compared(where: Where) -> Statement:
    """Documents whose field is smaller, larger, or begins so."""
    value = where.value
    parameters: dict[str, Scalar] = {"value": value}
    if where.field in FIELDS:
        if not _comparable(where.field, value):
            return equal(where.field, value)
        table, row, column, conditions = "documents", "row", where.field, list[str]()
    else:
        table, row, column, conditions = "attributes", "document", "value", ["key = :key"]
        parameters["key"] = f"m:{where.field}"
    if where.compare is Compare.PREFIX:
        conditions.append(f"{column} >= :value")
        if (end := _after(str(value))) is not None:
            conditions.append(f"{column} < :end")
            parameters["end"] = end
    else:
        conditions.append(f"{column} {_OPERATORS[where.compare]} :value")
    # SQLite orders all numbers before all texts.
    conditions.append(f"{column} >= ''" if isinstance(value, str) else f"{column} < ''")
    return Statement(
        sql=f"SELECT {row} FROM {table} WHERE {' AND '.join(conditions)} AND {row} > :after",
        parameters=parameters,
    )


def _comparable(field: str, value: Scalar) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number if field == "modified_s" else isinstance(value, str)


def _after(prefix: str) -> str | None:
    """The least text that is larger than all that begin so; None = there is none."""
    head = prefix.rstrip("\U0010ffff")
    if not head:
        return None
    code = ord(head[-1]) + 1
    return head[:-1] + chr(0xE000 if code == 0xD800 else code)


class Atoms:
    """Answers of statements, kept over documents in order of their rows."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Mask] = OrderedDict()

    def mask(self, connection: sqlite3.Connection, rows: Rows, statement: Statement) -> Mask:
        """Which documents of `rows` pass; those that are gone since may be among them."""
        key = f"{statement.sql} {statement.parameters!r}"
        known = self._kept.get(key)
        if known is None or len(known) > len(rows):
            known = np.zeros(0, np.bool_)
        if len(known) < len(rows):
            after = int(rows[len(known) - 1]) if len(known) else 0
            found = connection.execute(
                statement.sql, {**statement.parameters, "after": after}
            ).fetchall()
            known = np.concatenate((known, np.zeros(len(rows) - len(known), np.bool_)))
            if found:
                wanted = np.fromiter((row for (row,) in found), np.int64, len(found))
                places = np.searchsorted(rows, wanted)
                places[places == len(rows)] = 0
                known[places[rows[places] == wanted]] = True  # not those without chunks
        self._kept[key] = known
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return known

    def passing(self, connection: sqlite3.Connection, rows: Rows, filter: Filter) -> Mask:
        """Which documents of `rows` a filter lets through."""
        match filter:
            case Where(field=field, compare=Compare.EQ, value=value):
                return self.mask(connection, rows, equal(field, value))
            case Where(field=field, compare=Compare.NE, value=value):
                return ~self.mask(connection, rows, equal(field, value))
            case Where():
                return self.mask(connection, rows, compared(filter))
            case OneOf(field=field, values=values):
                passing = np.zeros(len(rows), np.bool_)
                for value in values:
                    passing = passing | self.mask(connection, rows, equal(field, value))
                return passing
            case AllOf(filters=filters):
                passing = np.ones(len(rows), np.bool_)
                for part in filters:
                    passing = passing & self.passing(connection, rows, part)
                return passing
            case AnyOf(filters=filters):
                passing = np.zeros(len(rows), np.bool_)
                for part in filters:
                    passing = passing | self.passing(connection, rows, part)
                return passing
            case Not(filter=part):
                return ~self.passing(connection, rows, part)

    def readable(
        self, connection: sqlite3.Connection, rows: Rows, principals: frozenset[str]
    ) -> Mask:
        """Which documents of `rows` these principals may know of."""
        public = self.mask(connection, rows, PUBLIC)
        return public | self.mask(connection, rows, readers(principals)) if principals else public
