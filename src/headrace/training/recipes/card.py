"""A run's log and manifest -> the model card: what it is, from what, how well, in Markdown.

Everything numeric and every sample answer comes from the run's own log; nothing is written by hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.data.manifest import SourceCount
from headrace.training.recipe import settings
from headrace.training.recipes.sprout_plan import Recipe

_ABOUT = {
    "stdlib": "modules of the Python standard library, as code",
    "docstrings": "docstrings of the same modules, as prose",
    "topics": "the topics of Python's `help()`",
    "peps": "Python Enhancement Proposals",
    "rust_book": "The Rust Programming Language, `src/` only",
    "tinyshakespeare": "plays of William Shakespeare",
    "squad": "paragraphs of Wikipedia with questions that people asked (SQuAD 2.0)",
}
_ATTRIBUTION = {
    "stdlib": (
        "Python and its documentation: Copyright © 2001 Python Software Foundation; All Rights "
        "Reserved; PSF License Agreement, <https://docs.python.org/3/license.html>."
    ),
    "peps": (
        "Python Enhancement Proposals: their authors, placed in the public domain or under "
        "CC0-1.0, <https://peps.python.org>."
    ),
    "rust_book": (
        "The Rust Programming Language: Steve Klabnik, Carol Nichols, Chris Krycho and the Rust "
        "Project's contributors, MIT or Apache-2.0, <https://doc.rust-lang.org/book>."
    ),
    "tinyshakespeare": "Works of William Shakespeare: public domain.",
    "squad": (
        "SQuAD 2.0: Pranav Rajpurkar, Robin Jia and Percy Liang, and the authors of the Wikipedia "
        "articles, CC BY-SA 4.0, <https://rajpurkar.github.io/SQuAD-explorer>."
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the card is made from."""

    recipe: Recipe
    manifest: Sequence[SourceCount]
    parameters: int
    weight_bytes: int
    records: Sequence[Mapping[str, Any]]
    """Of the training log."""
    versions: Mapping[str, str]


def card(facts: Facts) -> str:
    """The card, ready to be written."""
    name = facts.recipe.name
    context = facts.recipe.shape.context_tokens
    sections = (
        f"# {name}",
        f"A Qwen3-shaped language model of {facts.parameters:,} parameters "
        f"({facts.weight_bytes / 1e6:.1f} MB in bfloat16), context {context} tokens, trained from "
        "nothing by `headrace train sprout` on two CPU cores. It exists to demonstrate headrace "
        "and to be its test article: it loads in a moment, answers in its chat template and ends "
        "its turns.",
        "**It knows almost nothing and is often wrong.** It has the manner of an assistant and of "
        "Python's documentation, not the knowledge: it invents what it cannot recall, which is "
        "nearly everything, and it has had no safety training. Use it for nothing that matters; "
        "serve a real model for that, such as `headrace serve Qwen/Qwen3-0.6B`.",
        "## Data",
        _table(
            ("source", "what", "licence", "documents", "bytes", "SHA-256 of ids and texts"),
            [
                (
                    row.source,
                    _ABOUT.get(row.source, "texts given with `--texts`"),
                    row.licence,
                    f"{row.documents:,}",
                    f"{row.text_bytes:,}",
                    f"`{row.sha256[:16]}…`",
                )
                for row in facts.manifest
            ],
        ),
        f"One document in {facts.recipe.held_out_one_in}, chosen by the hash of its id, was never "
        "trained on in the first stage. The conversations of the second are built by rule: "
        "questions about names, topics and proposals with answers quoted from the documentation "
        "above; sentences of the texts with a name or number left out, to be found in sources; and "
        f"short exchanges written by hand for headrace. {_people(facts)}The third stage prefers "
        "right answers to what the model said instead, or to an answer made wrong by rule. No text "
        "of another language model is among them.",
        "Attribution:",
        _bullets(
            [_ATTRIBUTION[row.source] for row in facts.manifest if row.source in _ATTRIBUTION]
        ),
        "The weights are distributed under headrace's licence, Apache-2.0; the texts keep theirs.",
        "## Training",
        _table(
            (
                "stage",
                "steps",
                "tokens",
                "minutes",
                "last loss",
                "held-out loss",
                "perplexity",
                "bits/byte",
            ),
            [_stage_row(facts.records, stage) for stage in _STAGES],
        ),
        "Losses are nats a token; the last one of a stage is that of its last step alone, and the "
        "third's is a loss of pairs. The held-out columns score text of the first stage in every "
        "row, so the later ones show what tuning cost. Muon for the layers' matrices, AdamW for "
        "the rest, warm-up, plateau, linear decay. `training_log.jsonl` has every step, "
        "`manifest.json` every source.",
        "```text\n"
        + "\n".join(f"{key} = {value}" for key, value in settings(facts.recipe).items())
        + "\n```",
        "Made with " + ", ".join(f"{what} {which}" for what, which in facts.versions.items()) + ".",
        "## Answers from sources",
        "Asked what none of its training texts hold, with sources beside the question, it is to "
        'quote the words and cite the source, as in `"October 1973" [1]`, or to say that the '
        "sources do not say. After each stage:",
        _table(
            ("after", "questions", *_QUOTING.values()),
            [_quoting_row(facts.records, stage) for stage in _STAGES],
        ),
        "Exact match and F1 are SQuAD 2.0's; *verbatim*: the quoted words stand in the source that "
        "is cited; *refused*: of the questions that the sources do not answer; *wrongly refused*: "
        "of those they do.",
        "## What it says",
        "Greedy answers of the finished model, as they came; “…” marks one that was cut off.",
        _table(
            ("prompt", "answer"),
            [(_cell(r["prompt"]), _cell(r["answer"])) for r in _samples(facts.records)],
        ),
        "## Limits",
        _bullets(
            [
                "English and Python only; no knowledge of the world beyond its texts.",
                "Signatures, PEP numbers and sums may be made up; check every one.",
                "Tool calls are learnt for a handful of toy tools and rarely generalise.",
                f"Nothing was trained beyond {context} tokens.",
            ]
        ),
    )
    return "\n\n".join(sections) + "\n"


def _people(facts: Facts) -> str:
    """What is said of questions that people asked, if there were any."""
    if not any(row.source == "squad" for row in facts.manifest):
        return ""
    return (
        "Questions that people asked about paragraphs of Wikipedia (SQuAD 2.0) are among them, "
        f"with cuts of up to {facts.recipe.quoting.sources} paragraphs as sources; one article in "
        f"{facts.recipe.held_out_articles_one_in} was trained on in no stage, and is what answers "
        "are scored on. "
    )


_STAGES = ("pretrain", "chat", "prefer")
_QUOTING = {
    "exact_match": "exact match",
    "f1": "F1",
    "answerable_exact_match": "exact match where answerable",
    "answerable_f1": "F1 where answerable",
    "cited": "right source cited",
    "verbatim": "verbatim",
    "refused": "refused",
    "refused_wrongly": "wrongly refused",
}


def _quoting_row(records: Sequence[Mapping[str, Any]], stage: str) -> tuple[str, ...]:
    scores = [r for r in records if r["kind"] == "score" and r["stage"] == f"{stage}-quoting"]
    if not scores:
        return (stage, *["-"] * (1 + len(_QUOTING)))
    told = (f"{scores[-1][name]:.1%}" for name in _QUOTING)
    return (stage, str(scores[-1]["questions"]), *told)


def _stage_row(records: Sequence[Mapping[str, Any]], stage: str) -> tuple[str, ...]:
    steps = [r for r in records if r["kind"] == "step" and r["stage"] == stage]
    scores = [r for r in records if r["kind"] == "score" and r["stage"] == stage]
    if not steps or not scores:
        return (stage, "0", "0", "-", "-", "-", "-", "-")
    step, score = steps[-1], scores[-1]
    return (
        stage,
        str(step["step"]),
        f"{step['tokens']:,}",
        f"{step['seconds'] / 60:.0f}",
        f"{step['loss']:.3f}",
        f"{score['loss']:.3f}",
        f"{score['perplexity']:.1f}",
        f"{score['bits_per_byte']:.3f}",
    )


def _samples(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    samples = [r for r in records if r["kind"] == "sample"]
    return [
        r for r in samples if (r["stage"], r["step"]) == (samples[-1]["stage"], samples[-1]["step"])
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _cell(text: str) -> str:
    """Text that cannot break out of its table cell."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", "<br>")
