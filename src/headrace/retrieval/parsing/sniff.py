"""Bytes and a name → what kind of document it is. The content decides; a name only among texts."""

import io
import zipfile
from pathlib import PurePosixPath

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
PDF = "application/pdf"
HTML = "text/html"
MARKDOWN = "text/markdown"
CSV = "text/csv"
TSV = "text/tab-separated-values"
MAIL = "message/rfc822"
PLAIN = "text/plain"
UNKNOWN = "application/octet-stream"

_OFFICE = {"word/": DOCX, "ppt/": PPTX, "xl/": XLSX}
_BINARY = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf", "application/x-7z-compressed"),
    (b"Rar!", "application/vnd.rar"),
    (b"\x7fELF", "application/x-elf"),
    (b"MZ", "application/x-msdownload"),
    (b"SQLite format 3", "application/vnd.sqlite3"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
)
CODE = {
    ".py": "text/x-python",
    ".pyi": "text/x-python",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".jsx": "text/javascript",
    ".ts": "text/typescript",
    ".tsx": "text/tsx",
    ".java": "text/x-java",
    ".go": "text/x-go",
    ".rs": "text/x-rust",
    ".c": "text/x-c",
    ".h": "text/x-c",
    ".cc": "text/x-c++",
    ".cpp": "text/x-c++",
    ".cxx": "text/x-c++",
    ".hpp": "text/x-c++",
    ".rb": "text/x-ruby",
    ".php": "text/x-php",
    ".cs": "text/x-csharp",
    ".sh": "text/x-shellscript",
    ".sql": "text/x-sql",
    ".kt": "text/x-kotlin",
    ".swift": "text/x-swift",
    ".scala": "text/x-scala",
    ".lua": "text/x-lua",
    ".r": "text/x-r",
}
"""Suffix → media type of source code."""
_TEXTS = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".csv": CSV,
    ".tsv": TSV,
    ".eml": MAIL,
    **CODE,
}
_MAIL_FIELDS = ("from:", "to:", "subject:", "date:", "received:", "message-id:", "mime-version:")


def sniff(data: bytes, name: str, hint: str = "") -> str:
    """The media type. A source's `hint` counts as a name does: for texts only."""
    if b"%PDF-" in data[:1024]:
        return PDF
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _office(data)
    for magic, media_type in _BINARY:
        if data.startswith(magic) and (magic != b"MZ" or b"\0" in data[:512]):
            return media_type
    if _binary(data):
        return UNKNOWN
    return _text(data, name, hint.partition(";")[0].strip().lower())


def _office(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()[:2000]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        # Torn: what it was going to be is said by its first members' names, which lie in clear.
        found = (kind for part, kind in _OFFICE.items() if part.encode() in data[:65536])
        return next(found, "application/zip")
    if "[Content_Types].xml" in names:
        for part, media_type in _OFFICE.items():
            if any(entry.startswith(part) for entry in names):
                return media_type
    return "application/zip"


def _binary(data: bytes) -> bool:
    head = data[:4096]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return False  # UTF-16 or UTF-32 with its mark
    zeros = head.count(0)
    if zeros:  # UTF-16 without a mark has them at every other place; binaries anywhere
        even, odd = head[::2].count(0), head[1::2].count(0)
        return not (min(even, odd) * 20 < max(even, odd) and zeros > len(head) // 5)
    control = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    return control * 20 > len(head)


def _text(data: bytes, name: str, hint: str) -> str:
    head = data[:2048].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    suffix = PurePosixPath(name.lower()).suffix
    if head.startswith((b"<!doctype html", b"<html")):
        return HTML
    known = _TEXTS.get(suffix)
    if known is not None:
        return known
    lines = head.split(b"\n", 12)
    fields = sum(line.startswith(tuple(f.encode() for f in _MAIL_FIELDS)) for line in lines)
    if fields >= 3:
        return MAIL
    if b"<head" in head or b"<body" in head:
        return HTML
    if hint in (HTML, MARKDOWN, CSV, TSV, MAIL, "application/xhtml+xml"):
        return HTML if hint == "application/xhtml+xml" else hint
    return PLAIN
