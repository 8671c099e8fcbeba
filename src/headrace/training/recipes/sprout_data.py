"""The standard library, texts and questions -> what sprout's stages are trained and scored on.

Every choice is a function of the recipe and of the files.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.data import doc_questions, grounded, small_talk, sources, squad
from headrace.data.chat import Conversation
from headrace.data.corpus import rows_of
from headrace.data.grounded import Passage, Question
from headrace.data.manifest import SourceCount, manifest
from headrace.data.pack import TokenRow, pack
from headrace.data.sources import Document
from headrace.errors import ConfigError
from headrace.tokens import ChatTemplate, Tokenizer, train_bpe
from headrace.training import evaluate
from headrace.training.recipes.sprout_plan import Recipe
from headrace.training.supervise import Supervisor

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
_MIN_TEXT_CHARS = 300
_LONG_ROW_TOKENS = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """What sprout is made from."""

    train: Sequence[Document]
    held_out: Sequence[Document]
    quoted: Sequence[Conversation]
    """Built from documentation."""
    talk: Sequence[Conversation]
    """Written by hand."""
    asked: Sequence[Question]
    """By people, to be answered from sources."""
    gaps: Sequence[Question]
    """Built from the texts, to be answered the same way."""
    asked_held_out: Sequence[Question]
    """Of texts that are never trained on: what a model is scored on."""
    manifest: Sequence[SourceCount]


def gather(recipe_: Recipe, *, texts: Path | None, questions: Path | None) -> Corpus:
    """Read the sources and set held-out documents and articles aside."""
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
    train = [d for d in documents if d.id not in held_ids]
    passages = squad.passages(questions) if questions is not None else []
    one_in = recipe_.held_out_articles_one_in
    apart = {p.article for p in passages if sources.is_held_out(p.article, one_in=one_in)}
    known = [passage for passage in passages if passage.article not in apart]
    scored = _people(recipe_, [p for p in passages if p.article in apart]) or _gaps(recipe_, held)
    return Corpus(
        train=[*train, *(_as_document(passage) for passage in known)],
        held_out=held,
        quoted=quoted[: recipe_.quoted_max],
        talk=small_talk.conversations()[: recipe_.talk_max],
        asked=_people(recipe_, known),
        gaps=_gaps(recipe_, train)[: recipe_.quoting.gaps_max],
        asked_held_out=scored[: recipe_.quoting.scored],
        manifest=manifest([*documents, *(_as_document(p) for p in passages)]),
    )


def _people(recipe_: Recipe, passages: Sequence[Passage]) -> list[Question]:
    size = recipe_.quoting
    found = grounded.from_passages(passages, source_chars=size.source_chars, sources=size.sources)
    return _shuffled(found)


def _gaps(recipe_: Recipe, documents: Sequence[Document]) -> list[Question]:
    size = recipe_.quoting
    found = grounded.from_texts(
        [document for document in documents if document.source != "stdlib"],
        source_chars=size.source_chars,
        sources=size.sources,
        one_in=size.refused_one_in,
    )
    return _shuffled(found)


def _shuffled(questions: Iterable[Question]) -> list[Question]:
    return sorted(questions, key=lambda question: sources.id_hash(f"asked/{question.id}"))


def _as_document(passage: Passage) -> Document:
    return Document(
        id=f"squad/{passage.article}/{sources.id_hash(passage.text)}",
        text=passage.text,
        source="squad",
        licence="CC BY-SA 4.0",
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
    asked = (question.text for question in corpus.asked)
    tokenizer = train_bpe(
        itertools.chain((document.text for document in corpus.train), spoken, asked),
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
    asked: Sequence[TokenRow]
    gaps: Sequence[TokenRow]
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
        asked=_answered(supervisor, corpus.asked, long),
        gaps=_answered(supervisor, corpus.gaps, long),
        held_out=evaluate.HeldOut(
            batches=pack(held, max_tokens=recipe_.pretrain.batch_tokens), target_bytes=target_bytes
        ),
    )


def _answered(
    supervisor: Supervisor, questions: Sequence[Question], max_tokens: int
) -> list[TokenRow]:
    rows = (supervisor.row(grounded.conversation(question)) for question in questions)
    return [row for row in rows if len(row.ids) <= max_tokens]
