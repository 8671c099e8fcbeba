"""Files of every kind as their own libraries write them, and ways to break them."""

import io
import zipfile
from typing import Any

import docx
import openpyxl
import pptx
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas


def pdf(
    *pages: list[tuple[str, float]],
    password: str = "",
    title: str = "",
    white: tuple[str, ...] = (),
    invisible: tuple[str, ...] = (),
) -> bytes:
    """Lines with their sizes, page by page; an empty page has a picture's worth of drawing."""
    out = io.BytesIO()
    lock = StandardEncryption(password, ownerPassword=password + "!") if password else None
    canvas = Canvas(out, pagesize=A4, encrypt=lock)
    canvas.setTitle(title)
    for lines in pages:
        top = 780.0
        for text, size in lines:
            canvas.setFillColorRGB(*((1, 1, 1) if text in white else (0, 0, 0)))
            writer = canvas.beginText(60, top)
            writer.setFont("Helvetica", size)
            writer.setTextRenderMode(3 if text in invisible else 0)
            writer.textLine(text)
            canvas.drawText(writer)
            top -= size * 1.25
            top -= size if size > 12 else 0.0
        if not lines:
            canvas.rect(100, 100, 300, 300, fill=1)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def word(fill: Any) -> bytes:
    """A DOCX that `fill` wrote into."""
    file = docx.Document()
    fill(file)
    out = io.BytesIO()
    file.save(out)
    return out.getvalue()


def sheet(rows: list[list[Any]], *, hidden: str = "") -> bytes:
    """An XLSX of one sheet, and a hidden one with one cell."""
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.title = "Prices"
    for row in rows:
        page.append(row)
    if hidden:
        other = book.create_sheet("Secret")
        other.append([hidden])
        other.sheet_state = "hidden"
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def slides(fill: Any) -> bytes:
    """A PPTX that `fill` wrote into."""
    show = pptx.Presentation()
    fill(show)
    out = io.BytesIO()
    show.save(out)
    return out.getvalue()


def swollen(data: bytes, *, megabytes: int) -> bytes:
    """An office file with one more member that unpacks to so much."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("word/media/big.bin", bytes(megabytes << 20))
    return out.getvalue()


def understated(data: bytes, *, megabytes: int) -> bytes:
    """The same, but its directory says that the member is small."""
    made = bytearray(swollen(data, megabytes=megabytes))
    size = (megabytes << 20).to_bytes(4, "little")
    at = made.find(size)
    while at >= 0:
        made[at : at + 4] = (1000).to_bytes(4, "little")
        at = made.find(size, at)
    return bytes(made)
