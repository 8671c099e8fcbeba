"""Text → the numbers and dates that it states, so that `3 million` is 3,000,000 and
`17 Oct 1973` is 1973-10-17.

A number has a value and a class of units; a date has the parts that were said. What is compared is
what is meant, never the spelling.
"""

import re
from dataclasses import dataclass, field, replace

from headrace.retrieval.answering.amount_words import (
    CARDINALS,
    CURRENCIES,
    DATE,
    FRACTION,
    FRACTIONS,
    LOOSE,
    MARCH_OR_MAY,
    MONTHS,
    NUMBER,
    ORDINALS,
    SCALES,
    SPELLED,
    UNIT,
    UNITS,
    WORD_CENTURY,
)

_OFF = 0.6
"""Steps of its last digit that a rounded number may be away: a half, or a little more."""
_ABOVE = ("over", "more than", "at least", "just over", "in excess of")
_POUND = 0.45359237
"""In kg; what is called a pound may be money."""
_RANGE = re.compile(r"\s*(?:to|and|or|[-–—])\s*")
_BELOW = ("under", "less than", "fewer than", "nearly", "almost", "just under", "up to")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number, in the base unit of its class where that is known."""

    start: int
    end: int
    text: str
    value: float
    """As it was written, with its scale."""
    unit: str = ""
    """Class of units: percent, money, length, mass, time, months, ordinal; empty = a count."""
    factor: float = 1.0
    """Base units in one of them."""
    loose: str = ""
    """The word before it that makes it less than exact."""
    rounded: bool = False
    """Written so that it may stand for a finer one: 3.1 million, 12,000."""
    spelled: bool = False
    currency: str = ""
    """$, € ...; empty = money of no name, or no money."""
    step: float = 1.0
    """Of its last digit that says something: .1 of 2.5, 100,000 of 3.1 million, 1,000 of 12,000."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A date, as far as it was said; 0 = not said."""

    start: int
    end: int
    text: str
    year: int = 0
    month: int = 0
    day: int = 0
    decade: int = 0
    """Its first year."""
    century: int = 0

    def covers(self, year: int) -> bool:
        """Whether a year is of this decade or century."""
        if self.decade:
            return self.decade <= year < self.decade + 10
        return self.century > 0 and self.century in ((year - 1) // 100 + 1, year // 100 + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stated:
    """All that a text states."""

    numbers: tuple[Quantity, ...] = field(default_factory=tuple)
    moments: tuple[Moment, ...] = field(default_factory=tuple)


def stated(text: str) -> Stated:
    """The numbers and dates of a text, in order; a year alone is a date."""
    moments = _moments(text)
    taken = [(item.start, item.end) for item in moments]
    numbers: list[Quantity] = []
    for found in NUMBER.finditer(text):
        if _overlaps(found.span("digits"), taken):
            continue
        item = _digits(text, found)
        year = _as_year(text, item, found)
        if year is not None:
            moments.append(year)
        else:
            numbers.append(item)
        taken.append((item.start, item.end))
    for found in (*FRACTION.finditer(text), *SPELLED.finditer(text)):
        if not _overlaps(found.span(), taken):
            item = _spelled(text, found)
            if item is not None:
                numbers.append(item)
                taken.append((item.start, item.end))
    return Stated(
        numbers=tuple(_ranged(text, sorted(numbers, key=lambda item: item.start))),
        moments=tuple(sorted(moments, key=lambda item: item.start)),
    )


def _ranged(text: str, numbers: list[Quantity]) -> list[Quantity]:
    """The first number of a range has the unit of the second: 38 to 44 mm."""
    for at in range(len(numbers) - 2, -1, -1):
        one, other = numbers[at], numbers[at + 1]
        between = text[one.end : other.start]
        if one.unit or other.unit in ("", "ordinal") or not _RANGE.fullmatch(between):
            continue
        if between.strip() in ("and", "or") and "between" not in text[: one.start][-9:]:
            continue
        numbers[at] = replace(one, unit=other.unit, factor=other.factor, currency=other.currency)
    return numbers


def equal(claimed: Quantity, found: Quantity) -> bool:
    """Whether a source's number is what was claimed, by its unit, and by rounding where the claim
    says that it rounds."""
    if claimed.unit == "ordinal" or found.unit == "ordinal":
        return claimed.unit == found.unit and claimed.value == found.value
    one, other = claimed.value, found.value
    if {claimed.unit, found.unit} == {"percent", "fraction"}:
        one = one / 100 if claimed.unit == "percent" else one
        other = other / 100 if found.unit == "percent" else other
        return abs(one - other) <= 0.01
    if _bounded(claimed) * _bounded(found) < 0:
        return False  # at least 500 is not up to 500
    if claimed.currency and found.currency and claimed.currency != found.currency:
        return False
    if {claimed.unit, found.unit} == {"mass", "money"} and _POUND in (claimed.factor, found.factor):
        return _close(one, other) or _rounds(claimed, found)
    if claimed.unit and found.unit and claimed.unit != found.unit:
        return False
    if claimed.unit == found.unit and claimed.factor != found.factor:
        one, other = one * claimed.factor, other * found.factor
        return abs(one - other) <= _OFF * claimed.step * claimed.factor
    if _close(one, other):
        return True
    return _rounds(claimed, found)


def _bounded(item: Quantity) -> int:
    """1 = at least so much, -1 = at most."""
    return int(item.loose in _ABOVE) - int(item.loose in _BELOW)


def agree(claimed: Moment, found: Moment) -> bool:
    """Whether a source's date is the claimed one or a finer one within it."""
    if claimed.decade or claimed.century:
        if found.year:
            return claimed.covers(found.year)
        if found.decade and claimed.century:
            return claimed.covers(found.decade)
        return claimed.decade == found.decade and claimed.century == found.century
    return all(
        getattr(claimed, part) in (0, getattr(found, part)) for part in ("year", "month", "day")
    )


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))


def _rounds(claimed: Quantity, found: Quantity) -> bool:
    one, other = claimed.value, found.value
    if not (claimed.loose or claimed.rounded) or _digits_said(one) >= _digits_said(other):
        return False  # what rounds says less than what it rounds
    if claimed.loose in _ABOVE:
        return one <= other <= 1.25 * one
    if claimed.loose in _BELOW:
        return 0.85 * one <= other <= one
    if claimed.loose:
        return abs(one - other) <= 0.1 * abs(other)
    return abs(one - other) <= _OFF * claimed.step


def _currency(symbol: str, text: str, end: int) -> str:
    found = UNIT.match(text, end)
    word = found["unit"].lower() if found else ""
    return symbol.strip()[-1:] or CURRENCIES.get(word.removesuffix("s"), "")


def _step(digits: str, scale: float) -> float:
    plain = digits.replace(",", "")
    if "." in plain:
        return scale * 10.0 ** -len(plain.partition(".")[2])
    zeros = len(plain) - len(plain.rstrip("0"))
    return scale * (10.0**zeros if scale == 1.0 and len(plain) > 3 else 1.0)


def _digits_said(value: float) -> int:
    """Significant digits, zeros at the end not among them."""
    return len(f"{abs(value):.15g}".replace(".", "").strip("0"))


def _moments(text: str) -> list[Moment]:
    found: list[Moment] = []
    for match in DATE.finditer(text):
        parts = match.groupdict()
        month = next((parts[f"m{n}"] for n in range(1, 6) if parts[f"m{n}"]), None)
        day = next((parts[f"d{n}"] for n in (1, 2, 4) if parts[f"d{n}"]), None)
        year = next((parts[f"y{n}"] for n in range(1, 5) if parts[f"y{n}"]), None)
        if month and not match[0].strip()[0].isdigit() and month[0].islower():
            continue  # `may 12 people`, `march 3 miles`
        found.append(
            Moment(
                start=match.start(),
                end=match.end(),
                text=match[0],
                year=int(year or 0),
                month=(int(month) if month.isdigit() else MONTHS[month.lower()]) if month else 0,
                day=int(day) or 32 if day else 0,  # no day is the 0th
                decade=int(parts["decade"] or 0),
                century=int(parts["century"] or 0),
            )
        )
    taken = [(item.start, item.end) for item in found]
    for match in MARCH_OR_MAY.finditer(text):
        if not _overlaps(match.span("m"), taken):
            start, end = match.span("m")
            found.append(
                Moment(start=start, end=end, text=match["m"], month=MONTHS[match["m"].lower()])
            )
    for match in WORD_CENTURY.finditer(text):
        number = match["n"].lower()
        value = ORDINALS[number.removeprefix("twenty-")] + (
            20 if number.startswith("twenty-") else 0
        )
        found.append(
            Moment(start=match.start(), end=match.end(), text=match[0], century=int(value))
        )
    return found


def _digits(text: str, match: "re.Match[str]") -> Quantity:
    digits = match["digits"]
    value = float(digits.replace(",", ""))
    scale = (match["scale"] or "").lower()
    end = match.end()
    if scale in ("k", "m") and text[match.end("digits")].isspace():
        scale, end = "", match.end("digits")  # 5 m are metres
    value *= SCALES.get(scale, 1.0)
    if match["sign"]:
        value = -value
    unit, factor = ("money", 1.0) if match["money"] else ("", 1.0)
    if match["ordinal"]:
        unit = "ordinal"
    elif not unit:
        unit, factor = _unit(text, end)
    whole = value == int(value) if abs(value) < 1e15 else True
    rounded = bool(scale) or (whole and value >= 1000 and str(int(value)).endswith("00"))
    return Quantity(
        start=match.start(),
        end=end,
        text=text[match.start() : end],
        value=value,
        unit=unit,
        factor=factor,
        loose=_loose(text, match.start()),
        rounded=rounded or "." in digits,
        step=_step(digits, SCALES.get(scale, 1.0)),
        currency=_currency(match["money"] or "", text, end) if unit == "money" else "",
    )


def _as_year(text: str, item: Quantity, match: "re.Match[str]") -> Moment | None:
    plain = match["digits"].isdecimal() and len(match["digits"]) == 4 and not match["scale"]
    if (
        not plain
        or item.unit
        or not 1000 <= item.value <= 2199
        or item.loose in ("over", "more than")
    ):
        return None
    after = UNIT.match(text, item.end)
    before = text[max(0, item.start - 14) : item.start].lower()
    named = re.search(
        r"\b(?:in|since|until|by|of|from|to|year|before|after|and|between|circa|late|early|mid)[\s-]*$|[-–(]$",
        before,
    )
    if (
        after is not None
        and not named
        and after["unit"][0].islower()
        and after["unit"]
        not in (
            *(
                "and",
                "to",
                "was",
                "by",
                "the",
                "when",
                "in",
                "with",
                "is",
                "after",
                "as",
                "for",
                "at",
            ),
            *(
                "under",
                "but",
                "were",
                "on",
                "until",
                "that",
                "which",
                "because",
                "while",
                "where",
                "has",
            ),
        )
    ):
        return None  # 1500 people
    return Moment(start=item.start, end=item.end, text=item.text, year=int(item.value))


def _spelled(text: str, match: "re.Match[str]") -> Quantity | None:
    groups = match.groupdict()
    said = re.findall(r"[a-z]+", match[0].lower())
    unit, factor = _unit(text, match.end())
    if "word" in groups:
        word = groups["word"].lower()
        times = {"two": 2.0, "three": 3.0}.get(said[0], 1.0)
        if word in ("third", "thirds") and said[0] not in ("one", "a", "two"):
            return None
        value, unit, factor = times * FRACTIONS[word], "fraction", 1.0
    elif groups.get("parts"):
        value = _sum(said[:-1]) * FRACTIONS.get(said[-1], 0.5)
        unit, factor = "fraction", 1.0
    else:
        last = said[-1].removesuffix("s")
        lone = said in (["one"], ["first"], ["second"], ["zero"])
        if lone or (said[-1] == "one" and said[0] in ORDINALS):
            return None  # a pronoun, an adverb, a unit of time
        value = _sum(said)
        if last in ORDINALS:
            unit, factor = "ordinal", 1.0
    return Quantity(
        start=match.start(),
        end=match.end(),
        text=match[0],
        value=value,
        unit=unit,
        factor=factor,
        loose=_loose(text, match.start()),
        rounded="million" in said or "billion" in said or "thousand" in said,
        spelled=True,
        currency=_currency("", text, match.end()) if unit == "money" else "",
    )


def _sum(said: list[str]) -> float:
    total, current = 0.0, 0.0
    for word in said:
        plain = word if word in CARDINALS or word in ORDINALS else word.removesuffix("s")
        if plain in CARDINALS:
            current += CARDINALS[plain]
        elif plain in ORDINALS:
            current += ORDINALS[plain]
        elif plain in SCALES:
            scaled = (current or 1.0) * SCALES[plain]
            current = scaled if plain in ("hundred", "dozen") else 0.0
            total += 0.0 if plain in ("hundred", "dozen") else scaled
    return total + current


def _unit(text: str, end: int) -> tuple[str, float]:
    found = UNIT.match(text, end)
    if found is None:
        return "", 1.0
    word = " ".join(found["unit"].lower().split())
    if word in ("square", "sq"):
        side = UNIT.match(text, found.end())
        length = UNITS.get(side["unit"].lower().removesuffix("s")) if side else None
        return ("area", length[1] ** 2) if length and length[0] == "length" else ("", 1.0)
    if word in ("dollar", "dollars", "euro", "euros", "cents", "yen"):
        return "money", 1.0
    return UNITS.get(word) or UNITS.get(word.removesuffix("s")) or ("", 1.0)


def _loose(text: str, start: int) -> str:
    found = LOOSE.search(text[max(0, start - 20) : start].rstrip("$€£ "))
    return found["word"].lower() if found else ""


def _overlaps(span: tuple[int, int], taken: list[tuple[int, int]]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in taken)
