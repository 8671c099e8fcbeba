"""A message (RFC 5322) → its text: subject as heading, who and when, then the body people see."""

import email
import email.policy
from email.message import EmailMessage, MIMEPart
from email.utils import parsedate_to_datetime

from headrace.retrieval.parsing.decode import decode
from headrace.retrieval.parsing.reading import CannotRead, Raw, Reading, Unreadable
from headrace.retrieval.parsing.sniff import HTML, MAIL
from headrace.retrieval.parsing.web import read_html

_FIELDS = ("From", "To", "Cc", "Date")


def read_mail(raw: Raw) -> Reading:
    """Raises: CannotRead."""
    message = email.message_from_bytes(raw.data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    body = message.get_body(("plain", "html"))
    if body is None and not message.get("Subject"):
        raise CannotRead(Unreadable.NO_TEXT, "the message has no subject and no body of text")
    subject = " ".join(str(message.get("Subject", "")).split())
    said = [f"{name}: {message[name]}" for name in _FIELDS if message.get(name)]
    text, notes, flags = _body(body) if body is not None else ("", (), frozenset[str]())
    attached = [
        part.get_filename() or part.get_content_type() for part in message.iter_attachments()
    ]
    if attached:
        named = ", ".join(attached[:10])
        notes = (*notes, f"{len(attached)} attachments were not read: {named}")
        flags |= {"attachments"}
    parts = [f"# {subject}" if subject else "", "\n".join(said), text]
    return Reading(
        text="\n\n".join(part for part in parts if part),
        media_type=MAIL,
        title=subject,
        modified_s=_time(str(message.get("Date", ""))),
        metadata={"from": str(message.get("From", ""))[:200]} if message.get("From") else {},
        notes=notes,
        flags=flags,
    )


def _body(part: MIMEPart) -> tuple[str, tuple[str, ...], frozenset[str]]:
    data = part.get_payload(decode=True)
    raw = Raw(
        data=data if isinstance(data, bytes) else b"",
        name="body",
        encoding=part.get_content_charset() or "",
    )
    if not raw.data.strip():
        return "", (), frozenset()
    if part.get_content_type() == HTML:
        reading = read_html(raw)
        return reading.text, reading.notes, reading.flags
    found = decode(raw.data, declared=raw.encoding)
    return found.text, found.notes, frozenset()


def _time(said: str) -> float:
    try:
        return max(parsedate_to_datetime(said).timestamp(), 0.0) if said else 0.0
    except (ValueError, OverflowError, OSError):
        return 0.0
