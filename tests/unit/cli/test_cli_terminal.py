"""No text of others commands the terminal."""

import io
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from headrace.cli.terminal import show, visible


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text())
def test_only_newline_and_tab_pass(text: str) -> None:
    shown = visible(text)
    controls = {character for character in shown if unicodedata.category(character) == "Cc"}
    assert controls <= {"\n", "\t"}
    assert len(shown) == len(text)
    assert visible(shown) == shown


def test_it_is_for_terminals_only() -> None:
    screen, pipe = Screen(), io.StringIO()
    for stream in (screen, pipe):
        show(stream, "a\x1b[2J\tb\n")
    assert screen.getvalue() == "a␛[2J\tb\n"
    assert pipe.getvalue() == "a\x1b[2J\tb\n"
