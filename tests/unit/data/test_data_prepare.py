"""Preparing data: the same bytes however it is run, and nothing lost silently."""

import errno
import gzip
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from headrace.data import atomic, clean, encode, execute, shards
from headrace.data.corpus import Mixture, batches
from headrace.data.filters import GopherQuality
from headrace.data.pack import cut
from headrace.data.plan import Near, Plan, Source, units
from headrace.data.prepare import Progress, prepare
from headrace.errors import DataError
from headrace.tokens import Tokenizer, train_bpe

ROOTS = ("mill", "water", "wheel", "stone", "grain", "sack")
WORDS = [f"{root}{letter}" for root in ROOTS for letter in "abcdefghij"]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    made = train_bpe(
        [" ".join(WORDS)], vocab_size=300, special_tokens=["<|endoftext|>"], eos="<|endoftext|>"
    )
    made.save(path)
    return path


def text(rng: random.Random, words: int = 60) -> str:
    return " ".join(rng.choices(WORDS, k=words)) + "."


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Seven files in two formats with every kind of bad record and every kind of duplicate."""
    rng = random.Random(3)
    root = tmp_path / "corpus"
    (root / "deep").mkdir(parents=True)
    base = [text(rng) for _ in range(40)]
    near = base[5].split()
    near[0] = "other"
    lines: list[bytes] = [json.dumps({"text": item}).encode() for item in base]
    lines += [
        json.dumps({"text": base[3].replace(" ", "  ") + "\n"}).encode(),  # equal but for space
        json.dumps({"text": " ".join(near) + " a bit longer"}).encode(),
        json.dumps({"text": "short"}).encode(),
        json.dumps({"text": "   "}).encode(),
        json.dumps({"text": text(rng) + " write to ada@example.org"}).encode(),
        json.dumps({"text": text(rng), "license": "GPL-3.0", "url": "https://x.org/1"}).encode(),
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"text": ',
        b'{"body": "x"}',
        b"",
    ]
    (root / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    (root / "deep" / "b.jsonl").write_bytes(b"\n".join(lines[:2]))
    (root / "c.txt").write_text(text(rng))
    (root / "d.txt").write_bytes(b"\xff\xfe")
    (root / "ignored.png").write_bytes(b"")
    return root


def plan_of(corpus: Path, tokenizer: Path, **changes: Any) -> Plan:
    source = Source(name="corpus", path=corpus, licence="CC0-1.0")
    made = Plan(
        sources=(source,),
        tokenizer=tokenizer,
        filters=(GopherQuality(min_words=20, min_stop_words=0),),
        scrubber="headrace.data.pii:scrub",
    )
    return replace(made, **changes)


def run(plan: Plan, out: Path, executor: execute.Executor | None = None) -> dict[str, Any]:
    list(prepare(plan, out, executor or execute.local(1)))
    return json.loads((out / "manifest.json").read_bytes())


def contents(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_every_record_is_kept_or_counted_by_reason(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    made = run(plan_of(corpus, tokenizer), tmp_path / "out")
    assert made["dropped"] == {
        "exact_duplicate": 3,
        "undecodable": 3,
        "empty": 1,
        "gopher:few_words": 1,
        "near_duplicate": 1,
        "no_text": 1,
        "not_json": 1,
    }
    assert made["documents"]["read"] == 54
    assert made["documents"]["kept"] == 43 == 54 - sum(made["dropped"].values())
    assert made["pii"] == {"email": 1}
    assert [(row["licence"], row["documents"]) for row in made["sources"]] == [
        ("CC0-1.0", 42),
        ("GPL-3.0", 1),
    ]
    assert any("a.jsonl.gz:47: undecodable" in line for line in made["examples"])
    assert not (tmp_path / "out" / ".work").exists()


def test_shards_hold_the_documents_and_where_they_are_from(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    run(plan_of(corpus, tokenizer), tmp_path / "out")
    held = shards.Shards(tmp_path / "out")
    held.verify()
    words = Tokenizer.load(tmp_path / "out")
    texts = [words.decode(held.ids(i)[:-1].tolist()) for i in range(len(held))]
    assert any(item.endswith("write to [EMAIL]") for item in texts)
    # Of two near-duplicates the longer one stays.
    assert sum("a bit longer" in item for item in texts) == 1
    assert {int(held.ids(i)[-1]) for i in range(len(held))} == {held.end_id}
    assert held.tokens == held.lengths().sum() == sum(len(held.ids(i)) for i in range(len(held)))
    (gpl,) = [
        held.provenance(i) for i in range(len(held)) if held.provenance(i).licence == "GPL-3.0"
    ]
    assert (gpl.origin, gpl.id) == ("https://x.org/1", "corpus/a.jsonl.gz:46")


@pytest.mark.parametrize("limit", [7, 64, 1000])
def test_rows_are_the_documents_cut_and_a_step_is_a_pure_function(
    corpus: Path, tokenizer: Path, tmp_path: Path, limit: int
) -> None:
    run(plan_of(corpus, tokenizer, shard_tokens=700, unit_bytes=2000), tmp_path / "out")
    held = shards.Shards(tmp_path / "out")
    rows = shards.ShardRows(held, max_tokens=limit)
    wanted = [row for i in range(len(held)) for row in cut(held.ids(i).tolist(), max_tokens=limit)]
    assert len(rows) == len(wanted)
    for mine, theirs in zip(rows, wanted, strict=True):
        assert mine.ids.tolist() == theirs.ids.tolist()
        assert mine.weights.tolist() == theirs.weights.tolist()
    mixture = Mixture(rows=rows, per_step=4, seed=1)
    again = Mixture(
        rows=shards.ShardRows(shards.Shards(tmp_path / "out"), max_tokens=limit), per_step=4, seed=1
    )
    for step in (7, 0):
        for one, two in zip(
            batches([mixture], step, max_tokens=1024),
            batches([again], step, max_tokens=1024),
            strict=True,
        ):
            assert np.array_equal(one.ids_T, two.ids_T)
            assert np.array_equal(one.doc_T, two.doc_T)


def test_the_same_bytes_in_one_process_in_many_and_after_interruptions(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    plan = plan_of(corpus, tokenizer, unit_bytes=1500, held_out_one_in=4)
    assert len(units(plan)) > 4
    once = run(plan, tmp_path / "one")
    assert once["tokens"]["held_out"] > 0
    run(plan, tmp_path / "two", execute.local(2))
    interrupted = 0
    for stop in range(1, 30):  # stop after the first event, then after the second, ...
        steps = prepare(plan, tmp_path / "three", execute.local(1))
        seen = [event for _, event in zip(range(stop), steps, strict=False)]
        assert all(isinstance(event, Progress) for event in seen)
        steps.close()  # type: ignore[attr-defined]
        if (tmp_path / "three" / "manifest.json").exists():
            break
        interrupted += 1
    assert interrupted > 5
    list(prepare(plan, tmp_path / "three", execute.local(1)))
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")
    before = contents(tmp_path / "one")
    list(prepare(plan, tmp_path / "one", execute.local(1)))
    assert contents(tmp_path / "one") == before


def test_units_do_not_change_which_documents_stay(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    whole = run(plan_of(corpus, tokenizer), tmp_path / "one")
    cut_up = run(plan_of(corpus, tokenizer, unit_bytes=700), tmp_path / "two")
    for key in ("documents", "dropped", "sources", "tokens", "duplicates", "pii"):
        assert whole[key] == cut_up[key]


def test_planted_ngrams_of_an_evaluation_set_are_kept_out(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    rng = random.Random(9)
    questions = [text(rng, 30) for _ in range(12)]
    quiz = tmp_path / "quiz.json"
    quiz.write_text(json.dumps({"items": [{"q": item, "a": ["yes"]} for item in questions]}))
    lines = [
        json.dumps({"text": f"{text(rng)} {' '.join(item.split()[9:22])} {text(rng)}"})
        for item in questions
    ]
    (corpus / "e.jsonl").write_text("\n".join(lines))
    made = run(plan_of(corpus, tokenizer, against=(quiz,)), tmp_path / "out")
    assert made["dropped"]["contaminated:quiz"] == 12
    assert made["decontamination"] == {
        "ngram_words": 13,
        "sets": ["quiz"],
        "texts": 24,
        "texts_too_short": 12,
    }


@pytest.mark.parametrize("place", range(1, 9))
def test_a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_space(
    corpus: Path,
    tokenizer: Path,
    tmp_path: Path,
    place: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of(corpus, tokenizer)
    whole = run(plan, tmp_path / "good")
    writes = 0
    real = atomic.write

    def full(path: Path, fill: Callable[[BinaryIO], object]) -> None:
        nonlocal writes
        writes += 1
        if writes != place:
            real(path, fill)
            return

        def overflowing(file: BinaryIO) -> None:
            fill(file)
            raise OSError(errno.ENOSPC, "No space left on device")

        real(path, overflowing)

    monkeypatch.setattr(atomic, "write", full)
    out = tmp_path / "out"
    with pytest.raises(DataError, match="no space left for"):
        run(plan, out)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (out / "manifest.json").exists()
    assert run(plan, out) == whole
    assert contents(out) == contents(tmp_path / "good")


def test_bad_corpora_are_refused_by_name(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    def refused(message: str, path: Path, **changes: Any) -> None:
        out = tmp_path / f"out-{hashlib.sha256(message.encode()).hexdigest()[:8]}"
        with pytest.raises(DataError, match=message):
            run(plan_of(path, tokenizer, **changes), out)
        assert not (out / "manifest.json").exists()

    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    refused("the corpus is empty", empty)
    refused("is not there", tmp_path / "nothing")
    (tmp_path / "bare").mkdir()
    refused("has no file of", tmp_path / "bare")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"content": "x"}\n{"content": "y"}')
    refused("`text` is not there; the fields are content; see --text-field", wrong)
    broken = tmp_path / "broken.txt.gz"
    broken.write_bytes(gzip.compress(b"cut off" * 999)[:-9])
    refused("cannot read .*broken", broken)
    refused("no document is left of 54 read", corpus, licences=("none",))
    refused("no special token '<x>'", corpus, end_token="<x>")
    with pytest.raises(DataError, match="would leave nothing"):
        plan_of(corpus, tokenizer, held_out_one_in=1)


def test_a_document_larger_than_a_shard_is_a_counted_skip(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    (corpus / "long.txt").write_text(text(random.Random(0), 4000))
    made = run(plan_of(corpus, tokenizer, shard_tokens=2000), tmp_path / "out")
    assert made["dropped"]["larger_than_shard"] == 1
    assert max(entry["tokens"] for entry in made["shards"]) <= 2000


def test_an_output_of_another_plan_is_left_alone(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    plan = plan_of(corpus, tokenizer)
    out = tmp_path / "out"
    run(plan, out)
    before = contents(out)
    with pytest.raises(DataError, match="prepared otherwise"):
        run(replace(plan, near=None), out)
    assert contents(out) == before
    begun = tmp_path / "begun"
    next(iter(steps := prepare(plan, begun, execute.local(1))))
    for event in steps:
        if event.step == "cleaning":
            break
    with pytest.raises(DataError, match="begun with other settings"):
        run(replace(plan, near=Near(threshold=0.9)), begun)
    (corpus / "c.txt").write_text("changed")
    with pytest.raises(DataError, match="begun with other settings or other input"):
        run(plan, begun)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        run(plan, tmp_path / "full")


def test_damaged_shards_are_noticed(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(plan_of(corpus, tokenizer), out)
    (path,) = out.glob("train-*.bin")
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="not what was written"):
        shards.Shards(out).verify()
    path.write_bytes(data[:-2])
    with pytest.raises(DataError, match="are due"):
        shards.Shards(out)
    assert not shards.is_prepared(tmp_path)


def test_parquet_and_stripes(tokenizer: Path, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rng = random.Random(2)
    texts = [text(rng, 30) for _ in range(1000)]
    table = arrow.table({"text": texts, "license": ["MIT"] * 999 + [None], "n": range(1000)})
    path = tmp_path / "t.parquet"
    parquet.write_table(table, path, row_group_size=333)
    plan = plan_of(path, tokenizer, unit_bytes=30_000, near=None)
    assert len(units(plan)) > 2
    made = run(plan, tmp_path / "out")
    assert made["documents"] == {
        "read": 1000,
        "read_bytes": made["documents"]["read_bytes"],
        "kept": 1000,
    }
    assert {row["licence"]: row["documents"] for row in made["sources"]} == {
        "MIT": 999,
        "CC0-1.0": 1,
    }
    with pytest.raises(DataError, match="has no column `body`"):
        run(replace(plan, text_field="body"), tmp_path / "other")


def test_ids_take_the_smallest_type_that_holds_them() -> None:
    assert encode.dtype_for(1 << 16) == "uint16"
    assert encode.dtype_for((1 << 16) + 1) == "uint32"
    assert list(shards.cut_shards([3, 3, 3, 1, 7], limit=7)) == [(0, 2), (2, 4), (4, 5)]
    assert list(shards.cut_shards([], limit=7)) == []
    assert clean.content_hash("a  b\n") == clean.content_hash("a b")
