"""Texts → vectors, beside sentence-transformers: equal vectors, and how many tokens a second.

    python bench/embeddings.py                             # MiniLM over questions and paragraphs
    python bench/embeddings.py --out bench/results/NAME.json

Both from texts to float32 rows, tokenizing included, the same real weights and the same threads;
sentence-transformers sorts by length and pads batches of 32, which is its default. Ours is what a
worker does: the core that plans batches, without the socket. Rounds alternate; a rate is the median
over rounds; the ratio of processor seconds is beside it, which other programs disturb less.
Cosines are of each text's vector with that of sentence-transformers in float32.
"""

import argparse
import gzip
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from headrace.app import MINILM, embedding_path
from headrace.bench.results import write_result
from headrace.config import EmbeddingSettings, EngineSettings, ModelSettings, Settings
from headrace.engine.inputs import InputEncoder
from headrace.engine.vector_queue import VectorRequest
from headrace.engine.vector_worker import load_vectors
from headrace.tokens import Tokenizer
from headrace.types import EmbedRequest

Rows = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Rows]
PEERS = ("sentence-transformers", "transformers")
PEER = "sentence-transformers float32"


def mixed(path: Path, *, paragraphs: int, questions: int) -> list[str]:
    """Paragraphs and questions of a SQuAD file, shuffled."""
    raw = path.read_bytes()
    articles = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)["data"]
    found = [p for article in articles for p in article["paragraphs"]]
    asked = [qa["question"].strip() for p in found for qa in p["qas"]]
    draws = random.Random(5)
    texts = draws.sample([p["context"] for p in found], paragraphs)
    texts += draws.sample(asked, questions)
    draws.shuffle(texts)
    return texts


def peer(directory: Path, dtype: str) -> Embed:
    """sentence-transformers as its documentation has it."""
    model = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    model.to(getattr(torch, dtype))

    def embed(texts: Sequence[str]) -> Rows:
        rows = model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
        return rows.float().numpy()

    return embed


def ours(directory: Path, *, dtype: str, kernels: str, threads: int) -> Embed:
    """A worker's core, and the tokenizer before it."""
    engine = EngineSettings(
        kernels=kernels, threads=threads, max_batch_tokens=EmbeddingSettings().batch_tokens
    )
    loaded = load_vectors(directory, ModelSettings(path=str(directory), dtype=dtype), engine)
    inputs = InputEncoder(
        Tokenizer.load(directory), loaded.checkpoint.sentences, vocab_size=loaded.core.vocab_size
    )

    def embed(texts: Sequence[str]) -> Rows:
        request = EmbedRequest(model="", inputs=tuple(texts), truncate=True)
        encoded = inputs.encode(request).inputs
        loaded.core.submit(VectorRequest(id="bench", inputs=encoded))
        while True:
            for output in loaded.core.step():
                rows = np.frombuffer(output.event.data, dtype="<f4")
                return rows.reshape(len(texts), -1)

    return embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="a SQuAD file, maybe gzipped")
    parser.add_argument("--paragraphs", type=int, default=48)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0, help="no round begins after these")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    directory = embedding_path(Settings(embeddings=EmbeddingSettings(path=MINILM)))
    assert directory is not None
    texts = mixed(given.texts, paragraphs=given.paragraphs, questions=given.questions)
    threads = given.threads
    runs: dict[str, Embed] = {
        PEER: peer(directory, "float32"),
        "headrace float32": ours(directory, dtype="float32", kernels="auto", threads=threads),
        "headrace float32, torch": ours(
            directory, dtype="float32", kernels="torch", threads=threads
        ),
        "headrace bfloat16": ours(directory, dtype="bfloat16", kernels="auto", threads=threads),
        "sentence-transformers bfloat16": peer(directory, "bfloat16"),
    }
    taken = measure(runs, texts, rounds=given.rounds, seconds=given.seconds)
    tokens = count(directory, texts)
    result = report(taken, tokens)
    result["lengths"] = {"texts": len(texts), "tokens": sum(tokens), "longest": max(tokens)}
    for name, entry in result["runs"].items():
        print(
            f"{name:34} {entry['tokens_per_s']:8.0f} tokens/s  {entry['ratio']:5.2f}x  "
            f"processor {entry['cpu_ratio']:5.2f}x  "
            f"least cosine {entry['least_cosine']:.7f}"
        )
    if given.out is not None:
        result["peers"] = {name: version(name) for name in PEERS}
        arguments = {key: value for key, value in vars(given).items() if key != "out"}
        arguments["texts"] = given.texts.name
        write_result(given.out, what="embeddings", arguments=arguments, result=result)


@dataclass(kw_only=True, slots=True)
class Taken:
    """What one way took and gave; the first call is not counted."""

    rows: Rows
    seconds: list[float] = field(default_factory=list[float])
    cpu_s: list[float] = field(default_factory=list[float])


def measure(
    runs: dict[str, Embed], texts: Sequence[str], *, rounds: int, seconds: float
) -> dict[str, Taken]:
    """Rounds in turn, until so many seconds are over."""
    began = time.perf_counter()
    taken = {name: Taken(rows=embed(texts)) for name, embed in runs.items()}
    for number in range(rounds):
        if number and time.perf_counter() - began > seconds:
            break
        for name, embed in runs.items():
            # Threads of the way before spin for a while after their last call.
            time.sleep(0.1)
            start, start_cpu = time.perf_counter(), time.process_time()
            embed(texts)
            taken[name].seconds.append(time.perf_counter() - start)
            taken[name].cpu_s.append(time.process_time() - start_cpu)
    return taken


def count(directory: Path, texts: Sequence[str]) -> list[int]:
    """Tokens of each text as all of them read it."""
    tokenizer = Tokenizer.load(directory)
    return [min(256, 2 + len(ids)) for ids in tokenizer.encode_many(texts)]


def report(taken: dict[str, Taken], tokens: Sequence[int]) -> dict[str, Any]:
    """Rates, ratios by round and cosines."""
    total, peer = sum(tokens), taken[PEER]
    entries: dict[str, Any] = {}
    for name, mine in taken.items():
        ratios = [a / b for a, b in zip(peer.seconds, mine.seconds, strict=True)]
        cpu_ratios = [a / b for a, b in zip(peer.cpu_s, mine.cpu_s, strict=True)]
        norms = np.linalg.norm(mine.rows, axis=1) * np.linalg.norm(peer.rows, axis=1)
        cosines = (mine.rows * peer.rows).sum(axis=1) / norms
        entries[name] = {
            "tokens_per_s": total / statistics.median(mine.seconds),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "cpu_ratio": statistics.median(cpu_ratios),
            "least_cosine": float(cosines.min()),
            "seconds": mine.seconds,
            "cpu_s": mine.cpu_s,
        }
    return {"runs": entries}


if __name__ == "__main__":
    main()
