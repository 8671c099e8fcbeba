"""PDF → text by PDFium: headings by the size of letters, paragraphs by the gaps between lines.

What a page shows is what is read; text in white or drawn without ink is flagged. A page without a
text layer is named, a document of such pages is not readable.
"""

import ctypes
import datetime
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from headrace.retrieval.parsing.reading import CannotRead, Raw, Reading, Unreadable
from headrace.retrieval.parsing.sniff import PDF

_DATE = re.compile(r"D:(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?")
_HYPHEN = re.compile("[\ufffe\x02]\r?\n?")
_INVISIBLE_INK = 3
_LONGEST_HEADING = 160
_PASSWORD = 4
_ERRORS = {
    1: "unknown error",
    2: "not found",
    3: "no PDF, or broken",
    5: "unknown protection",
    6: "a page is broken",
}


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    size: float
    top: float
    bottom: float


def read_pdf(raw: Raw, *, most_characters: int) -> Reading:
    """Raises: CannotRead."""
    try:
        import pypdfium2 as pdfium
        import pypdfium2.raw as lib
    except ImportError:
        raise CannotRead(
            Unreadable.MISSING_EXTRA, "PDF needs pypdfium2: pip install 'headrace[documents]'"
        ) from None
    try:
        book = pdfium.PdfDocument(raw.data)
    except pdfium.PdfiumError as error:
        code = getattr(error, "err_code", 0)
        if code == _PASSWORD:
            raise CannotRead(
                Unreadable.ENCRYPTED, "it asks for a password; save it again without one"
            ) from None
        reason = _ERRORS.get(code, str(error))
        raise CannotRead(Unreadable.CORRUPT, f"PDFium cannot open it: {reason}") from None
    try:
        return _read(book, lib, most_characters)
    finally:
        book.close()


def _read(book: Any, lib: Any, most_characters: int) -> Reading:
    pages: list[list[_Line]] = []
    without: list[int] = []
    broken: list[int] = []
    hidden, total = 0, 0
    for number in range(len(book)):
        try:
            lines, unseen = _page(book, lib, number)
        except Exception as error:
            if type(error).__name__ != "PdfiumError":
                raise
            broken.append(number + 1)
            continue
        if not lines:
            without.append(number + 1)
        hidden += unseen
        pages.append(lines)
        total += sum(len(line.text) for line in lines)
        if total > most_characters:
            break  # the limit is told of by who set it
    if not total:
        _refuse(len(book), broken)
    notes: list[str] = []
    flags: set[str] = set()
    if without:
        notes.append(
            f"pages without a text layer, which were not read: {_named(without)}; OCR them"
        )
        flags.add("pages_without_text")
    if broken:
        notes.append(f"pages that are broken, which were not read: {_named(broken)}")
        flags.add("pages_without_text")
    if hidden:
        notes.append(
            f"{hidden} lines are drawn in white or without ink; they were kept and flagged"
        )
        flags.add("hidden_text")
    said = book.get_metadata_dict()
    return Reading(
        text=_compose(pages),
        media_type=PDF,
        title=said.get("Title", ""),
        modified_s=_time(said.get("ModDate", "") or said.get("CreationDate", "")),
        metadata={"pages": len(book)},
        notes=tuple(notes),
        flags=frozenset(flags),
    )


def _refuse(pages: int, broken: list[int]) -> None:
    if broken:
        raise CannotRead(Unreadable.CORRUPT, f"none of its {pages} pages can be read")
    if not pages:
        raise CannotRead(Unreadable.NO_TEXT, "it has no page")
    raise CannotRead(
        Unreadable.NO_TEXT,
        f"no text layer: its {pages} pages are pictures; run OCR over it, then ingest it again",
    )


def _page(book: Any, lib: Any, number: int) -> tuple[list[_Line], int]:
    page = book[number]
    try:
        layer = page.get_textpage()
        try:
            return _lines(layer, lib)
        finally:
            layer.close()
    finally:
        page.close()


def _lines(layer: Any, lib: Any) -> tuple[list[_Line], int]:
    count = layer.count_chars()
    if count <= 0:
        return [], 0
    whole = layer.get_text_range(0, count)
    lines: list[_Line] = []
    hidden, at = 0, 0
    edges = [ctypes.c_double() for _ in range(4)]
    ink = [ctypes.c_uint() for _ in range(4)]
    # Characters of the text and places of the page agree but for surrogates and what PDFium adds.
    for text in whole.split("\n"):
        place = at + len(text) - len(text.lstrip())
        at += len(text) + 1
        shown = text.strip()
        if not shown or place >= count:
            continue
        lib.FPDFText_GetCharBox(layer.raw, place, *(ctypes.byref(edge) for edge in edges))
        size = float(lib.FPDFText_GetFontSize(layer.raw, place))
        height = edges[3].value - edges[2].value
        lines.append(_Line(shown, max(size, height), edges[3].value, edges[2].value))
        mode = _mode(layer, lib, place)
        white = False
        if lib.FPDFText_GetFillColor(layer.raw, place, *(ctypes.byref(part) for part in ink)):
            white = min(part.value for part in ink[:3]) >= 250 or ink[3].value == 0
        hidden += white or mode == _INVISIBLE_INK
    return lines, hidden


def _mode(layer: Any, lib: Any, place: int) -> int:
    shape = lib.FPDFText_GetTextObject(layer.raw, place)
    return int(lib.FPDFTextObj_GetTextRenderMode(shape)) if shape else 0


def _compose(pages: list[list[_Line]]) -> str:
    weights: Counter[float] = Counter()
    for lines in pages:
        for line in lines:
            weights[round(line.size, 1)] += len(line.text)
    body = weights.most_common(1)[0][0] if weights else 0.0
    larger = sorted((s for s in weights if s >= body * 1.15), reverse=True)
    # Levels for the three sizes that headings have most; the rest is display type.
    levels = {size: min(rank, 3) for rank, size in enumerate(_merged(larger), start=1)}
    parts: list[str] = []
    for lines in pages:
        above: _Line | None = None
        was = 0
        for line in lines:
            level = _level(line, levels)
            if level and level == was and parts and above is not None and _near(above, line):
                parts[-1] = f"{parts[-1]} {line.text}"  # a heading over two lines
            elif level:
                parts.append(f"\n\n{'#' * level} {line.text}")
            else:
                parts.append(_separator(above, line, was) + line.text)
            above, was = line, level
        parts.append("\n\n")
    return _HYPHEN.sub("", "".join(parts))


def _merged(sizes: list[float]) -> list[float]:
    kept: list[float] = []
    for size in sizes:
        if not kept or size < kept[-1] * 0.95:
            kept.append(size)
    return kept


def _level(line: _Line, levels: dict[float, int]) -> int:
    if len(line.text) > _LONGEST_HEADING or not any(c.isalpha() for c in line.text):
        return 0
    return next((level for size, level in levels.items() if line.size >= size * 0.97), 0)


def _near(above: _Line, line: _Line) -> bool:
    return 0 <= above.bottom - line.top < 0.9 * max(line.size, 1.0)


def _separator(above: _Line | None, line: _Line, was: int) -> str:
    if above is None or was:
        return "\n\n"
    gap = above.bottom - line.top
    return "\n" if -0.5 * line.size <= gap < 0.75 * max(line.size, 1.0) else "\n\n"


def _named(pages: list[int]) -> str:
    shown = ", ".join(str(page) for page in pages[:20])
    return shown if len(pages) <= 20 else f"{shown} and {len(pages) - 20} more"


def _time(said: str) -> float:
    found = _DATE.match(said)
    if not found:
        return 0.0
    year, *rest = (int(part) if part else 0 for part in found.groups())
    month, day, hour, minute, second = rest
    try:
        when = datetime.datetime(
            year, month or 1, day or 1, hour, minute, second, tzinfo=datetime.UTC
        )
    except ValueError:
        return 0.0
    return max(when.timestamp(), 0.0)
