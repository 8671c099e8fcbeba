"""Texts -> a new model: tokenizer, next tokens, a checkpoint in Hugging Face's form.

A text's documents become rows of tokens; each step takes some in an order that is a pure function
of (seed, step). One document in `held_out_one_in` is never trained on and gives perplexity and bits
per byte.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from headrace.data import shards, sources
from headrace.data.corpus import Mixture, batches, rows_of
from headrace.data.manifest import SourceCount, manifest
from headrace.data.pack import TokenRow, pack
from headrace.data.sources import Document
from headrace.errors import ConfigError, DataError
from headrace.model import checkpoint
from headrace.model.decoder import Decoder
from headrace.model.generation import GenerationDefaults
from headrace.tokens import Tokenizer, train_bpe
from headrace.training import card, compute, evaluate, loop, parallel, recipe, sample, state
from headrace.training.log import Logs
from headrace.training.parallel import Ranks
from headrace.training.recipe import Compute, Resume, Rows, Shape, Updates
from headrace.training.recipes import base
from headrace.training.task import NextToken
from headrace.training.watch import Event, Prepared, Watch, observed

END_OF_TEXT = "<|endoftext|>"
_CONTROLS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
_STAGE = "pretrain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    """A run from texts to a base model."""

    shape: Shape
    updates: Updates
    rows: Rows
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    held_out_one_in: int = 50
    """One document in so many is never trained on."""
    held_out_rows: int = 64
    evaluate_every_steps: int = 100
    """Held-out text is scored and samples are drawn so often, and at the end."""
    sample_tokens: int = 48
    """Length of a sample; 0 = none are drawn."""


def default(shape: Shape) -> Pretrain:
    """Reasonable for a model of up to some ten million parameters on a few cores."""
    return Pretrain(
        shape=shape,
        updates=Updates(
            steps=1000,
            optimizer="muon",
            lr=0.003,
            matrix_lr=0.01,
            weight_decay=0.1,
            warmup_steps=20,
            decay_fraction=0.4,
        ),
        rows=Rows(per_step=16, row_tokens=min(512, shape.context_tokens), batch_tokens=4096),
    )


def parse_shape(text: str) -> Shape:
    """`LAYERSxWIDTH`, such as 6x384: the rest follows from the width; `--set shape.*` changes it.

    Raises:
        ConfigError: Not such a text.
    """
    layers, separator, width = text.partition("x")
    if not (separator and layers.isdecimal() and width.isdecimal() and int(layers)):
        raise ConfigError(f"--shape {text!r} is not LAYERSxWIDTH; write for example 6x384")
    head_width = 64 if int(width) >= 512 else 32
    if not int(width) or int(width) % head_width:
        raise ConfigError(
            f"--shape {text!r}: the width is not a multiple of {head_width}, the width of a head"
        )
    return Shape(
        layers=int(layers),
        width=int(width),
        heads=int(width) // head_width,
        kv_heads=int(width) // head_width,
        head_width=head_width,
        mlp_width=-(-8 * int(width) // 3 // 32) * 32,
        vocab_tokens=8192,
        context_tokens=1024,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Texts as ids, and what of them is kept out of training."""

    train: Sequence[TokenRow]
    held_out: evaluate.HeldOut
    openings: Sequence[str]
    """First words of held-out documents, to go on from."""
    documents: int
    tokens: int
    """Positions to train on."""
    hashes: tuple[str, ...]
    sources: tuple[SourceCount, ...] = ()
    """What its card says of it; none where the texts were encoded before."""


def train(
    plan: Pretrain,
    *,
    data: Path,
    out: Path,
    tokenizer: Path | None = None,
    resume: Resume = Resume.ASK,
    tensorboard: bool = False,
) -> Iterator[Event]:
    """Make the model in `out`; yields what happens.

    Args:
        plan: The recipe.
        data: A file or directory of texts (see `data.sources.texts`), or a directory that `headrace
            data prepare` made, with a split held out.
        out: Gets `model`, `checkpoints` and the log.
        tokenizer: A directory or file to take the vocabulary from; None = one is trained.
        resume: What to do with checkpoints that `out` holds.
        tensorboard: Write event files too.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; `resume` goes on from the checkpoint that was written.
        DataError: Too little text.
    """
    with parallel.joined() as ranks:
        for event in _train(plan, data, out, tokenizer, resume, tensorboard, ranks):
            if ranks.first:
                yield event


def _train(
    plan: Pretrain,
    data: Path,
    out: Path,
    tokenizer: Path | None,
    resume: Resume,
    tensorboard: bool,
    ranks: Ranks,
) -> Iterator[Event]:
    resuming = state.admit(out / "checkpoints", resume, ranks)
    out.mkdir(parents=True, exist_ok=True)
    prepared = shards.is_prepared(data)
    if prepared and tokenizer is not None:
        raise ConfigError(f"{data} is encoded already, with its own tokenizer; name no other")
    documents = [] if prepared else list(sources.texts(data))
    if ranks.first and not (resuming and (out / "tokenizer.json").exists()):
        vocabulary_for(plan, documents, data if prepared else tokenizer).save(out)
    ranks.meet()
    vocabulary = Tokenizer.load(out)
    plan = replace(plan, shape=replace(plan.shape, vocab_tokens=vocabulary.vocab_size))
    corpus = (
        _from_shards(plan, data, vocabulary) if prepared else tokenised(plan, documents, vocabulary)
    )
    if prepared and ranks.first:
        card.note_data(out, data, records=corpus.documents)
    yield from train_on(
        plan, corpus, vocabulary, out=out, resuming=resuming, tensorboard=tensorboard, ranks=ranks
    )


def train_on(
    plan: Pretrain,
    corpus: Corpus,
    vocabulary: Tokenizer,
    *,
    out: Path,
    resuming: bool,
    tensorboard: bool = False,
    ranks: Ranks = parallel.ALONE,
) -> Iterator[Event]:
    """The part of `train` after the texts have become ids, for many runs on the same corpus.

    Args:
        plan: Its `shape.vocab_tokens` is the vocabulary's.
        corpus: From `tokenised`.
        vocabulary: From `vocabulary_for`.
        out: Gets `model`, `checkpoints` and the log.
        resuming: Go on from the last checkpoint there, where there is one.
        tensorboard: Write event files too.
        ranks: Who trains together.
    """
    device = compute.place(plan.compute, ranks)
    logs = Logs(out if ranks.first else None, tensorboard=tensorboard)
    if corpus.sources and ranks.first:
        card.write_manifest(out, corpus.sources)
    end, pad = _ends(vocabulary)
    decoder = base.fresh(plan.shape, seed=plan.seed, eos_id=end, pad_id=pad).to(device)
    parameters = sum(param.numel() for param in decoder.parameters())
    yield Prepared(
        parameters=parameters,
        trained=parameters,
        facts={
            "documents": corpus.documents,
            "tokens": corpus.tokens,
            "tokens held out": sum(b.tokens for b in corpus.held_out.batches),
        },
    )
    compute.wrap(decoder, plan.compute)
    parallel.shard(decoder, ranks)
    mixture = Mixture(rows=corpus.train, per_step=plan.rows.per_step, seed=plan.seed)
    trainee = loop.Trainee(
        decoder=decoder,
        task=NextToken(),
        batches=lambda step: batches([mixture], step, max_tokens=plan.rows.batch_tokens),
        fingerprint=recipe.fingerprint(plan, vocabulary.fingerprint, *corpus.hashes),
        config=recipe.resolved(plan),
    )
    watch = Watch(
        every_steps=plan.evaluate_every_steps,
        score=lambda: asdict(evaluate.score(decoder, corpus.held_out)),
        sample=(lambda: _continued(plan, decoder, vocabulary, corpus.openings))
        if plan.sample_tokens
        else None,
    )
    with loop.stop_on_signal() as should_stop:
        reports = loop.run(
            trainee,
            _STAGE,
            plan.updates,
            directory=out / "checkpoints",
            resume=resuming,
            should_stop=should_stop,
            ranks=ranks,
        )
        yield from observed(reports, watch, logs)
    logs.close()
    target = out / "model"
    parallel.unshard(decoder)
    if ranks.first:
        facts = card.facts_of_run(decoder, dtype="float32", run=out)
        checkpoint.save(
            decoder,
            decoder.config,
            target,
            dtype="float32",
            generation=GenerationDefaults(eos_token_ids=() if end is None else (end,)),
            beside={card.CARD: card.card(facts).encode()},
            replace_existing=True,
        )
        vocabulary.save(target)
    ranks.meet()
    yield base.published(target)


def _ends(tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """What ends an answer, and what pads: the turn's end, where there is one, is not the text's."""
    return tokenizer.special.get("<|im_end|>", tokenizer.eos_id), tokenizer.eos_id


def vocabulary_for(plan: Pretrain, documents: Sequence[Document], given: Path | None) -> Tokenizer:
    """The vocabulary in `given`, or one trained on the documents.

    Raises:
        ConfigError: The documents are too few for `shape.vocab_tokens`.
    """
    if given is not None:
        return Tokenizer.load(given)
    trained = train_bpe(
        (document.text for document in documents),
        vocab_size=plan.shape.vocab_tokens,
        special_tokens=_CONTROLS,
        eos=END_OF_TEXT,
    )
    if trained.vocab_size != plan.shape.vocab_tokens:
        raise ConfigError(
            f"shape.vocab_tokens {plan.shape.vocab_tokens} needs more text than there is: it gives "
            f"{trained.vocab_size}; lower it to that"
        )
    return trained


def tokenised(plan: Pretrain, documents: Sequence[Document], tokenizer: Tokenizer) -> Corpus:
    """Rows to train on and rows to judge by.

    Raises:
        DataError: There is too little of either.
    """
    end = tokenizer.eos_id
    if end is None:
        raise DataError("the tokenizer names no eos_token, so no document could end; name one")
    one_in = plan.held_out_one_in
    held = [d for d in documents if one_in and sources.is_held_out(d.id, one_in=one_in)]
    # A corpus of few documents: its last one, so that there is always something to judge by.
    held = held or list(documents[-1:] if len(documents) > 1 else [])
    held_ids = {document.id for document in held}
    kept = [document for document in documents if document.id not in held_ids]

    def rows(some: Sequence[Document]) -> list[TokenRow]:
        return rows_of(some, tokenizer.encode, end_id=end, max_tokens=plan.rows.row_tokens)

    train_rows, held_rows = rows(kept), rows(held)
    if not train_rows or not held_rows:
        raise DataError(
            f"{len(documents)} documents give {len(train_rows)} rows to train on and "
            f"{len(held_rows)} to judge by; give at least two documents of text"
        )
    order = sorted(enumerate(held_rows), key=lambda r: sources.id_hash(f"{r[0]}"))
    chosen = [row for _, row in order[: plan.held_out_rows]]
    counts = manifest(documents)
    return Corpus(
        train=train_rows,
        held_out=evaluate.HeldOut(
            batches=pack(chosen, max_tokens=plan.rows.batch_tokens),
            target_bytes=evaluate.target_bytes(chosen, tokenizer, without=end),
        ),
        openings=[_opening(document.text) for document in held[:3]],
        documents=len(documents),
        tokens=sum(len(row.ids) - 1 for row in train_rows),
        hashes=tuple(count.sha256 for count in counts),
        sources=counts,
    )


def _from_shards(plan: Pretrain, data: Path, tokenizer: Tokenizer) -> Corpus:
    train = shards.Shards(data)
    held = shards.Shards(data, split=shards.HELD_OUT)
    rows = shards.ShardRows(train, max_tokens=plan.rows.row_tokens)
    held_rows = shards.ShardRows(held, max_tokens=plan.rows.row_tokens)
    if not len(rows) or not len(held_rows):
        raise DataError(
            f"{data} gives {len(rows)} rows to train on and {len(held_rows)} to judge by; prepare "
            "it with --held-out 100 or so, and enough documents"
        )
    order = sorted(range(len(held_rows)), key=lambda place: sources.id_hash(f"{place}"))
    chosen = [held_rows[place] for place in order[: plan.held_out_rows]]
    return Corpus(
        train=rows,
        held_out=evaluate.HeldOut(
            batches=pack(chosen, max_tokens=plan.rows.batch_tokens),
            target_bytes=evaluate.target_bytes(chosen, tokenizer, without=held.end_id),
        ),
        openings=[
            _opening(tokenizer.decode(held.ids(place)[:64].tolist()))
            for place in range(min(3, len(held)))
        ],
        documents=len(train) + len(held),
        tokens=train.tokens - len(train),
        hashes=(train.fingerprint, held.fingerprint),
    )


def _opening(text: str) -> str:
    return " ".join(itertools.islice(iter(text.split()), 6))


def _continued(
    plan: Pretrain, decoder: Decoder, tokenizer: Tokenizer, openings: Sequence[str]
) -> Iterator[tuple[str, str]]:
    ends = {tokenizer.eos_id} if tokenizer.eos_id is not None else set[int]()
    for opening in openings:
        prompt = tokenizer.encode(opening)
        if prompt:
            ids = sample.greedy(decoder, prompt, max_tokens=plan.sample_tokens, eos_ids=ends)
            yield opening, tokenizer.decode(ids)
