"""Raw bytes → `Reading`: the parser for what the content is. Runs in a parser's process."""

import re
from dataclasses import replace

from headrace.retrieval.parsing import sniff
from headrace.retrieval.parsing.decode import decode
from headrace.retrieval.parsing.mail import read_mail
from headrace.retrieval.parsing.office import read_docx, read_pptx, read_xlsx
from headrace.retrieval.parsing.pdf import read_pdf
from headrace.retrieval.parsing.reading import CannotRead, Raw, Reading, Refusal, Unreadable
from headrace.retrieval.parsing.rows import read_csv
from headrace.retrieval.parsing.tidy import tidy
from headrace.retrieval.parsing.web import read_html

READ = "text, Markdown, HTML, PDF, DOCX, PPTX, XLSX, CSV, source code and e-mail"
_HEADING = re.compile(r"^#{1,2} +(.+?)#*$", re.M)
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.S)
_FRONT_TITLE = re.compile(r"^title:\s*(.+)$", re.M)


def read(raw: Raw, *, most_characters: int, most_unpacked: int) -> Reading | Refusal:
    """What is in it, cleaned; a refusal where there is nothing to be had."""
    try:
        if not raw.data:
            raise CannotRead(Unreadable.EMPTY, "it has 0 bytes")
        found = _read(raw, most_characters, most_unpacked)
        size = len(found.text)
        if size > most_characters:
            raise CannotRead(
                Unreadable.TOO_LARGE,
                f"its text has more than {most_characters} characters; split it or raise the limit",
            )
        layout = found.media_type == sniff.PLAIN or found.media_type in sniff.CODE.values()
        return _titled(tidy(found, keep_layout=layout), raw.name)
    except CannotRead as error:
        return error.refusal


def _read(raw: Raw, most_characters: int, most_unpacked: int) -> Reading:
    media_type = sniff.sniff(raw.data, raw.name, raw.media_type)
    match media_type:
        case sniff.PDF:
            return read_pdf(raw, most_characters=most_characters)
        case sniff.DOCX:
            return read_docx(raw, most_bytes=most_unpacked)
        case sniff.PPTX:
            return read_pptx(raw, most_bytes=most_unpacked)
        case sniff.XLSX:
            return read_xlsx(raw, most_bytes=most_unpacked)
        case sniff.HTML:
            return read_html(raw)
        case sniff.CSV | sniff.TSV:
            return read_csv(raw, media_type)
        case sniff.MAIL:
            return read_mail(raw)
        case "application/x-ole-storage":
            raise _ole(raw)
        case _ if media_type.startswith("text/"):
            found = decode(raw.data, declared=raw.encoding)
            flags = frozenset({"guessed_encoding"}) if found.notes else frozenset[str]()
            return Reading(text=found.text, media_type=media_type, notes=found.notes, flags=flags)
        case _:
            raise CannotRead(Unreadable.UNSUPPORTED, f"it is {media_type}; what is read is {READ}")


def _ole(raw: Raw) -> CannotRead:
    if "EncryptedPackage".encode("utf-16-le") in raw.data[: 1 << 20]:
        return CannotRead(Unreadable.ENCRYPTED, "it asks for a password; save it again without one")
    return CannotRead(
        Unreadable.UNSUPPORTED,
        "it is an office file of before 2007 or an Outlook message; save it as DOCX, XLSX, PPTX or "
        "EML",
    )


def _titled(found: Reading, name: str) -> Reading:
    if found.title:
        return found
    title = ""
    if found.media_type == sniff.MARKDOWN:
        front = _FRONT.match(found.text)
        said = _FRONT_TITLE.search(front.group(1)) if front else None
        title = said.group(1).strip().strip("\"'") if said else ""
    if not title and found.media_type not in sniff.CODE.values():
        heading = _HEADING.search(found.text[:5000])
        title = heading.group(1).strip() if heading else ""
    return replace(found, title=(title or name)[:300])
