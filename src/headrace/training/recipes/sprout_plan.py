"""What sprout's run is, as frozen values: three stages, and how questions are made."""

from dataclasses import dataclass, field

from headrace.training.objectives.dpo import DpoSettings
from headrace.training.recipe import Compute, Shape, Updates


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One pass of the loop over rows of text with one objective."""

    updates: Updates
    rows_per_step: int
    row_tokens: int
    """Documents are cut into rows of at most this many tokens."""
    batch_tokens: int
    """A forward pass holds at most this many tokens; a step is as many passes as it needs."""
    talk_rows_per_step: int = 0
    """Hand-written conversations in each step, beside `rows_per_step` quoted ones."""
    replay_rows_per_step: int = 0
    """Pre-training rows of `context_tokens` mixed into each step, against forgetting."""
    asked_rows_per_step: int = 0
    """Questions that people asked, answered from sources."""
    gap_rows_per_step: int = 0
    """Questions built from the texts, answered from sources."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quoting:
    """How questions with sources are made, and how many."""

    source_chars: int = 420
    """Of one source, about."""
    sources: int = 3
    """At most so many beside a question."""
    refused_one_in: int = 4
    """One built question in so many has no answer in its sources."""
    gaps_max: int = 100_000
    scored: int = 200
    """Held-out questions that a model is asked after each stage."""
    answer_tokens: int = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferring:
    """DPO on answers of the model's own: the right one over what it said instead."""

    updates: Updates
    asked: int
    """Training questions that the tuned model is asked; where it errs, its answer is the worse."""
    pairs_per_step: int
    batch_tokens: int
    loss: DpoSettings = field(default_factory=DpoSettings)


NO_PREFERENCE = Preferring(
    updates=Updates(steps=0, lr=0.0), asked=0, pairs_per_step=1, batch_tokens=1
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """From text to a model that chats, and answers from sources."""

    name: str
    shape: Shape
    pretrain: Stage
    chat: Stage
    prefer: Preferring
    quoting: Quoting = field(default_factory=Quoting)
    seed: int = 0
    compute: Compute = field(
        default_factory=lambda: Compute(device="cpu", threads=2, precision="bfloat16")
    )
    held_out_one_in: int = 40
    """One document in so many is never trained on."""
    held_out_articles_one_in: int = 4
    """Of articles with questions."""
    held_out_rows: int = 64
    evaluate_every_steps: int = 110
    quoted_max: int = 100_000
    """At most so many conversations built from documentation."""
    talk_max: int = 100_000
    """At most so many hand-written ones."""
    limits_bytes: tuple[tuple[str, int], ...] = ()
    """At most so many bytes of a source."""


def default() -> Recipe:
    """The shipped model's: two hours of two idle cores."""
    return Recipe(
        name="sprout",
        shape=Shape(
            layers=6,
            width=256,
            heads=8,
            kv_heads=4,
            head_width=32,
            mlp_width=704,
            vocab_tokens=4096,
            context_tokens=1024,
        ),
        pretrain=Stage(
            updates=_muon(steps=900, matrix_lr=0.01, lr=0.006, warmup_steps=30, decay=0.4),
            rows_per_step=6,
            row_tokens=512,
            gap_rows_per_step=6,
            batch_tokens=8192,
        ),
        chat=Stage(
            updates=_muon(steps=300, matrix_lr=0.006, lr=0.003, warmup_steps=10, decay=0.8),
            rows_per_step=8,
            talk_rows_per_step=8,
            asked_rows_per_step=12,
            gap_rows_per_step=4,
            replay_rows_per_step=1,
            row_tokens=1024,
            batch_tokens=8192,
        ),
        prefer=Preferring(
            updates=_muon(steps=60, matrix_lr=0.0003, lr=0.0002, warmup_steps=5, decay=0.8),
            asked=1500,
            pairs_per_step=8,
            batch_tokens=4096,
            loss=DpoSettings(beta=0.1, sft_weight=0.2),
        ),
        limits_bytes=(("stdlib", 4_000_000), ("peps", 4_500_000), ("rust_book", 1_300_000)),
    )


def _muon(*, steps: int, matrix_lr: float, lr: float, warmup_steps: int, decay: float) -> Updates:
    return Updates(
        steps=steps,
        optimizer="muon",
        matrix_lr=matrix_lr,
        lr=lr,
        warmup_steps=warmup_steps,
        decay_fraction=decay,
    )
