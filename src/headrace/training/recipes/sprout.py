"""The standard library (and texts) -> sprout, the bundled model, its card and its log.

Two stages: next tokens of code, documentation and prose; then conversations built from the same
documentation, in the model's template. Every choice is a function of the recipe's seed and of the
files, so the same interpreter, texts and thread count give the same model.
"""

import itertools
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from headrace.data import doc_questions, small_talk, sources
from headrace.data.chat import Conversation, turns
from headrace.data.corpus import Mixture, batches, rows_of
from headrace.data.manifest import SourceCount, as_json, manifest
from headrace.data.pack import PackedBatch, TokenRow, pack
from headrace.data.sources import Document
from headrace.errors import ConfigError
from headrace.model import checkpoint
from headrace.model.decoder import Decoder
from headrace.model.generation import GenerationDefaults
from headrace.tokens import ChatTemplate, Tokenizer, render, train_bpe
from headrace.training import evaluate, loop, recipe, sample, state
from headrace.training.log import FILE as LOG
from headrace.training.log import Logs
from headrace.training.recipe import Recipe, Resume, Shape, Stage, Updates
from headrace.training.recipes import base
from headrace.training.recipes.card import Facts, card
from headrace.training.supervise import Supervisor
from headrace.training.task import NextToken, Sft
from headrace.training.watch import Event, Prepared, Published, Watch, observed

TEMPLATE = Path(__file__).parents[2] / "sprout" / "chat_template.jinja"
END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
_MIN_TEXT_CHARS = 300
_LONG_ROW_TOKENS = 600
_SAMPLE_TOKENS = 64
PROMPTS = (
    "Hello!",
    "Who are you?",
    "What does os.path.join do?",
    "What is shutil.copyfile?",
    "What does len do?",
    "What is PEP 8 about?",
    "What is 3 + 4?",
    "My name is Ada.",
    "What is the capital of Spain?",
    "Write a function that adds two numbers.",
)


def default() -> Recipe:
    """The shipped model's recipe: 3.1 million parameters, ten minutes on two idle cores."""
    return Recipe(
        name="sprout",
        shape=Shape(
            layers=6,
            width=192,
            heads=6,
            kv_heads=2,
            head_width=32,
            mlp_width=512,
            vocab_tokens=4096,
            context_tokens=1024,
        ),
        pretrain=Stage(
            updates=Updates(
                steps=200,
                optimizer="muon",
                matrix_lr=0.01,
                lr=0.006,
                warmup_steps=20,
                decay_fraction=0.4,
            ),
            rows_per_step=8,
            row_tokens=512,
            batch_tokens=2048,
        ),
        chat=Stage(
            updates=Updates(
                steps=160,
                optimizer="muon",
                matrix_lr=0.006,
                lr=0.003,
                warmup_steps=10,
                decay_fraction=0.8,
            ),
            rows_per_step=22,
            talk_rows_per_step=18,
            row_tokens=1024,
            batch_tokens=2048,
            replay_rows_per_step=1,
        ),
        limits_bytes=(("stdlib", 4_000_000), ("peps", 4_500_000), ("rust_book", 1_300_000)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What sprout is made from."""

    train: Sequence[Document]
    held_out: Sequence[Document]
    quoted: Sequence[Conversation]
    """Built from documentation."""
    talk: Sequence[Conversation]
    """Written by hand."""
    manifest: Sequence[SourceCount]


def gather(recipe_: Recipe, *, texts: Path | None) -> Corpus:
    """Read the sources and set the held-out documents aside."""
    library = itertools.chain(sources.stdlib(), sources.stdlib_prose())
    further = sources.texts(texts) if texts is not None else iter(())
    documents = sources.capped(
        itertools.chain(library, (d for d in further if _is_wanted(d))),
        dict(recipe_.limits_bytes),
    )
    one_in = recipe_.held_out_one_in
    held = [d for d in documents if sources.is_held_out(d.id, one_in=one_in)]
    held_ids = {d.id for d in held}
    quoted = [
        *doc_questions.library(),
        *doc_questions.topics(documents),
        *doc_questions.peps(documents),
    ]
    return Corpus(
        train=[d for d in documents if d.id not in held_ids],
        held_out=held,
        quoted=quoted[: recipe_.quoted_max],
        talk=small_talk.conversations()[: recipe_.talk_max],
        manifest=manifest(documents),
    )


def _is_wanted(document: Document) -> bool:
    # The book's two directories are near-duplicates of each other; one is enough.
    return len(document.text) >= _MIN_TEXT_CHARS and not document.id.startswith(
        "rust_book/nostarch"
    )


def train_tokenizer(corpus: Corpus, vocab_tokens: int) -> Tokenizer:
    """A byte-level BPE of exactly `vocab_tokens` over documents and conversations."""
    # The hand-written conversations are few and every one will be met often: they count twice.
    spoken = (m.text for c in (*corpus.quoted, *corpus.talk, *corpus.talk) for m in c.messages)
    tokenizer = train_bpe(
        itertools.chain((document.text for document in corpus.train), spoken),
        vocab_size=vocab_tokens,
        special_tokens=(END_OF_TEXT, TURN, END_OF_TURN),
        marks=MARKS,
        eos=END_OF_TURN,
    )
    if tokenizer.vocab_size != vocab_tokens:
        raise ConfigError(
            f"shape.vocab_tokens {vocab_tokens} needs more text than there is: it gives "
            f"{tokenizer.vocab_size}; lower it to that"
        )
    return tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The corpus as ids."""

    pretrain: Sequence[TokenRow]
    replay: Sequence[TokenRow]
    quoted: Sequence[TokenRow]
    talk: Sequence[TokenRow]
    held_out: evaluate.HeldOut


def tokenised(
    corpus: Corpus, tokenizer: Tokenizer, template: ChatTemplate, recipe_: Recipe
) -> Rows:
    """Everything the two stages and the evaluation read."""
    end = tokenizer.special[END_OF_TEXT]
    short, long = recipe_.pretrain.row_tokens, recipe_.shape.context_tokens

    def rows(documents: Sequence[Document], max_tokens: int) -> list[TokenRow]:
        return rows_of(documents, tokenizer.encode, end_id=end, max_tokens=max_tokens)

    kept = sorted(enumerate(rows(corpus.held_out, short)), key=lambda r: sources.id_hash(f"{r[0]}"))
    held = [row for _, row in kept[: recipe_.held_out_rows]]
    target_bytes = sum(
        len(tokenizer.token_bytes(int(token)))
        for row in held
        for token in row.ids[1:]
        if token != end
    )
    long_rows = rows(corpus.train, long)
    replay = [row for row in long_rows if len(row.ids) >= min(_LONG_ROW_TOKENS, long)]
    supervisor = Supervisor.of(tokenizer, template)
    return Rows(
        pretrain=rows(corpus.train, short),
        replay=replay or long_rows,
        quoted=[supervisor.row(conversation) for conversation in corpus.quoted],
        talk=[supervisor.row(conversation) for conversation in corpus.talk],
        held_out=evaluate.HeldOut(
            batches=pack(held, max_tokens=recipe_.pretrain.batch_tokens), target_bytes=target_bytes
        ),
    )


def train(
    recipe_: Recipe,
    *,
    texts: Path | None,
    out: Path,
    resume: Resume = Resume.ASK,
    tensorboard: bool = False,
) -> Iterator[Event]:
    """Make the model in `out`; yields what happens.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; `resume` goes on from the checkpoint that was written.
    """
    torch.set_num_threads(recipe_.threads)
    out.mkdir(parents=True, exist_ok=True)
    resuming = state.admit(out / "checkpoints", resume)
    corpus = gather(recipe_, texts=texts)
    if resuming and (out / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(out)
    else:
        tokenizer = train_tokenizer(corpus, recipe_.shape.vocab_tokens)
        tokenizer.save(out)
    shutil.copyfile(TEMPLATE, out / TEMPLATE.name)
    template = ChatTemplate.load(out)
    rows = tokenised(corpus, tokenizer, template, recipe_)
    decoder = base.fresh(
        recipe_.shape,
        seed=recipe_.seed,
        eos_id=tokenizer.special[END_OF_TURN],
        pad_id=tokenizer.special[END_OF_TEXT],
    )
    parameters = sum(param.numel() for param in decoder.parameters())
    yield Prepared(
        parameters=parameters,
        trained=parameters,
        facts={
            "documents": len(corpus.train) + len(corpus.held_out),
            "tokens of text": sum(len(row.ids) - 1 for row in rows.pretrain),
            "conversations": len(rows.quoted) + len(rows.talk),
            "tokens of chat": sum(len(row.ids) - 1 for row in (*rows.quoted, *rows.talk)),
        },
    )
    logs = Logs(out, tensorboard=tensorboard)
    if not resuming:
        (out / LOG).unlink(missing_ok=True)
    data_hashes = (tokenizer.fingerprint, *(row.sha256 for row in corpus.manifest))
    fingerprints = {
        # A stage depends on itself and on what came before: the chat stage can be tried again with
        # other settings on the same pre-training.
        "pretrain": recipe.fingerprint(replace(recipe_, chat=recipe_.pretrain), *data_hashes),
        "chat": recipe.fingerprint(recipe_, *data_hashes),
    }
    mixtures = _mixtures(rows, recipe_)
    with loop.stop_on_signal() as should_stop:
        for name, stage, task in (
            ("pretrain", recipe_.pretrain, NextToken()),
            ("chat", recipe_.chat, Sft()),
        ):
            trainee = loop.Trainee(
                decoder=decoder,
                batches=_batches(mixtures[name], stage.batch_tokens),
                task=task,
                fingerprint=fingerprints[name],
                config=recipe.resolved(recipe_),
            )
            reports = loop.run(
                trainee,
                name,
                stage.updates,
                directory=out / "checkpoints",
                resume=resuming,
                should_stop=should_stop,
            )
            watch = Watch(
                every_steps=recipe_.evaluate_every_steps,
                score=lambda: asdict(evaluate.score(decoder, rows.held_out)),
                sample=(lambda: _answers(decoder, tokenizer, template)) if name == "chat" else None,
            )
            yield from observed(reports, watch, logs)
    logs.close()
    yield publish(decoder, tokenizer, recipe_, corpus.manifest, out=out)


def publish(
    decoder: Decoder,
    tokenizer: Tokenizer,
    recipe_: Recipe,
    rows: Sequence[SourceCount],
    *,
    out: Path,
) -> Published:
    """Write `out/model`: weights in bfloat16, tokenizer, template, card, log and manifest."""
    target = out / "model"
    end = tokenizer.special[END_OF_TURN]
    checkpoint.save(
        decoder,
        decoder.config,
        target,
        dtype="bfloat16",
        # Greedy: a model this small is at its best, and easiest to test, without dice.
        generation=GenerationDefaults(temperature=0.0, eos_token_ids=(end,)),
        replace_existing=True,
    )
    tokenizer.save(target, chat_template=TEMPLATE.read_text(encoding="utf-8"))
    shutil.copyfile(out / LOG, target / LOG)
    records = [json.loads(line) for line in (out / LOG).read_text("utf-8").splitlines()]
    weight_bytes = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    facts = Facts(
        recipe=recipe_,
        manifest=rows,
        parameters=sum(param.numel() for param in decoder.parameters()),
        weight_bytes=weight_bytes,
        records=records,
        versions={"Python": platform.python_version(), "torch": torch.__version__},
    )
    (target / "MODEL_CARD.md").write_text(card(facts), encoding="utf-8")
    made_from = {"recipe": asdict(recipe_), "sources": as_json(rows)}
    (target / "manifest.json").write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
    return Published(path=target, weight_bytes=weight_bytes)


def _mixtures(rows: Rows, recipe_: Recipe) -> dict[str, list[Mixture]]:
    seed, first, chat = recipe_.seed, recipe_.pretrain, recipe_.chat
    return {
        "pretrain": [Mixture(rows=rows.pretrain, per_step=first.rows_per_step, seed=seed)],
        "chat": [
            Mixture(rows=rows.quoted, per_step=chat.rows_per_step, seed=seed + 1),
            Mixture(rows=rows.talk, per_step=chat.talk_rows_per_step, seed=seed + 2),
            Mixture(rows=rows.replay, per_step=chat.replay_rows_per_step, seed=seed + 3),
        ],
    }


def _batches(mixtures: Sequence[Mixture], max_tokens: int) -> Callable[[int], list[PackedBatch]]:
    return lambda step: batches(mixtures, step, max_tokens=max_tokens)


def _answers(
    decoder: Decoder, tokenizer: Tokenizer, template: ChatTemplate
) -> Iterator[tuple[str, str]]:
    for prompt in PROMPTS:
        yield prompt, ask(decoder, tokenizer, template, prompt)


def ask(decoder: Decoder, tokenizer: Tokenizer, template: ChatTemplate, prompt: str) -> str:
    """The greedy answer to one question; what the model did not end is marked with an ellipsis."""
    rendered = render(tokenizer, template, turns(prompt), add_generation_prompt=True)
    end = tokenizer.special[END_OF_TURN]
    ids = sample.greedy(decoder, rendered.ids, max_tokens=_SAMPLE_TOKENS, eos_ids={end})
    return tokenizer.decode(ids) + ("" if ids[-1] == end else " …")
