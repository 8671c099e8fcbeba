"""Bills as providers export them (CSV) → lines with tokens, and with money where they name it.

| shape | told by its columns |
|---|---|
| plain | `date`, `model`, and `cost_usd` or token counts; `request_id` where it is by request |
| OpenAI's costs | `start_time`, `amount_value`, `line_item` |
| OpenAI's usage | `start_time`, `input_tokens`, `input_cached_tokens`, `model` |
| Anthropic's cost | `usage_date_utc`, `cost_usd`, `model` |
| Anthropic's usage | `usage_date_utc`, `usage_input_tokens_no_cache`, `model_version` |

Columns that are not read (projects, keys, tiers) are only summed over. Pure: no I/O.
"""

import csv
import datetime
import io
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from headrace.errors import InvalidParameter
from headrace.gateway.prices import nanousd
from headrace.types import Usage

_PLAIN_COUNTS = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens")


class Found(NamedTuple):
    """One row of a bill."""

    model: str
    """Empty = the row does not say."""
    day: int
    request: str
    usage: Usage
    dollars: Decimal | None
    """None = the row has tokens only."""


def read_bill(text: str) -> list[Found]:
    """The rows of a bill.

    Raises: InvalidParameter naming line and column, or the shapes where it is none of them.
    """
    rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
    columns = set(rows.fieldnames or ())
    if {"start_time", "amount_value"} <= columns:
        read = _openai_costs
    elif {"start_time", "input_tokens", "model"} <= columns:
        read = _openai_usage
    elif {"usage_date_utc", "cost_usd"} <= columns:
        read = _anthropic_cost
    elif {"usage_date_utc", "usage_input_tokens_no_cache", "model_version"} <= columns:
        read = _anthropic_usage
    elif {"date", "model"} <= columns and columns & {"cost_usd", "prompt_tokens"}:
        read = _plain
    else:
        raise InvalidParameter(
            "the file has the columns "
            f"{', '.join(sorted(columns)) or '(none)'}, which is no bill of OpenAI or Anthropic; a "
            "plain one has date, model and cost_usd, or date, model, prompt_tokens and "
            "completion_tokens",
            param="file",
        )
    found: list[Found] = []
    for number, row in enumerate(rows, 2):
        try:
            found += read(row)
        except (ValueError, InvalidOperation, KeyError, TypeError) as error:
            raise InvalidParameter(f"line {number}: {error}", param="file") from error
    return found


def _plain(row: Mapping[str, str]) -> Iterator[Found]:
    counts = {name: _count(row, name) for name in _PLAIN_COUNTS}
    yield Found(
        model=row["model"].strip(),
        day=_day(row["date"]),
        request=(row.get("request_id") or "").strip(),
        usage=Usage(**counts),
        dollars=_dollars(row["cost_usd"]) if (row.get("cost_usd") or "").strip() else None,
    )


def _openai_costs(row: Mapping[str, str]) -> Iterator[Found]:
    if not (row["amount_value"] or "").strip():
        return  # a day without any
    currency = (row.get("amount_currency") or "usd").strip().lower()
    if currency != "usd":
        raise ValueError(f"amount_currency is {currency}, not usd")
    item = (row.get("line_item") or "").strip()
    yield Found(
        model=item.split(",")[0].strip(),
        day=_epoch_day(row["start_time"]),
        request="",
        usage=Usage(),
        dollars=_dollars(row["amount_value"]),
    )


def _openai_usage(row: Mapping[str, str]) -> Iterator[Found]:
    if not (row["model"] or "").strip():
        return
    yield Found(
        model=row["model"].strip(),
        day=_epoch_day(row["start_time"]),
        request="",
        usage=Usage(
            prompt_tokens=_count(row, "input_tokens"),
            cached_tokens=_count(row, "input_cached_tokens"),
            completion_tokens=_count(row, "output_tokens"),
        ),
        dollars=None,
    )


def _anthropic_cost(row: Mapping[str, str]) -> Iterator[Found]:
    yield Found(
        model=(row.get("model") or row.get("model_version") or "").strip(),
        day=_day(row["usage_date_utc"]),
        request="",
        usage=Usage(),
        dollars=_dollars(row["cost_usd"]),
    )


def _anthropic_usage(row: Mapping[str, str]) -> Iterator[Found]:
    read = _count(row, "usage_input_tokens_cache_read")
    written = sum(
        _count(row, f"usage_input_tokens_cache_write{suffix}") for suffix in ("", "_5m", "_1h")
    )
    yield Found(
        model=row["model_version"].strip(),
        day=_day(row["usage_date_utc"]),
        request="",
        usage=Usage(
            prompt_tokens=_count(row, "usage_input_tokens_no_cache") + read + written,
            cached_tokens=read,
            cache_write_tokens=written,
            completion_tokens=_count(row, "usage_output_tokens"),
        ),
        dollars=None,
    )


def _count(row: Mapping[str, str], name: str) -> int:
    text = (row.get(name) or "0").strip() or "0"
    value = Decimal(text)
    if value != int(value) or value < 0:
        raise ValueError(f"{name} {text!r} is no count of tokens")
    return int(value)


def _dollars(text: str) -> Decimal:
    value = Decimal(text.strip())
    if not value.is_finite():
        raise ValueError(f"{text!r} is no sum of money")
    return value


def _day(text: str) -> int:
    return datetime.date.fromisoformat(text.strip()[:10]).toordinal() - _EPOCH


def _epoch_day(text: str) -> int:
    return int(Decimal(text.strip())) // 86_400


_EPOCH = datetime.date(1970, 1, 1).toordinal()


def money(dollars: Decimal) -> int:
    """A bill's money as nano-dollars; a credit is negative."""
    return nanousd(dollars) if dollars >= 0 else -nanousd(-dollars)
