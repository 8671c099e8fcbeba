"""Questions with known answers, from public data and from this machine, and their vectors.

A set is texts, and questions of which each has its graded texts and a cluster: what it shares with
others (an article, a file). Two are made here:

functions    the first sentence of a docstring → the function's code without its docstring, from
             the standard library: meaning leads, few words are common
identifiers  an identifier that one or two of those functions use, as one would type it → they

Vectors are made by our own engine from MiniLM and kept in a cache directory as .npy.
"""

import ast
import csv
import gzip
import json
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
_NOT_CODE = {
    *("test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "encodings"),
    *("pydoc_data", "ensurepip"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    query: str
    grades: dict[int, float]
    """Position of a text → how good it is."""
    cluster: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    name: str
    texts: tuple[str, ...]
    asked: tuple[Asked, ...]


def squad(path: Path, name: str = "squad", *, most: int | None = None) -> QuestionSet:
    """Paragraphs and answerable questions of a file in SQuAD's form, clustered by article."""
    raw = path.read_bytes()
    articles = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)["data"]
    texts: list[str] = []
    asked: list[Asked] = []
    for article in articles:
        for paragraph in article["paragraphs"]:
            texts.append(paragraph["context"])
            at = len(texts) - 1
            cluster = article["title"] if len(articles) > 1 else str(at)
            asked += [
                Asked(query=" ".join(qa["question"].split()), grades={at: 1.0}, cluster=cluster)
                for qa in paragraph["qas"]
                if not qa.get("is_impossible")
            ]
    if most is not None and most < len(asked):
        kept = sorted(random.Random(3).sample(range(len(asked)), most))
        asked = [asked[at] for at in kept]
    return QuestionSet(name=name, texts=tuple(texts), asked=tuple(asked))


def scifact(directory: Path) -> QuestionSet:
    """All abstracts with their titles, the 300 claims of BEIR's test."""
    documents = _abstracts(directory)
    at = {document["_id"]: place for place, document in enumerate(documents)}
    grades: dict[str, dict[int, float]] = {}
    for line in (directory / "qrels.beir-v1.0.0-scifact.test.txt").read_text().splitlines():
        claim, _, document, grade = line.split()
        grades.setdefault(claim, {})[at[document]] = float(grade)
    with gzip.open(directory / "topics.beir-v1.0.0-scifact.test.tsv.gz", "rt") as lines:
        claims = [line.rstrip("\n").split("\t") for line in lines]
    return QuestionSet(
        name="scifact",
        texts=tuple(f"{d['title']} {d['text']}" for d in documents),
        asked=tuple(Asked(query=c[1], grades=grades[c[0]], cluster=c[0]) for c in claims),
    )


def scifact_training(directory: Path) -> QuestionSet:
    """Claims of the training split none of whose abstracts a test claim has, over the abstracts
    that no test claim has: nothing that the test grades is there."""
    tested = {at for asked in scifact(directory).asked for at in asked.grades}
    documents = _abstracts(directory)
    kept = [at for at in range(len(documents)) if at not in tested]
    place = {documents[at]["_id"]: number for number, at in enumerate(kept)}
    hidden = {documents[at]["_id"] for at in tested}
    claims: dict[str, tuple[str, list[str]]] = {}
    with (directory / "claims_train.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            cited = re.findall(r"\d+", row["cited_doc_ids"])
            claims.setdefault(row["id"], (row["claim"], cited))
    asked = [
        Asked(
            query=claim,
            grades={place[d]: 1.0 for d in cited if d in place},
            cluster=min(cited),
        )
        for claim, cited in claims.values()
        if cited and not hidden & set(cited) and any(d in place for d in cited)
    ]
    texts = tuple(f"{documents[at]['title']} {documents[at]['text']}" for at in kept)
    return QuestionSet(name="scitrain", texts=texts, asked=tuple(asked))


def _abstracts(directory: Path) -> list[dict[str, Any]]:
    with gzip.open(directory / "corpus.jsonl.gz") as lines:
        return [json.loads(line) for line in lines]


def pubmedqa(path: Path) -> QuestionSet:
    """Titles that are questions → the abstract without its conclusion (`ori_pqal.json`)."""
    entries = list(json.loads(path.read_text()).values())
    return QuestionSet(
        name="pubmedqa",
        texts=tuple(" ".join(entry["CONTEXTS"]) for entry in entries),
        asked=tuple(
            Asked(query=entry["QUESTION"], grades={at: 1.0}, cluster=str(at))
            for at, entry in enumerate(entries)
        ),
    )


def functions(
    root: Path | None = None, name: str = "functions", *, longest: int = 2500
) -> QuestionSet:
    """Functions under a directory, the standard library by default, clustered by file."""
    root = root or Path(sysconfig.get_path("stdlib"))
    found = [
        (summary, code, str(path.relative_to(root)))
        for path in sorted(root.rglob("*.py"))
        if not _NOT_CODE & set(path.relative_to(root).parts)
        for summary, code in _documented(path)
        if 200 <= len(code) <= longest
    ]
    return QuestionSet(
        name=name,
        texts=tuple(code for _, code, _ in found),
        asked=tuple(
            Asked(query=summary, grades={at: 1.0}, cluster=file)
            for at, (summary, _, file) in enumerate(found)
        ),
    )


def _documented(path: Path) -> Iterator[tuple[str, str]]:
    """First sentence and code without it, of each function whose docstring says something."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        said = ast.get_docstring(node)
        if not said or len(node.body) < 3:
            continue
        summary = " ".join(re.split(r"\n\s*\n|(?<=[.!?])\s", said.strip())[0].split())
        if len(summary.split()) >= 5 and len(summary) <= 200:
            node.body = node.body[1:]
            yield summary, ast.unparse(node)


def sampled(of: QuestionSet, count: int, seed: int = 2) -> QuestionSet:
    """Some of the texts of a set that has one question for each, in their order."""
    if count >= len(of.texts):
        return of
    kept = sorted(random.Random(seed).sample(range(len(of.texts)), count))
    return replace(
        of,
        texts=tuple(of.texts[at] for at in kept),
        asked=tuple(replace(of.asked[at], grades={n: 1.0}) for n, at in enumerate(kept)),
    )


def identifiers(of: QuestionSet, forms: Sequence[str], name: str = "identifiers") -> QuestionSet:
    """One rare identifier of each function that has one, put as one of these forms."""
    used = [set(re.findall(r"[A-Za-z_][A-Za-z0-9_]{5,}", text)) for text in of.texts]
    count = Counter(word for words in used for word in words)
    asked: list[Asked] = []
    for at, words in enumerate(used):
        rare = sorted(word for word in words if count[word] <= 2 and _is_name(word))
        if rare:
            draws = random.Random(at)
            word = draws.choice(rare)
            grades = {n: 1.0 for n, others in enumerate(used) if word in others}
            query = draws.choice(list(forms)).format(word)
            asked.append(Asked(query=query, grades=grades, cluster=of.asked[at].cluster))
    return QuestionSet(name=name, texts=of.texts, asked=tuple(asked))


def _is_name(word: str) -> bool:
    """No word of a language: joined, with a digit, or with a capital inside."""
    return "_" in word.strip("_") or bool(re.search("[a-z][A-Z]|[0-9]|^[A-Z_]+$", word))


def given(cache: Path, name: str) -> QuestionSet:
    """A set that was written down: NAME_passages.json, NAME_questions.json, NAME_rel.json."""
    texts, queries, rel = (
        json.loads((cache / f"{name}_{what}.json").read_text())
        for what in ("passages", "questions", "rel")
    )
    return QuestionSet(
        name=name,
        texts=tuple(texts),
        asked=tuple(
            Asked(
                query=query,
                grades={int(k): float(v) for k, v in found.items()}
                if isinstance(found, dict)
                else {found: 1.0},
                cluster=str(cluster),
            )
            for query, found, cluster in zip(queries, rel["rel"], rel["cluster"], strict=True)
        ),
    )


def write(of: QuestionSet, cache: Path) -> None:
    """Write a set down, as `given` reads it."""
    rel = {"rel": [a.grades for a in of.asked], "cluster": [a.cluster for a in of.asked]}
    for what, value in (
        ("passages", of.texts),
        ("questions", [a.query for a in of.asked]),
        ("rel", rel),
    ):
        (cache / f"{of.name}_{what}.json").write_text(json.dumps(value))


def vectors(of: QuestionSet, cache: Path) -> tuple[Rows, Rows]:
    """Of texts and questions, from the cache where they are there."""
    return (
        _kept(cache / f"{of.name}_passages.npy", of.texts),
        _kept(cache / f"{of.name}_questions.npy", [asked.query for asked in of.asked]),
    )


def _kept(path: Path, texts: Sequence[str]) -> Rows:
    if path.exists() and len(found := np.load(path)) == len(texts):
        return found
    found = embedded(texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, found)
    return found


def embedded(texts: Sequence[str]) -> Rows:
    """By the engine, MiniLM in bfloat16, without a process of its own."""
    from headrace.app import MINILM, embedding_path
    from headrace.config import EmbeddingSettings, EngineSettings, ModelSettings, Settings
    from headrace.engine.inputs import InputEncoder
    from headrace.engine.vector_queue import VectorRequest
    from headrace.engine.vector_worker import load_vectors
    from headrace.tokens import Tokenizer
    from headrace.types import EmbedRequest

    directory = embedding_path(Settings(embeddings=EmbeddingSettings(path=MINILM)))
    assert directory is not None
    engine = EngineSettings(max_batch_tokens=EmbeddingSettings().batch_tokens)
    loaded = load_vectors(directory, ModelSettings(path=str(directory), dtype="bfloat16"), engine)
    inputs = InputEncoder(
        Tokenizer.load(directory), loaded.checkpoint.sentences, vocab_size=loaded.core.vocab_size
    )
    rows: list[Rows] = []
    for begin in range(0, len(texts), 256):
        part = tuple(texts[begin : begin + 256])
        encoded = inputs.encode(EmbedRequest(model="", inputs=part, truncate=True)).inputs
        loaded.core.submit(VectorRequest(id="bench", inputs=encoded))
        answer = None
        while answer is None:
            for output in loaded.core.step():
                answer = np.frombuffer(output.event.data, dtype="<f4").reshape(len(part), -1)
        rows.append(answer)
    return np.concatenate(rows)
