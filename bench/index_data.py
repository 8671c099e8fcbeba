"""A corpus for bench/index_stores.py: real vectors and sentences, grown to any number of chunks.

    python bench/index_data.py --texts SQUAD.json.gz --abstracts corpus.jsonl.gz --out DATA.npz

Vectors: MiniLM's of SQuAD's paragraphs and questions. More of them are made by mixing a vector with
one of its ten nearest neighbours and a little noise, which keeps what matters to an index: how
crowded neighbourhoods are. Queries are questions that were held out, with their own words. A
chunk's text is three sentences at random of SQuAD's and SciFact's, some 70 words.
"""

import argparse
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
HELD_OUT = 1000


def opened(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")


def paragraphs(path: Path) -> list[dict[str, Any]]:
    return [p for article in json.loads(opened(path))["data"] for p in article["paragraphs"]]


def sentences(squad: Path, abstracts: Path) -> list[str]:
    texts = [p["context"] for p in paragraphs(squad)]
    texts += [" ".join(json.loads(line)["sentences"]) for line in opened(abstracts).splitlines()]
    found = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text)]
    return [s for s in dict.fromkeys(found) if 40 < len(s) < 400]


def grown(base: Floats, count: int, *, seed: int) -> Floats:
    """`count` vectors of length 1 that lie as the base ones do."""
    draws = np.random.default_rng(seed)
    near = np.zeros((len(base), 10), np.int64)
    for i in range(0, len(base), 1024):
        cosines = base[i : i + 1024] @ base.T
        cosines[np.arange(len(cosines)), np.arange(i, i + len(cosines))] = -1
        near[i : i + 1024] = np.argpartition(-cosines, 10, axis=1)[:, :10]
    made = [base]
    for _ in range((count - len(base)) // 20_000 + 1):
        one = draws.integers(0, len(base), 20_000)
        other = near[one, draws.integers(0, 10, 20_000)]
        weight = draws.uniform(0.3, 1.0, (20_000, 1)).astype(np.float32)
        mixed = weight * base[one] + (1 - weight) * base[other]
        mixed += draws.normal(0, 0.3 / base.shape[1] ** 0.5, mixed.shape).astype(np.float32)
        made.append(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
    rows = np.concatenate(made)[:count].astype(np.float32)
    return rows[draws.permutation(count)]


def texts(pool: list[str], count: int, *, seed: int) -> list[str]:
    draws = random.Random(seed)
    return [" ".join(draws.choices(pool, k=3)) for _ in range(count)]


def main() -> None:
    from embeddings import ours  # beside this script, and it needs torch
    from headrace.app import MINILM, embedding_path
    from headrace.config import EmbeddingSettings, Settings

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="a SQuAD file, maybe gzipped")
    parser.add_argument("--abstracts", type=Path, required=True, help="SciFact's corpus.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    directory = embedding_path(Settings(embeddings=EmbeddingSettings(path=MINILM)))
    assert directory is not None
    embed = ours(directory, dtype="bfloat16", kernels="auto", threads=2)
    found = paragraphs(given.texts)
    asked = list(dict.fromkeys(qa["question"].strip() for p in found for qa in p["qas"]))
    random.Random(5).shuffle(asked)
    asked = asked[: 5000 + HELD_OUT]
    wanted = [p["context"] for p in found] + asked
    rows = np.concatenate([embed(wanted[i : i + 256]) for i in range(0, len(wanted), 256)])
    np.savez(
        given.out,
        base=rows[:-HELD_OUT].astype(np.float32),
        queries=rows[-HELD_OUT:].astype(np.float32),
        questions=np.array(asked[-HELD_OUT:]),
        sentences=np.array(sentences(given.texts, given.abstracts)),
    )
    print(f"{len(rows)} vectors of {rows.shape[1]}")


if __name__ == "__main__":
    main()
