"""Sources: same files, same documents; bad files are refused by name."""

import gzip
import json
from pathlib import Path

import pytest

from headrace.data import sources
from headrace.data.manifest import as_json, manifest
from headrace.errors import DataError


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "lib"
    (root / "pack" / "test").mkdir(parents=True)
    (root / "alpha.py").write_text(
        '"""The first module."""\n\n\n'
        'def join(a, *p, sep="/"):\n    """Join paths. Slowly."""\n\n\n'
        'class Box:\n    """A box."""\n\n    def open(self):\n        """Open the box."""\n'
        + "# padding\n"
        * 40
    )
    (root / "pack" / "__init__.py").write_text('"""A package."""\n' + "x = 1\n" * 60)
    (root / "pack" / "test" / "test_it.py").write_text("y = 2\n" * 60)
    (root / "broken.py").write_text("def (:\n" * 60)
    (root / "latin.py").write_bytes(b"# \xe9\n" * 60)
    return root


def test_modules_are_named_sorted_and_tests_left_out(library: Path) -> None:
    assert [name for name, _ in sources.stdlib_modules(library)] == ["alpha", "broken", "pack"]
    assert [d.id for d in sources.stdlib(library)] == [
        "stdlib/alpha",
        "stdlib/broken",
        "stdlib/pack",
    ]


def test_docstrings_have_dotted_names_kinds_and_signatures(library: Path) -> None:
    entries = list(sources.docstrings("alpha", (library / "alpha.py").read_text()))
    assert [(e.name, e.kind, e.signature, e.doc) for e in entries] == [
        ("alpha", "module", "", "The first module."),
        ("alpha.join", "function", "(a, *p, sep='/')", "Join paths. Slowly."),
        ("alpha.Box", "class", "", "A box."),
        ("alpha.Box.open", "method", "(self)", "Open the box."),
    ]
    assert list(sources.docstrings("broken", "def (:")) == []


def test_this_interpreter_has_a_library_with_prose_and_topics() -> None:
    prose = {document.id: document for document in sources.stdlib_prose()}
    assert "Join two or more pathname components" in prose["docstrings/posixpath"].text
    assert prose["topics/lambda"].licence == "PSF-2.0"


def test_texts_reads_lines_and_plain_files_compressed_or_not(tmp_path: Path) -> None:
    lines = [json.dumps({"path": "a.rst", "text": "alpha"}), json.dumps({"text": "beta"})]
    (tmp_path / "peps.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "play.txt").write_text("one\n\ntwo")
    (tmp_path / "README.md").write_text("not a corpus")
    found = list(sources.texts(tmp_path))
    assert [(d.id, d.text) for d in found] == [
        ("peps/a.rst", "alpha"),
        ("peps/2", "beta"),
        ("play/0", "one\n\ntwo"),
    ]
    assert found[0].licence == "public domain or CC0-1.0"
    assert found[2].licence.startswith("unknown")


def test_a_long_plain_file_is_cut_at_empty_lines_without_loss(tmp_path: Path) -> None:
    text = "\n\n".join(f"paragraph {n} " + "x" * 900 for n in range(200))
    (tmp_path / "play.txt").write_text(text)
    found = list(sources.texts(tmp_path))
    assert len(found) > 2
    assert "".join(document.text for document in found) == text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"no": 1}', "a.jsonl:2"),
        ("a.jsonl", b'{"text": 7}', "is a int"),
        ("a.jsonl", b"[1]", "a.jsonl:1"),
        ("a.jsonl.gz", b"not gzip", "cannot read"),
        ("a.txt.gz", gzip.compress(b"cut off" * 99, mtime=0)[:20], "cannot read"),
        ("a.txt", b"\xff\xfe\xff", "cannot read"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(sources.texts(tmp_path))


def test_directories_without_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a directory"):
        list(sources.texts(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"has no \*\.jsonl"):
        list(sources.texts(tmp_path))


def _document(name: str, text: str = "0123456789", source: str = "s") -> sources.Document:
    return sources.Document(id=name, source=source, licence="L", text=text)


def test_a_cap_keeps_order_and_leaves_other_sources_alone() -> None:
    documents = [_document(f"s/{n}") for n in range(20)] + [_document("t/0", source="t")]
    kept = sources.capped(documents, {"s": 55})
    assert len([d for d in kept if d.source == "s"]) == 5
    assert [d.id for d in kept] == [d.id for d in documents if d in kept]
    assert kept[-1].id == "t/0"


def test_held_out_is_a_stable_fraction() -> None:
    held = [n for n in range(4000) if sources.is_held_out(f"d/{n}", one_in=40)]
    assert 60 < len(held) < 140
    assert held == [n for n in range(4000) if sources.is_held_out(f"d/{n}", one_in=40)]


def test_the_manifest_counts_and_hashes() -> None:
    documents = [_document("s/ab", "c"), _document("t/1", "ä", source="t")]
    rows = manifest(documents)
    assert [(r.source, r.documents, r.text_bytes) for r in rows] == [("s", 1, 1), ("t", 1, 2)]
    assert as_json(rows)[0]["sha256"] == rows[0].sha256
    # The same characters, cut elsewhere, are other data.
    assert manifest([_document("s/a", "bc")])[0].sha256 != rows[0].sha256
