"""Text that a model or a server wrote becomes text that a terminal only shows.

Invariant: of the control characters (C0, DEL, C1) only newline and tab pass; the others, with which
a text could rename the window, write the clipboard or repaint what stands above, become their
pictures. Source: ECMA-48; Unicode, Control Pictures.
"""

from typing import TextIO

_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


def visible(text: str) -> str:
    """The text with its control characters made visible and harmless."""
    return text.translate(_PICTURES)


def show(stream: TextIO, text: str) -> None:
    """Write at once: as it is into a pipe or file, `visible` on a terminal."""
    stream.write(visible(text) if stream.isatty() else text)
    stream.flush()
