"""Filters: what may be asked, what they mean, document by document.

`holds` is the meaning, slow and plain; stores compile a filter to their own query, and tests hold
them to this. Numbers compare with numbers, texts with texts by code points, truths with truths and
for equality only; whatever is of another kind than the value asked for is as good as not there.
"""

import math
import re
from collections.abc import Mapping

from headrace.errors import InvalidParameter
from headrace.types import SourceDocument
from headrace.types.retrieval import AllOf, AnyOf, Compare, Filter, Not, OneOf, Scalar, Where

FIELDS = ("id", "source", "title", "media_type", "modified_s")
"""Of the document itself; every other name is a key of its metadata."""
MAX_DEPTH = 16
MAX_ATOMS = 512
_LARGEST = 2**63 - 1
_LONE = re.compile("[\ud800-\udfff]")


def check(filter: Filter | None) -> None:
    """Refuse what cannot be asked.

    Raises: InvalidParameter.
    """
    atoms = _check(filter, 1) if filter is not None else 0
    if atoms > MAX_ATOMS:
        raise InvalidParameter(
            f"filter compares {atoms} values; at most {MAX_ATOMS}", param="filter"
        )


def _check(filter: Filter, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise InvalidParameter(f"filter is nested deeper than {MAX_DEPTH}", param="filter")
    match filter:
        case Where(field=field, compare=compare, value=value):
            check_value(field, value)
            if compare is Compare.PREFIX and not isinstance(value, str):
                raise InvalidParameter(f"filter: prefix of {field!r} needs a text", param="filter")
            if isinstance(value, bool) and compare not in (Compare.EQ, Compare.NE):
                raise InvalidParameter(
                    f"filter: {field!r} {compare.value} {value}: truths are equal or not, not "
                    "smaller or larger",
                    param="filter",
                )
            return 1
        case OneOf(field=field, values=values):
            for value in values:
                check_value(field, value)
            return max(1, len(values))
        case AllOf(filters=filters) | AnyOf(filters=filters):
            return sum(_check(part, depth + 1) for part in filters)
        case Not(filter=part):
            return _check(part, depth + 1)


def check_value(field: str, value: Scalar) -> None:
    """Of a filter or of metadata: what every store can keep and compare alike.

    Raises: InvalidParameter.
    """
    wrong = None
    if isinstance(value, bool):
        return
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and _LONE.search(value)):
            wrong = "a text without NUL and lone surrogates"
    elif isinstance(value, int):
        if abs(value) > _LARGEST:
            wrong = "a whole number of 64 bits"
    elif not (isinstance(value, float) and math.isfinite(value)):  # pyright: ignore[reportUnnecessaryIsInstance]
        wrong = "a text, a finite number or a truth"
    if wrong is not None:
        raise InvalidParameter(f"{field!r} = {value!r} must be {wrong}", param=field)


def field_of(document: SourceDocument, name: str) -> Scalar | None:
    """What a filter sees under a name; None = the document lacks it."""
    if name in FIELDS:
        value: Scalar = getattr(document, name)
        return value
    return document.metadata.get(name)


def holds(filter: Filter, document: SourceDocument) -> bool:
    """Whether a document passes."""
    match filter:
        case Where(field=field, compare=compare, value=value):
            return _compares(field_of(document, field), compare, value)
        case OneOf(field=field, values=values):
            found = field_of(document, field)
            return any(_compares(found, Compare.EQ, value) for value in values)
        case AllOf(filters=filters):
            return all(holds(part, document) for part in filters)
        case AnyOf(filters=filters):
            return any(holds(part, document) for part in filters)
        case Not(filter=part):
            return not holds(part, document)


def _kind(value: Scalar | None) -> str:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "nothing" if value is None else "number"


def _compares(found: Scalar | None, compare: Compare, value: Scalar) -> bool:
    if _kind(found) != _kind(value):
        return compare is Compare.NE
    a, b = found, value
    match compare:
        case Compare.EQ:
            return a == b
        case Compare.NE:
            return a != b
        case Compare.PREFIX:
            return str(a).startswith(str(b))
        case Compare.LT:
            return a < b  # pyright: ignore[reportOperatorIssue]
        case Compare.LE:
            return a <= b  # pyright: ignore[reportOperatorIssue]
        case Compare.GT:
            return a > b  # pyright: ignore[reportOperatorIssue]
        case Compare.GE:
            return a >= b  # pyright: ignore[reportOperatorIssue]


def readable(readers: frozenset[str] | None, principals: frozenset[str] | None) -> bool:
    """Whether one of these principals may know of a document."""
    return principals is None or readers is None or not readers.isdisjoint(principals)


def check_document(document: SourceDocument) -> None:
    """Refuse what no filter could compare.

    Raises: InvalidParameter.
    """
    if not document.id:
        raise InvalidParameter("a document needs an id", param="id")
    for name, text in (
        ("id", document.id),
        ("source", document.source),
        ("title", document.title),
        ("media_type", document.media_type),
    ):
        if not (text.isascii() and "\0" not in text):
            check_value(name, text)
    check_value("modified_s", document.modified_s)
    for name, value in document.metadata.items():
        check_value("metadata key", name)
        if name in FIELDS:
            raise InvalidParameter(
                f"metadata may not be called {name!r}: that is the document's own", param=name
            )
        check_value(name, value)
    for reader in document.readers or ():
        check_value("readers", reader)


def fields(metadata: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """A plain copy, in order of names: equal metadata are written alike."""
    return dict(sorted(metadata.items()))
