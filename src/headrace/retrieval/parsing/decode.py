"""Bytes → text and what encoding they were in. Never mojibake in silence.

In this order: a byte order mark, UTF-8 wherever it is valid, what the source or the document
declares where it is valid, UTF-16 by its zeros, then a guess by charset-normalizer, which is said.
"""

import codecs
import re
from dataclasses import dataclass

from headrace.retrieval.parsing.reading import CannotRead, Unreadable

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I
)
_GUESSED_BYTES = 200_000
_TWICE = re.compile("[\u00c2-\u00c5\u00e2][\u0080-\u00bf\u0152-\u0178\u2013-\u203a\u20ac\u2122]")
"""What UTF-8 looks like that was taken for Latin-1 or Windows-1252 and encoded again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    text: str
    encoding: str
    notes: tuple[str, ...] = ()


def decode(data: bytes, *, declared: str = "") -> Decoded:
    """The text.

    Raises:
        CannotRead: No encoding makes text of it, or only guessing would and the guess is poor.
    """
    found = _decode(data, declared)
    twice = len(_TWICE.findall(found.text))
    if twice >= 3 and twice * 200 > len(found.text):
        note = (
            f"the text looks as if its encoding had been mistaken before it came here ({twice} "
            "places like \u00c3\u00a9); it was kept as it is"
        )
        return Decoded(text=found.text, encoding=found.encoding, notes=(*found.notes, note))
    return found


def _decode(data: bytes, declared: str) -> Decoded:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _marked(data, encoding)
    text = _strict(data, "utf-8")
    if text is not None and "\0" not in text:
        return Decoded(text=text, encoding="utf-8")
    says = _DECLARED.search(data[:2048])
    for name in (declared, says.group(1).decode("ascii", "replace") if says else ""):
        if name and (text := _strict(data, _browsers(name))) is not None:
            return Decoded(text=text, encoding=name.lower())
    if (wide := _wide(data)) and (text := _strict(data, wide)) is not None:
        note = f"no encoding was declared; read as {wide} by its zero bytes"
        return Decoded(text=text, encoding=wide, notes=(note,))
    return _guess(data)


def _marked(data: bytes, encoding: str) -> Decoded:
    text = _strict(data, encoding)
    if text is None:
        raise CannotRead(
            Unreadable.ENCODING,
            f"its byte order mark says {encoding} but its bytes are none; save it again as UTF-8",
        )
    return Decoded(text=text, encoding=encoding)


def _wide(data: bytes) -> str:
    even, odd = data[:4096:2].count(0), data[1:4096:2].count(0)
    if max(even, odd) * 10 < len(data[:4096]):
        return ""
    return "utf-16-be" if even > odd else "utf-16-le"


def _guess(data: bytes) -> Decoded:
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        raise CannotRead(
            Unreadable.MISSING_EXTRA,
            "guessing an encoding needs charset-normalizer: pip install 'headrace[documents]'",
        ) from None
    best = from_bytes(data[:_GUESSED_BYTES]).best()
    # Of code pages that read it alike well, the one that most such files are in.
    encoding = "" if best is None else best.encoding
    if best is not None and "cp1252" in best.could_be_from_charset:
        encoding = "cp1252"
    text = _strict(data, encoding)
    if text is None:
        bad = _first_bad(data)
        raise CannotRead(
            Unreadable.ENCODING,
            f"it is no UTF-8 (byte {bad} is {data[bad]:#04x}) and no other encoding makes text of "
            "it; save it again as UTF-8",
        )
    note = f"it is no UTF-8 and says no encoding; guessed {encoding} from its content"
    return Decoded(text=text, encoding=encoding, notes=(note,))


def _first_bad(data: bytes) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return data.find(b"\0")


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError, ValueError):
        return None


def _browsers(name: str) -> str:
    """Declared Latin-1 is read as Windows-1252, as every browser does (WHATWG Encoding, 4.2)."""
    return (
        "cp1252" if name.lower().replace("_", "-") in ("iso-8859-1", "latin-1", "ascii") else name
    )
