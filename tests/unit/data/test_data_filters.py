"""Filters after published rules, and PII: each rule has a text that it, and only it, is about."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data import filters, pii
from headrace.data.document import Document
from headrace.data.filters.gopher import duplicate_ngram_chars, top_ngram_chars
from headrace.data.filters.language import identify
from headrace.errors import DataError

PROSE = (
    "The miller opened the gate before dawn, and water ran down to the wheel with a low sound. "
    "His daughter counted sacks of grain that farmers had brought from three villages. "
    "By noon most of the flour was ready, though one stone had cracked and needed care. "
    "Nobody knew why it broke; some blamed the frost, others an old flaw in the rock. "
    "They would have to order another from the quarry before winter came. "
    "Until then every order went through the smaller mill upstream, slowly but surely."
)


def judge(spec: str, text: str) -> str:
    (made,) = filters.named(spec)
    return made(Document(id="a", source="s", licence="l", text=text)).reason


@pytest.mark.parametrize("spec", ["gopher_quality", "gopher_repetition", "c4", "fineweb"])
def test_prose_stays(spec: str) -> None:
    assert judge(spec, PROSE) == ""


REPEATED = "\n".join(PROSE.split(". ") + ["the same line comes back again and again."] * 5)
FEW = "fineweb:few_punctuated_lines"
LINES = PROSE.split(". ")
ONCE = "gopher_repetition:max_duplicate_lines=1"
CASES = [
    ("gopher_quality", "Too short.", "gopher:few_words"),
    ("gopher_quality:max_words=60", PROSE, "gopher:many_words"),
    ("gopher_quality", "a b of the " * 30, "gopher:mean_word_length"),
    ("gopher_quality", PROSE + " #tag" * 20, "gopher:hashes"),
    ("gopher_quality", PROSE + " and..." * 20, "gopher:ellipses"),
    ("gopher_quality", "\n".join("- " + part for part in PROSE.split(". ")), "gopher:bullets"),
    (
        "gopher_quality",
        "\n".join(part + "…" for part in PROSE.split(". ")),
        "gopher:ellipsis_lines",
    ),
    ("gopher_quality", PROSE + " 123 4567" * 20, "gopher:few_alphabetic_words"),
    ("gopher_quality", "quick brown foxes jumped lazily " * 12, "gopher:few_stop_words"),
    ("gopher_repetition", REPEATED, "gopher:duplicate_lines"),
    ("gopher_repetition", (PROSE + "\n\n") * 2, "gopher:duplicate_lines"),
    (ONCE, PROSE + "\n" + PROSE, "gopher:duplicate_lines_chars"),
    (
        "gopher_repetition:max_duplicate_lines=1,max_duplicate_line_chars=1",
        PROSE + "\n\n" + PROSE,
        "gopher:duplicate_paragraphs",
    ),
    ("gopher_repetition", PROSE + " buy now" * 20, "gopher:top_2gram"),
    ("gopher_repetition", PROSE + " " + " ".join(PROSE.split()[:30]), "gopher:duplicate_5grams"),
    ("c4", PROSE + " lorem ipsum dolor.", "c4:lorem_ipsum"),
    ("c4", PROSE + " if (x) { y }.", "c4:curly_bracket"),
    ("c4", "One sentence only here.\nHome\nAbout\nContact us now", "c4:few_sentences"),
    ("fineweb", "Home page\nAbout us all\nContact the team today please now", FEW),
    ("fineweb", "\n".join(["Yes.", "No.", "Perhaps."]), "fineweb:short_lines"),
    ("fineweb", "\n".join([*LINES, *[PROSE[:80] + "."] * 2]), "fineweb:duplicate_line_chars"),
    ("fineweb:max_short_lines=2", "\n".join(f"word {n}." for n in "abcdefgh"), "fineweb:newlines"),
    ("fineweb", "  \n ", "fineweb:empty"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "text", "reason"), CASES)
def test_each_rule_names_its_reason(spec: str, text: str, reason: str) -> None:
    assert judge(spec, text) == reason


def test_c4_keeps_lines_of_prose() -> None:
    page = (
        "Home\n" + PROSE + "[12]\nPlease enable JavaScript to go on.\nWe use cookies here.\nRead…"
    )
    assert filters.C4().prose_lines(page) == [PROSE]


def test_web_is_all_of_them_and_slips_are_named() -> None:
    assert len(filters.named("web")) == 4
    (made,) = filters.named("gopher_repetition:max_top_ngram_chars=0.5+0.4")
    assert made == replace(filters.GopherRepetition(), max_top_ngram_chars=(0.5, 0.4))
    for spec, message in (
        ("gofer_quality", "did you mean gopher_quality"),
        ("c4:min_sentence=3", "there are min_sentences"),
        ("c4:min_sentences=few", "a whole number"),
        ("c4:end_marks=1", "true or false"),
        ("language:allowed=tlh", "language tlh is not known"),
    ):
        with pytest.raises(DataError, match=message):
            filters.named(spec)


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=14), st.integers(2, 4))
def test_repetition_equals_the_slow_count(words: list[str], n: int) -> None:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    lengths = np.array([len(word) for word in words], np.int64)
    covered = {i + k for i, gram in enumerate(grams) if gram in grams[:i] for k in range(n)}
    assert duplicate_ngram_chars(words, lengths, n) == sum(len(words[i]) for i in covered)
    counts = [(grams.count(gram), sum(map(len, gram))) for gram in grams]
    top = max((count for count, _ in counts), default=0)
    wanted = max((c * size for c, size in counts if c == top > 1), default=0)
    assert top_ngram_chars(words, lengths, n) == wanted


def test_languages() -> None:
    german = "Der Müller öffnete das Tor, und das Wasser lief hinab zum Rad. " * 3
    assert judge("language", PROSE) == ""
    assert judge("language", german) == "language:de"
    assert judge("language:allowed=en+de", german) == ""
    assert judge("language:min_confidence=1.1", PROSE) == "language:unsure"
    assert identify("Русский текст о воде и мельнице, написанный давно.").language == "ru"
    # Of a long text, all three parts are read.
    assert identify("\n".join(["x = 1"] * 300 + [german] * 40)).language == "de"


FOUND: list[tuple[str, str, dict[str, int]]] = [
    ("write to ada.l+x@mail.example.org now", "write to [EMAIL] now", {"email": 1}),
    ("DE89 3704 0044 0532 0130 00.", "[IBAN].", {"iban": 1}),
    ("GB82WEST12345698765432", "[IBAN]", {"iban": 1}),
    ("card 4111-1111-1111-1111 ok", "card [CARD] ok", {"card": 1}),
    ("from 8.8.8.8, 2606:4700::1111", "from [IP], [IP]", {"ip": 2}),
    ("+49 30 1234567 or (212) 555-0142", "[PHONE] or [PHONE]", {"phone": 2}),
]
LEFT = (
    "DE89 3704 0044 0532 0130 01",  # check digits
    "4111-1111-1111-1112",  # Luhn
    "192.168.1.10 127.0.0.1 ::1 fe80::1",  # nobody's
    "12:30:45 and 1.2.3 and v10.20.30.400",
    "2024-11-25, 3.14159265358979, +5, 1234567890",
    "def f(a: int) -> x[1:2:3]",
    "@decorator a@b user@host",
)


@pytest.mark.parametrize(("text", "clean", "counts"), FOUND)
def test_personal_data_is_replaced_and_counted(
    text: str, clean: str, counts: dict[str, int]
) -> None:
    assert pii.scrub(text) == (clean, counts)
    assert pii.scrub(clean) == (clean, {})


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert pii.scrub(text) == (text, {})


def shout(text: str) -> tuple[str, dict[str, int]]:
    return text.upper(), {"case": 1}


def test_a_scrubber_is_named_by_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pii.load("headrace.data.pii:scrub")("a@b.org").text == "[EMAIL]"
    monkeypatch.setattr(pii, "shout", shout, raising=False)
    assert pii.load("headrace.data.pii:shout")("a") == ("A", {"case": 1})
    broken: Any = str.upper
    monkeypatch.setattr(pii, "broken", broken, raising=False)
    with pytest.raises(DataError, match="not \\(text, counts"):
        pii.load("headrace.data.pii:broken")("a")
    for path, message in (
        ("headrace.data.pii", "MODULE:FUNCTION"),
        ("headrace.nothing:f", "cannot be imported"),
        ("headrace.data.pii:nothing", "cannot be imported"),
        ("headrace.data.pii:_EMAIL", "not a function"),
    ):
        with pytest.raises(DataError, match=message):
            pii.load(path)
