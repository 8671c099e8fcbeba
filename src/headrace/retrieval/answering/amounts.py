"""Where a text states a number or a date that is the claimed one."""

from headrace.retrieval.answering.quantities import Moment, Quantity, agree, equal
from headrace.retrieval.answering.reading import Item, Reading


def numbers_like(item: Item, reading: Reading) -> list[int]:
    assert isinstance(item, Quantity)
    return [at for at in reading.numbers if same_amount(item, reading.row[at])] + [
        at for at in reading.moments if same_amount(item, reading.row[at])
    ]


def dates_like(item: Item, reading: Reading) -> list[int]:
    assert isinstance(item, Moment)
    whole = [
        at for at in (*reading.moments, *reading.numbers) if same_amount(item, reading.row[at])
    ]
    if whole or not (item.year and item.month):
        return whole
    # Said apart: a year without a month, and a month without a year.
    bare = [(at, reading.row[at]) for at in reading.moments]
    years = [at for at, m in bare if _part(m, "year") == item.year and not _part(m, "month")]
    months = [at for at, m in bare if _part(m, "month") == item.month and not _part(m, "year")]
    days = [at for at in months if _part(reading.row[at], "day") in (0, item.day) or not item.day]
    return [at for at in days if any(abs(at - other) <= 12 for other in years)]


def same_amount(claimed: Item, found: Item) -> bool:
    match claimed, found:
        case Quantity(), Quantity():
            return equal(claimed, found)
        case Moment(), Moment():
            return agree(claimed, found)
        case Quantity(unit="ordinal"), Moment():
            return claimed.value == found.century
        case Quantity(), Moment():
            return claimed.value == found.year and not claimed.unit
        case Moment(), Quantity():
            return bool(claimed.year) and claimed.year == found.value and not claimed.month
        case _:
            return False


def is_number(item: Item, ours: Item) -> bool:
    if not (isinstance(item, Quantity) and isinstance(ours, Quantity)):
        return False
    return item.unit == ours.unit


def is_date(item: Item, ours: Item) -> bool:
    return isinstance(item, Moment) and isinstance(ours, Moment)


def _part(item: Item, name: str) -> int:
    return getattr(item, name) if isinstance(item, Moment) else 0
