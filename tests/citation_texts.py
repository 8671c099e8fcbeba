"""Passages of several corpora that claims are made of; half of each chooses nothing."""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from headrace.data.grounded import Passage
from headrace.data.sources import id_hash
from headrace.data.squad import passages as squad

_SALT = "citations, second split:"
_AT_ONCE = 12
"""Abstracts or problems that make up an `article`: what is shown together."""


def held(article: str) -> bool:
    """Whether an article is of the half that chooses nothing."""
    return id_hash(_SALT + article) % 2 == 1


def texts(data: Path, corpus: str, *, held_out: bool | None) -> list[Passage]:
    """Passages of a corpus, by name; None = of both halves."""
    found = CORPORA[corpus](data)
    return [p for p in found if held_out is None or held(p.article) is held_out]


def _squad(data: Path) -> list[Passage]:
    return squad(data / "squad_v2_dev" / "articles.json.gz")


def _grouped(named: list[tuple[str, str]], prefix: str) -> Iterator[Passage]:
    for at, (_, text) in enumerate(named):
        yield Passage(article=f"{prefix} {at // _AT_ONCE}", text=text, asked=())


def _scifact(data: Path) -> list[Passage]:
    """Abstracts, those with titles alike together."""
    rows = [json.loads(r) for r in _lines(data / "scifact" / "corpus.jsonl.gz")]
    named = sorted((row["title"], " ".join(row["sentences"])) for row in rows)
    return list(_grouped([n for n in named if 300 < len(n[1]) < 2500], "scifact"))


def _gsm8k(data: Path) -> list[Passage]:
    """Problems without their questions: short texts full of numbers."""
    found: list[tuple[str, str]] = []
    for row in _lines(data / "gsm8k" / "train.jsonl.gz"):
        text = re.sub(r"[^.]*\?\s*$", "", json.loads(row)["question"]).strip()
        if len(text) > 200:
            found.append(("", text))
    return list(_grouped(found[:1500], "gsm8k"))


def _wikitext(data: Path) -> list[Passage]:
    """WikiText-2's validation articles, its spaces around punctuation taken out."""
    article, found = "", list[Passage]()
    for line in _lines(data / "wikitext2" / "valid.txt.gz"):
        heading = re.fullmatch(r" ?= ([^=]+) = ?\n?", line)
        if heading:
            article = heading[1].strip()
        elif len(line) > 250 and "= =" not in line and line.count("<unk>") < 8:
            found.append(Passage(article=f"wiki {article}", text=_detokenized(line), asked=()))
    return found


def _detokenized(line: str) -> str:
    line = re.sub(r" @([-.,])@ ", r"\1", line.strip())
    line = re.sub(r" ([.,;:?!)%]|'s\b|'\B)", r"\1", line).replace("( ", "(").replace("$ ", "$")
    line = re.sub(r'" ([^"]+) "', r'"\1"', line)
    return line.replace("<unk>", "Ravel")


def _manuals(data: Path) -> list[Passage]:
    """Prose of The Rust Programming Language and of Python's proposals."""
    found: list[Passage] = []
    for name in ("rust_book.jsonl.gz", "peps.jsonl.gz"):
        for row in _lines(data / "texts" / name):
            page = json.loads(row)
            if "nostarch" in page["path"]:
                continue  # the same text again
            for block in re.split(r"\n\s*\n", page["text"]):
                text = " ".join(block.split())
                prose = re.match(r"[A-Z][a-z]+ ", text) and 300 < len(text) < 1500
                if prose and len(re.findall(r"[`*_{}<>|=\[\]]", text)) < 4:
                    found.append(Passage(article=page["path"], text=text, asked=()))
    return found


def scifact_claims(data: Path) -> list[tuple[str, str, bool]]:
    """Claims that people wrote, the abstract that decides each, and whether it supports it."""
    rows = [json.loads(r) for r in _lines(data / "scifact" / "corpus.jsonl.gz")]
    abstracts = {str(row["_id"]): " ".join(row["sentences"]) for row in rows}
    found: list[tuple[str, str, bool]] = []
    for name in ("claims_train.csv", "claims_validation.csv"):
        with (data / "scifact" / name).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                text = abstracts.get(row["evidence_doc_id"])
                if text and row["evidence_label"] in ("SUPPORT", "CONTRADICT"):
                    found.append((row["claim"], text, row["evidence_label"] == "SUPPORT"))
    return sorted(set(found))


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from file


CORPORA: dict[str, Callable[[Path], list[Passage]]] = {
    "squad": _squad,
    "scifact": _scifact,
    "wikitext": _wikitext,
    "gsm8k": _gsm8k,
    "manuals": _manuals,
}
