"""Conversations are quoted from documentation or hand-written, and always the same."""

import json

import pytest

from headrace.data import doc_questions, small_talk
from headrace.data.sources import DocEntry, Document
from headrace.types import Role, ToolCallPart, ToolResultPart


def test_a_docstring_becomes_questions_with_its_first_sentence() -> None:
    entry = DocEntry(
        name="os.path.join",
        kind="function",
        signature="(a, *p)",
        doc="Join two or more pathname components, inserting '/' as needed.\n\nMore.",
    )
    found = [[m.text for m in c.messages] for c in doc_questions.library([entry])]
    answer = (
        "`os.path.join` is a function. Join two or more pathname components, "
        "inserting '/' as needed."
    )
    assert all("os.path.join" in texts[0] for texts in found)
    assert {texts[1] for texts in found} == {answer, "Call it as `os.path.join(a, *p)`."}


@pytest.mark.parametrize(
    ("doc", "sentence"),
    [
        ("Return the length. It is a number.", "Return the length."),
        ("e.g. this one\nruns over lines", "E.g. this one runs over lines."),
        ("Use ``x`` with care:", "Use `x` with care."),
        ("len(x) -> int of the thing", None),
        ("Short.", None),
        ("word " * 80, None),
        ("*** not a sentence at all", None),
    ],
)
def test_first_sentences(doc: str, sentence: str | None) -> None:
    assert doc_questions.first_sentence(doc) == sentence


def test_peps_are_read_from_their_headers() -> None:
    text = "PEP: 8\nTitle: Style Guide\nAuthor: G\nStatus: Active\nType: Process\n\nBody"
    pep = Document(id="peps/pep-0008.rst", source="peps", licence="L", text=text)
    other = Document(id="peps/x", source="peps", licence="L", text="no header")
    found = doc_questions.peps([pep, other])
    assert [c.messages[1].text for c in found] == [
        "PEP 8 is “Style Guide”. It is a Process PEP with status Active.",
        "PEP 8 is “Style Guide”.",
    ]


def test_this_interpreter_gives_thousands_of_questions_each_once() -> None:
    found = doc_questions.library()
    asked = ["\n".join(m.text for m in c.messages[:-1]) for c in found]
    assert len(asked) == len(set(asked)) > 2000
    assert any("os.path.join" in question for question in asked)
    assert any(question.startswith("What") and " len " in question for question in asked)


def test_every_conversation_ends_with_the_assistant_and_ids_are_unique() -> None:
    found = small_talk.conversations()
    assert len({c.id for c in found}) == len(found)
    for conversation in found:
        roles = [m.role for m in conversation.messages]
        assert roles[-1] is Role.ASSISTANT
        assert Role.USER in roles
        assert all(m.parts for m in conversation.messages)
    assert found == small_talk.conversations()


def test_tool_conversations_call_an_offered_tool_with_json() -> None:
    calls = 0
    for conversation in small_talk.conversations():
        offered = {tool.name for tool in conversation.tools}
        for message in conversation.messages:
            for part in message.parts:
                if isinstance(part, ToolCallPart):
                    calls += 1
                    assert part.name in offered
                    assert json.loads(part.arguments)
                if isinstance(part, ToolResultPart):
                    assert part.name in offered
    assert calls > 50
