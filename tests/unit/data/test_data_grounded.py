"""Grounded questions: what an answer quotes stands in the source it cites."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data import grounded, squad
from headrace.data.grounded import Passage, Question, Quote
from headrace.data.sources import Document
from headrace.errors import DataError
from headrace.types import DocumentPart, Integrity

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
]


@st.composite
def passages(draw: st.DrawFn) -> list[Passage]:
    made: list[Passage] = []
    for number in range(draw(st.integers(1, 4))):
        sentences = draw(
            st.lists(
                st.lists(st.sampled_from(WORDS), min_size=4, max_size=12), min_size=1, max_size=6
            )
        )
        text = " ".join(" ".join(words).capitalize() + "." for words in sentences)
        start = draw(st.integers(0, len(text.split()) - 2))
        span = " ".join(text.split()[start : start + 2])
        asked = (
            (f"{number}/yes", "Which two?", (span,)),
            (f"{number}/no", "Which none?", ()),
        )
        made.append(Passage(article=draw(st.sampled_from("AB")), text=text, asked=asked))
    return made


@given(passages(), st.integers(20, 200), st.integers(1, 4))
def test_answers_stand_in_the_source_that_is_cited(
    made: list[Passage], source_chars: int, sources: int
) -> None:
    for question in grounded.from_passages(made, source_chars=source_chars, sources=sources):
        assert 1 <= len(question.sources) <= sources
        quote = grounded.parse(grounded.answer(question))
        if question.answerable:
            assert quote.text in question.sources[quote.number - 1]
            assert all(
                right not in source
                for number, source in enumerate(question.sources, start=1)
                for right in question.answers
                if number != question.cited
            )
        else:
            assert quote == Quote(text="", number=0, refused=True)
        for wrong in grounded.wrong_answers(question):
            said = grounded.parse(wrong)
            assert said != quote
            assert said.refused or (said.number, said.text in question.answers) != (
                question.cited,
                True,
            )


def test_a_prompt_keeps_sources_apart_and_untrusted() -> None:
    question = Question(id="q", text="Who?", sources=("Ann did.", "Bob did."))
    message = grounded.prompt(question)
    documents = [part for part in message.parts if isinstance(part, DocumentPart)]
    assert [(part.id, part.text) for part in documents] == [("1", "Ann did."), ("2", "Bob did.")]
    assert all(part.label.integrity is Integrity.UNTRUSTED for part in documents)
    whole = "".join(part.text for part in message.parts)  # pyright: ignore
    assert whole == "Sources:\n[1] Ann did.\n[2] Bob did.\n\nQuestion: Who?"


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ('"a span" [2]', Quote(text="a span", number=2)),
        (' "say "yes" now" [12] ', Quote(text='say "yes" now', number=12)),
        (grounded.REFUSAL, Quote(text="", number=0, refused=True)),
        ("a span [2]", Quote(text="a span [2]", number=0)),
        ("", Quote(text="", number=0)),
    ],
)
def test_what_was_said_is_read(text: str, quote: Quote) -> None:
    assert grounded.parse(text) == quote


def test_gaps_are_names_that_stand_once() -> None:
    text = (
        "The committee of the town met in Reykjavik on a cold morning, and its members wrote "
        "a long report about the harbour before they went home. It was printed twice."
    )
    documents = [
        Document(id=f"d{n}", text=text.replace("Reykjavik", name), source="s", licence="CC0-1.0")
        for n, name in enumerate(("Reykjavik", "Bergen", "Aarhus", "Turku"))
    ]
    made = list(grounded.from_texts(documents, source_chars=400, sources=2, one_in=10**9))
    assert {q.answers[0] for q in made} == {"Reykjavik", "Bergen", "Aarhus", "Turku"}
    assert all("____" in q.text and q.answers[0] in q.sources[q.cited - 1] for q in made)
    refused = list(grounded.from_texts(documents, source_chars=400, sources=2, one_in=1))
    assert any(not q.answerable for q in refused)


def test_question_files_are_read_or_refused(tmp_path: Path) -> None:
    paragraph = {
        "context": "It began in May.",
        "qas": [
            {
                "id": "1",
                "question": " When? ",
                "is_impossible": False,
                "answers": [{"text": "May"}],
            },
            {"id": "2", "question": "Who?", "is_impossible": True, "answers": []},
        ],
    }
    path = tmp_path / "q.json.gz"
    path.write_bytes(
        gzip.compress(json.dumps({"data": [{"title": "T", "paragraphs": [paragraph]}]}).encode())
    )
    (found,) = squad.passages(path)
    assert found.asked == (("1", "When?", ("May",)), ("2", "Who?", ()))
    bad = tmp_path / "bad.json"
    bad.write_text('{"data": [{"title": "T"}]}')
    with pytest.raises(DataError, match="SQuAD"):
        squad.passages(bad)
    with pytest.raises(DataError, match="cannot read"):
        squad.passages(tmp_path / "none.json")
