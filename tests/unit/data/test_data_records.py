"""Records: what tuning reads from JSON lines, and errors that name file, line and field."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data import records
from headrace.errors import DataError
from headrace.types import Integrity, Role

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
OTHER = {"role": "assistant", "content": "Go away"}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def test_chats_keep_messages_tools_ids_and_what_else_the_line_says(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    path = tmp_path / "chat.jsonl.gz"
    first = {"messages": [USER, ANSWER], "tools": [tool], "id": 7, "source": "forum"}
    lines = [json.dumps(first), "", json.dumps({"messages": [USER, ANSWER]})]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    one, two = records.chats(path)
    assert (one.id, one.tools[0].name, one.extra) == ("7", "add", {"source": "forum"})
    assert [m.role for m in one.messages] == [Role.USER, Role.ASSISTANT]
    assert one.messages[1].parts[0].label.integrity is Integrity.MODEL
    assert (two.id, two.tools, two.extra) == ("chat.jsonl.gz:3", (), {})


def test_strings_and_messages_say_the_same(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        {"messages": [USER], "chosen": [ANSWER], "rejected": OTHER},
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"prompt": "Hi", "chosen": [USER, ANSWER], "rejected": [USER, OTHER], "score": 2},
    )
    found = list(records.preferences(path))
    assert len({(p.prompt, p.chosen, p.rejected) for p in found}) == 1
    assert found[0].chosen[0].text == "Hello"
    assert found[3].extra == {"score": 2}


def test_whole_conversations_split_where_they_part(tmp_path: Path) -> None:
    shared = [USER, ANSWER, {"role": "user", "content": "Bye"}]
    last = {"role": "assistant", "content": "See you"}
    path = write(tmp_path / "p.jsonl", {"chosen": [*shared, last], "rejected": [*shared, OTHER]})
    (found,) = records.preferences(path)
    assert [m.text for m in found.prompt] == ["Hi", "Hello", "Bye"]
    assert [m.text for m in found.chosen] == ["See you"]


def test_the_other_readers(tmp_path: Path) -> None:
    rated = write(tmp_path / "k.jsonl", {"prompt": [USER], "completion": [ANSWER], "label": False})
    (rating,) = records.ratings(rated)
    assert (rating.desirable, rating.completion[0].text) == (False, "Hello")
    (done,) = records.completions(write(tmp_path / "c.jsonl", {"prompt": "Hi", "completion": "x"}))
    assert (done.prompt[0].role, done.completion[0].role) == (Role.USER, Role.ASSISTANT)
    (asked,) = records.prompts(write(tmp_path / "q.jsonl", {"prompt": "2+2", "answer": "4"}))
    assert (asked.messages[0].text, asked.extra) == ("2+2", {"answer": "4"})


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (records.chats, {"message": [USER, ANSWER]}, "`messages` is missing"),
    (records.chats, {"messages": [USER]}, "no assistant turn"),
    (records.chats, {"messages": [USER, {"role": "bot", "content": ""}]}, r"`messages\[1\].role`"),
    (records.chats, {"messages": [USER, ANSWER], "tool": []}, "did you mean `tools`"),
    (records.chats, {"messages": [{**USER, "weight": 0}, ANSWER]}, r"`messages\[0\].weight`"),
    (records.preferences, {"prompt": "a", "chosen": "b"}, "`rejected` is missing"),
    (records.preferences, {"prompt": "a", "chosen": "b", "rejected": "b"}, "are equal"),
    (records.preferences, {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "are equal"),
    (records.preferences, {"chosen": [USER, ANSWER], "rejected": [OTHER]}, "common beginning"),
    (
        records.preferences,
        {"prompt": "Bye", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        "`prompt` is not how",
    ),
    (
        records.preferences,
        {"prompt": "a", "messages": [USER], "chosen": "b", "rejected": "c"},
        "are both there",
    ),
    (records.preferences, {"prompt": "a", "chosen": " ", "rejected": "c"}, "`chosen` is empty"),
    (records.ratings, {"prompt": "a", "completion": "b"}, "`label` must be true"),
    (records.ratings, {"prompt": "a", "completion": "b", "label": 1}, "it is 1"),
    (records.completions, {"prompt": [USER, ANSWER], "completion": "b"}, "ends with an assistant"),
    (records.completions, {"prompt": "a", "completion": [USER]}, "begins with user"),
    (records.prompts, {"prompt": "a", "id": [1]}, "`id` must be"),
]


@pytest.mark.parametrize(("read", "line", "message"), BAD)
def test_a_bad_line_is_named_with_file_line_and_field(
    tmp_path: Path, read: Any, line: dict[str, Any], message: str
) -> None:
    good = {
        "messages": [USER, ANSWER],
        "prompt": "a",
        "completion": "b",
        "chosen": "b",
        "rejected": "c",
        "label": True,
    }
    wanted = {
        records.chats: ("messages",),
        records.preferences: ("prompt", "chosen", "rejected"),
        records.ratings: ("prompt", "completion", "label"),
        records.completions: ("prompt", "completion"),
        records.prompts: ("prompt",),
    }[read]
    fine = {name: good[name] for name in wanted}
    path = write(tmp_path / "data.jsonl", fine, line, fine)
    with pytest.raises(DataError, match=rf"data\.jsonl:2: .*{message}"):
        list(read(path))
    skipped: list[DataError] = []
    assert len(list(read(path, on_error=skipped.append))) == 2
    assert len(skipped) == 1


def test_files_that_are_no_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n\n")
    with pytest.raises(DataError, match="has no record"):
        list(records.chats(path))
    path.write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:1: the line is not valid JSON"):
        list(records.chats(path))
    with pytest.raises(DataError, match="cannot read"):
        list(records.chats(tmp_path / "absent.jsonl"))
    cut = tmp_path / "cut.jsonl.gz"
    whole = b"".join(b'{"prompt": "%d"}\n' % number for number in range(5000))
    cut.write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(DataError, match="after line"):
        list(records.prompts(cut))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab é", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("role", "content", "prompt", "messages", "chosen", "label", "id")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(line=st.dictionaries(st.sampled_from(("prompt", "messages", "chosen", "rejected")), JSON))
def test_any_line_is_a_record_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, line: dict[str, Any]
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.jsonl", line)
    for read in (records.chats, records.completions, records.preferences, records.ratings):
        bad: list[DataError] = []
        assert len(list(read(path, on_error=bad.append))) + len(bad) == 1
