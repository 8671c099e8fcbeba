"""How numbers, units and dates are written."""

import re

_SMALL = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINAL = """
    zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
    thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth
"""
CARDINALS = {word: float(at) for at, word in enumerate(_SMALL.split())} | {
    word: 20.0 + 10 * at for at, word in enumerate(_TENS.split())
}
ORDINALS = {word: float(at) for at, word in enumerate(_ORDINAL.split())} | {
    "twentieth": 20.0,
    "thirtieth": 30.0,
    "fortieth": 40.0,
    "fiftieth": 50.0,
}
SCALES = {
    "hundred": 1e2,
    "hundreds": 1e2,
    "thousand": 1e3,
    "thousands": 1e3,
    "k": 1e3,
    "million": 1e6,
    "millions": 1e6,
    "mn": 1e6,
    "m": 1e6,
    "billion": 1e9,
    "billions": 1e9,
    "bn": 1e9,
    "trillion": 1e12,
    "dozen": 12.0,
}
FRACTIONS = {"half": 0.5, "third": 1 / 3, "thirds": 1 / 3, "quarter": 0.25, "quarters": 0.25}
MONTHS = {
    name: at
    for at, names in enumerate(
        (
            ("january", "jan"),
            ("february", "feb"),
            ("march", "mar"),
            ("april", "apr"),
            ("may",),
            ("june", "jun"),
            ("july", "jul"),
            ("august", "aug"),
            ("september", "sep", "sept"),
            ("october", "oct"),
            ("november", "nov"),
            ("december", "dec"),
        ),
        start=1,
    )
    for name in names
}
UNITS = {
    "%": ("percent", 1.0),
    "percent": ("percent", 1.0),
    "per cent": ("percent", 1.0),
    "percentage": ("percent", 1.0),
    "km": ("length", 1000.0),
    "kilometre": ("length", 1000.0),
    "kilometer": ("length", 1000.0),
    "metre": ("length", 1.0),
    "meter": ("length", 1.0),
    "m": ("length", 1.0),
    "cm": ("length", 0.01),
    "centimetre": ("length", 0.01),
    "centimeter": ("length", 0.01),
    "mm": ("length", 0.001),
    "mile": ("length", 1609.344),
    "mi": ("length", 1609.344),
    "foot": ("length", 0.3048),
    "feet": ("length", 0.3048),
    "ft": ("length", 0.3048),
    "inch": ("length", 0.0254),
    "inches": ("length", 0.0254),
    "kg": ("mass", 1.0),
    "kilogram": ("mass", 1.0),
    "gram": ("mass", 0.001),
    "g": ("mass", 0.001),
    "tonne": ("mass", 1000.0),
    "pound": ("mass", 0.45359237),
    "lb": ("mass", 0.45359237),
    "second": ("time", 1.0),
    "minute": ("time", 60.0),
    "min": ("time", 60.0),
    "hour": ("time", 3600.0),
    "day": ("time", 86400.0),
    "week": ("time", 604800.0),
    "month": ("months", 1.0),
    "year": ("months", 12.0),
    "decade": ("months", 120.0),
    "km2": ("area", 1e6),
    "km²": ("area", 1e6),
    "m2": ("area", 1.0),
    "m²": ("area", 1.0),
    "hectare": ("area", 1e4),
    "mg": ("mass", 1e-6),
    "ton": ("mass", 1000.0),
}
CURRENCIES = {"dollar": "$", "euro": "€", "pound": "£", "yen": "¥"}
_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
DATE = re.compile(
    rf"""\b(?:
      (?P<d1>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m1>{_MONTH})\b\.?,?(?:\s+(?P<y1>\d{{4}})\b)?
    | (?P<m2>{_MONTH})\b\.?\s+(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\b(?!\s*[:%]),?
      (?:\s+(?P<y2>\d{{4}})\b)?
    | (?P<m3>{_MONTH})\b\.?,?\s+(?:of\s+)?(?P<y3>\d{{4}})\b
    | (?P<y4>\d{{4}})-(?P<m4>\d{{2}})-(?P<d4>\d{{2}})\b
    | (?P<decade>\d{{3}}0)(?:['’]?s)\b
    | (?P<century>\d{{1,2}})(?:st|nd|rd|th)[\s-]+centur(?:y|ies)\b
    | (?P<m5>january|february|april|june|july|august|september|october|november|december)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
MARCH_OR_MAY = re.compile(
    r"\b(?:in|of|by|since|until|from|to|and|between|through|late|early|mid)[\s-](?P<m>March|May)\b"
)
WORD_CENTURY = re.compile(
    rf"\b(?P<n>(?:twenty-)?(?:{'|'.join(ORDINALS)}))[\s-]+centur(?:y|ies)\b", re.IGNORECASE
)
NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)])[-−](?=\d))?(?P<money>(?:US|A|C)?[$€£¥]\s?)?(?<![\w.,])(?P<digits>{_DIGITS})"
    r"(?P<ordinal>(?:st|nd|rd|th)\b)?"
    r"(?:[\s-]?(?P<scale>hundreds?|thousands?|millions?|billions?|trillion|bn|mn|k|m|dozen)\b)?",
    re.IGNORECASE,
)
_COUNTS = "|".join(
    sorted(
        {*CARDINALS, "hundred", "thousand", "million", "billion", "dozen"}, key=len, reverse=True
    )
)
_PLACES = "|".join(sorted(ORDINALS, key=len, reverse=True))
_AND = r"(?<=hundred)\s+and\s+|(?<=thousand)\s+and\s+|(?<=million)\s+and\s+|[\s-]+"
SPELLED = re.compile(
    rf"\b(?:(?:{_COUNTS})s?(?:(?:{_AND})(?:{_COUNTS})s?)*(?:[\s-]+(?:{_PLACES}))?"
    rf"|(?:{_PLACES}))\b(?P<parts>[\s-]+(?:thirds?|quarters?|halves)\b)?",
    re.IGNORECASE,
)
FRACTION = re.compile(
    r"\b(?:(?:one|a|two|three)[\s-]+)?(?P<word>half|thirds?|quarters?)\b", re.IGNORECASE
)
UNIT = re.compile(r"[\s-]{0,2}(?P<unit>%|per\s?cent(?:age)?|k?m[2²]|[a-zA-Z]+)")
LOOSE = re.compile(
    r"(?P<word>about|around|approximately|roughly|nearly|almost|circa|ca\.|~|some|over|more than|"
    r"at least|up to|under|less than|fewer than|close to|just over|just under|an estimated|"
    r"in excess of)\s*$",
    re.IGNORECASE,
)
