"""DOCX, PPTX and XLSX → text with headings, lists and tables.

Zip and XML are checked before they are opened: sizes, ratio, locks (an encrypted office file is an
OLE container, not a zip). Formulas are not run; a sheet's cells are the values it was saved with.
Hidden text, slides and sheets are left out and said.
"""

import io
from collections.abc import Iterator
from typing import Any

from headrace.retrieval.parsing import archive
from headrace.retrieval.parsing.reading import CannotRead, Raw, Reading, Unreadable
from headrace.retrieval.parsing.rows import table
from headrace.retrieval.parsing.sniff import DOCX, PPTX, XLSX

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def read_docx(raw: Raw, *, most_bytes: int) -> Reading:
    """Raises: CannotRead."""
    try:
        import docx
    except ImportError:
        raise _missing("DOCX", "python-docx") from None
    archive.check(raw.data, most_bytes=most_bytes)
    with _named("DOCX"):
        word = docx.Document(io.BytesIO(raw.data))
        hidden: list[str] = []
        parts = [
            _paragraph(item, hidden) if hasattr(item, "runs") else _word_table(item)
            for item in word.iter_inner_content()
        ]
        parts += _headers(word)
        notes, flags = _hidden_note(sum(len(text) for text in hidden))
        return Reading(
            text="\n\n".join(part for part in parts if part),
            media_type=DOCX,
            notes=notes,
            flags=flags,
            **_core(word.core_properties),
        )


def read_pptx(raw: Raw, *, most_bytes: int) -> Reading:
    """Raises: CannotRead."""
    try:
        import pptx
    except ImportError:
        raise _missing("PPTX", "python-pptx") from None
    archive.check(raw.data, most_bytes=most_bytes)
    with _named("PPTX"):
        show = pptx.Presentation(io.BytesIO(raw.data))
        parts: list[str] = []
        skipped = 0
        for number, slide in enumerate(show.slides, start=1):
            if slide.element.get("show") == "0":
                skipped += 1
                continue
            parts += _slide(slide, number)
        notes = (f"{skipped} hidden slides were left out",) if skipped else ()
        return Reading(
            text="\n\n".join(part for part in parts if part),
            media_type=PPTX,
            notes=notes,
            flags=frozenset({"hidden_text"} if skipped else ()),
            **_core(show.core_properties),
        )


def read_xlsx(raw: Raw, *, most_bytes: int) -> Reading:
    """Raises: CannotRead."""
    try:
        import openpyxl
    except ImportError:
        raise _missing("XLSX", "openpyxl") from None
    archive.check(raw.data, most_bytes=most_bytes)
    with _named("XLSX"):
        book = openpyxl.load_workbook(
            io.BytesIO(raw.data), read_only=True, data_only=True, keep_links=False
        )
        try:
            parts: list[str] = []
            skipped = 0
            for sheet in book.worksheets:
                if sheet.sheet_state != "visible":
                    skipped += 1
                    continue
                made = table(row for row in sheet.iter_rows(values_only=True))
                if made:
                    parts += [f"## {sheet.title}", made]
            notes = (f"{skipped} hidden sheets were left out",) if skipped else ()
            return Reading(
                text="\n\n".join(parts),
                media_type=XLSX,
                notes=notes,
                flags=frozenset({"hidden_text"} if skipped else ()),
                **_core(book.properties),
            )
        finally:
            book.close()


def _paragraph(item: Any, hidden: list[str]) -> str:
    shown: list[str] = []
    for run in item.iter_inner_content():
        runs = getattr(run, "runs", (run,))  # a link has runs of its own
        for each in runs:
            if each.font.hidden:
                hidden.append(each.text)
            else:
                shown.append(each.text)
    text = "".join(shown).strip()
    if not text:
        return ""
    style = str(getattr(item.style, "name", "") or "")
    if style == "Title":
        return f"# {' '.join(text.split())}"
    if style.startswith("Heading "):
        level = style.rpartition(" ")[2]
        return f"{'#' * min(int(level), 6)} {' '.join(text.split())}" if level.isdigit() else text
    if style.startswith("List") or item._p.find(f"{_WORD}pPr/{_WORD}numPr") is not None:
        return f"- {text}"
    return text


def _word_table(item: Any) -> str:
    rows: list[list[str]] = []
    for row in item.rows:
        seen: set[int] = set()
        cells: list[str] = []
        for cell in row.cells:  # a merged cell is given once for each place it covers
            cells.append("" if id(cell._tc) in seen else cell.text)
            seen.add(id(cell._tc))
        rows.append(cells)
    return table(rows)


def _headers(word: Any) -> list[str]:
    """What stands at the foot of pages: once, at the end."""
    found: dict[str, None] = {}
    for section in word.sections:
        for part in (section.header, section.footer):
            if not part.is_linked_to_previous:
                for paragraph in part.paragraphs:
                    if paragraph.text.strip():
                        found[paragraph.text.strip()] = None
    return list(found)


def _slide(slide: Any, number: int) -> Iterator[str]:
    title = slide.shapes.title
    named = " ".join(title.text_frame.text.split()) if title is not None else ""
    yield f"## {named or f'Slide {number}'}"
    for shape in _shapes(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if getattr(shape, "has_table", False):
            yield table([[cell.text for cell in row.cells] for row in shape.table.rows])
        elif getattr(shape, "has_text_frame", False):
            yield "\n".join(
                f"{'    ' * line.level}- {line.text.strip()}" if line.level else line.text.strip()
                for line in shape.text_frame.paragraphs
                if line.text.strip()
            )
    if slide.has_notes_slide:
        said = slide.notes_slide.notes_text_frame
        if said is not None and said.text.strip():
            yield f"Notes: {said.text.strip()}"


def _shapes(shapes: Any) -> Iterator[Any]:
    for shape in shapes:
        inner = getattr(shape, "shapes", None)
        if inner is None:
            yield shape
        else:
            yield from _shapes(inner)


def _core(said: Any) -> dict[str, Any]:
    modified = getattr(said, "modified", None)
    author = getattr(said, "author", None) or getattr(said, "creator", None) or ""
    return {
        "title": str(getattr(said, "title", "") or ""),
        "modified_s": modified.timestamp() if modified is not None else 0.0,
        "metadata": {"author": str(author)[:200]} if author else {},
    }


def _hidden_note(count: int) -> tuple[tuple[str, ...], frozenset[str]]:
    if not count:
        return (), frozenset()
    return (f"{count} characters of hidden text were left out",), frozenset({"hidden_text"})


def _missing(kind: str, package: str) -> CannotRead:
    return CannotRead(
        Unreadable.MISSING_EXTRA, f"{kind} needs {package}: pip install 'headrace[documents]'"
    )


class _named:
    """Whatever a library raises over a broken file, as its being corrupt."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, CannotRead | MemoryError):
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise CannotRead(Unreadable.CORRUPT, f"it is no whole {self._kind}: {said}") from None
