"""Text of any parser → the text that is kept, with what was hidden in it taken out and said.

Zero-width and bidirectional control characters let a text say to a model what its reader does not
see. They are removed, but where a script needs them (joiners in Arabic and Indic scripts, and in
emoji) and but for the marks that only order mixed text. Control tokens of chat templates are kept
and flagged: rendering makes them harmless, whoever reads the index may still want to know.
"""

import re
import unicodedata
from dataclasses import replace

from headrace.retrieval.parsing.reading import CannotRead, Reading, Unreadable

_ZERO = "\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\u180e\u00ad"
_TAGS = "\U000e0000-\U000e007f"  # a whole hidden ASCII
_VARIANTS = "\U000e0100-\U000e01ef"
_BIDI = "\u202a-\u202e\u2066-\u2069"
_HIDDEN = re.compile(f"[{_ZERO}{_TAGS}{_VARIANTS}]+")
_OVERRIDE = re.compile(f"[{_BIDI}]")
_ASCII_JOINER = re.compile("(?<=[\x20-\x7e])[\u200c\u200d]|[\u200c\u200d](?=[\x20-\x7e])")
_SUSPECT = re.compile(f"[{_ZERO}{_TAGS}{_VARIANTS}{_BIDI}\u200c\u200d]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_TEMPLATE = re.compile(
    r"<\|[a-zA-Z_][^<>|\n]{0,40}\|>|</?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>"
    r"|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]|<</?SYS>>|</?s>"
)
_BLANKS = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")
_TAILS = re.compile(r"[ \t]+$", re.M)
_PIECES = re.compile(r"\(cid:\d+\)")
_GARBLED = 0.25
_DOUBTFUL = 0.03


def tidy(reading: Reading, *, keep_layout: bool = False) -> Reading:
    """Clean a reading's text.

    Args:
        reading: As a parser made it.
        keep_layout: Code and plain text: blank lines and trailing blanks stay.

    Raises:
        CannotRead: Nothing is left, or what is left is no text.
    """
    notes, flags = list(reading.notes), set(reading.flags)
    text = reading.text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    text = text.encode("utf-8", "replace").decode()  # lone surrogates become '?'
    if not text.isascii() and _SUSPECT.search(text):
        text = _revealed(text, notes, flags)
    text, controls = _CONTROL.subn("", text)
    if controls:
        notes.append(f"{controls} control characters were removed")
    tokens = _TEMPLATE.findall(text)
    if tokens:
        named = ", ".join(sorted(set(tokens))[:5])
        notes.append(f"{len(tokens)} control tokens of chat templates are in its text ({named})")
        flags.add("control_tokens")
    if not keep_layout:
        text = _BLANKS.sub("\n\n", _TAILS.sub("", text)).strip()
    if not text.strip():
        raise CannotRead(Unreadable.NO_TEXT, "there is no text in it")
    ratio = garble(text)
    if ratio > _GARBLED:
        raise CannotRead(
            Unreadable.GARBLED,
            f"{ratio:.0%} of its characters are no text; its fonts or its encoding are broken",
        )
    if ratio > _DOUBTFUL:
        notes.append(f"{ratio:.0%} of its characters are no text")
    title = " ".join(_SUSPECT.sub("", _CONTROL.sub("", reading.title)).split())[:300]
    return replace(reading, text=text, title=title, notes=tuple(notes), flags=frozenset(flags))


def garble(text: str) -> float:
    """Part of a text that no person would read as text: unmapped glyphs, replacement and private
    characters."""
    if text.isascii():
        lost = sum(len(found) for found in _PIECES.findall(text))
        return lost / len(text) if text else 0.0
    counts: dict[str, int] = {}
    for character in text:
        counts[character] = counts.get(character, 0) + 1
    bad = sum(
        count
        for character, count in counts.items()
        if character == "\ufffd" or unicodedata.category(character) in ("Co", "Cn", "Cs")
    )
    return (bad + sum(len(found) for found in _PIECES.findall(text))) / len(text)


def _revealed(text: str, notes: list[str], flags: set[str]) -> str:
    text = text.removeprefix("\ufeff")
    said = "".join(
        chr(ord(c) - 0xE0000)
        for run in _HIDDEN.findall(text)
        for c in run
        if "\U000e0020" <= c <= "\U000e007e"
    )
    hidden = sum(len(run) for run in _HIDDEN.findall(text)) - text.count("\u00ad")
    text = _HIDDEN.sub("", text)
    text, joiners = _ASCII_JOINER.subn("", text)
    text, overrides = _OVERRIDE.subn("", text)
    if hidden + joiners > 0:
        spelt = f", which spelt {said[:80]!r}" if said else ""
        notes.append(f"{hidden + joiners} zero-width characters were removed{spelt}")
        flags.add("hidden_text")
    if overrides:
        notes.append(f"{overrides} characters that turn the direction of text were removed")
        flags.add("bidi")
    return text
