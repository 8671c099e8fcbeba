"""The query of a URL → its values, each known, each once."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

from headrace.errors import InvalidParameter, UnknownParameter
from headrace.gateway.http import Exchange

_MAX_FIELDS = 20


class ListQuery(NamedTuple):
    """Which part of a list a client asks for."""

    limit: int
    after: str
    newest_first: bool
    others: Mapping[str, str]


def read_query(exchange: Exchange, *names: str) -> dict[str, str]:
    """The values of a query that may have these names.

    Raises: UnknownParameter, InvalidParameter.
    """
    text = exchange.scope.get("query_string", b"").decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise InvalidParameter(f"the query has more than {_MAX_FIELDS} fields") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            known = f"it takes {', '.join(names)}" if names else "it takes none"
            raise UnknownParameter(
                f"`{name[:80]}` is not a query parameter of {exchange.path[:80]}; {known}",
                param=name[:80],
            )
        if name in found:
            raise InvalidParameter(f"`{name}` is in the query twice", param=name)
        found[name] = value
    return found


def read_list_query(
    exchange: Exchange, *names: str, default: int, most: int, order: bool = False
) -> ListQuery:
    """`limit`, `after`, where it is one `order`, and other names.

    Raises: UnknownParameter, InvalidParameter.
    """
    own = ("limit", "after", "order") if order else ("limit", "after")
    found = read_query(exchange, *own, *names)
    limit = found.pop("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= most):
        raise InvalidParameter(
            f"`limit` is {limit[:40]!r}; it is a number from 1 to {most}", param="limit"
        )
    direction = found.pop("order", "desc")
    if direction not in ("asc", "desc"):
        raise InvalidParameter(f"`order` is {direction[:40]!r}; it is asc or desc", param="order")
    return ListQuery(int(limit), found.pop("after", ""), direction == "desc", found)
