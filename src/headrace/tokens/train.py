"""Texts → a `Tokenizer`: byte-level BPE with Qwen2's split pattern, or Unigram with byte fallback.

Invariant: any text survives encode and decode unchanged: neither form normalizes, and bytes cover
what the vocabulary does not. (Unigram alone reads "▁", SentencePiece's own sign for a space, as a
space.) The BPE is the one llama.cpp knows as `qwen2`. Deterministic.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from headrace.errors import TokenizerError
from headrace.tokens import layout
from headrace.tokens.decoding import METASPACE
from headrace.tokens.rank_file import PATTERNS
from headrace.tokens.sentencepiece_file import BYTE_NAME_BREAK
from headrace.tokens.tokenizer import Tokenizer

SPLIT_PATTERN = PATTERNS["qwen"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str],
    marks: Sequence[str] = (),
    bos: str | None = None,
    eos: str | None = None,
    min_frequency: int = 2,
) -> Tokenizer:
    """Train a byte-level BPE.

    Args:
        texts: Read once.
        vocab_size: Of the whole vocabulary, special tokens and marks included; may end smaller
            where the texts have not enough pairs.
        special_tokens: Get the lowest ids, in order.
        marks: Further control tokens that stay visible in decoded text (`<think>`).
        bos: One of `special_tokens`, put before raw prompts.
        eos: One of `special_tokens`.
        min_frequency: Pairs seen less often are not merged.

    Raises:
        TokenizerError: A vocabulary that cannot hold the 256 bytes and the special tokens.
    """
    _check(vocab_size, 256, special_tokens, marks, bos, eos)
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(marks),
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return _finished(trained, marks=marks, bos=bos, eos=eos)


def train_unigram(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str],
    marks: Sequence[str] = (),
    bos: str | None = None,
    eos: str | None = None,
) -> Tokenizer:
    """Train a Unigram model (Kudo 2018) over metaspaced text, unknown characters spelled in bytes.

    The arguments are those of `train_bpe`.
    """
    _check(vocab_size, 257, special_tokens, marks, bos, eos)
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.normalizer = normalizers.Replace(" ", METASPACE)
    trained.pre_tokenizer = pre_tokenizers.Split(METASPACE, behavior="merged_with_next")
    unknown = "<unk>"
    extra = [*special_tokens, *([] if unknown in special_tokens else [unknown])]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - len(marks) - len(_BYTES),
        special_tokens=extra,
        unk_token=unknown,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    spec: layout.Json = json.loads(trained.to_str())
    pieces = [entry for entry in spec["model"]["vocab"] if entry[0] not in _BYTES]
    spec["model"]["vocab"] = pieces + [[byte, 0.0] for byte in _BYTES]
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [BYTE_NAME_BREAK, spec["pre_tokenizer"]],
    }
    spec["model"]["byte_fallback"] = True
    trained = tokenizers.Tokenizer.from_str(json.dumps(spec))
    trained.decoder = decoders.Sequence(
        [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _finished(trained, marks=marks, bos=bos, eos=eos)


def _check(
    vocab_size: int,
    least: int,
    special_tokens: Sequence[str],
    marks: Sequence[str],
    bos: str | None,
    eos: str | None,
) -> None:
    tokens = [*special_tokens, *marks]
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise TokenizerError(f"special tokens and marks must be distinct and not empty: {tokens}")
    for name, token in (("bos", bos), ("eos", eos)):
        if token is not None and token not in special_tokens:
            raise TokenizerError(
                f"{name} {token!r} is not one of the special tokens {list(special_tokens)}"
            )
    if vocab_size < least + len(tokens):
        raise TokenizerError(
            f"a vocabulary of {vocab_size} cannot hold {least} byte tokens and {len(tokens)} "
            f"special tokens; make it at least {least + len(tokens)}"
        )


def _finished(
    trained: tokenizers.Tokenizer, *, marks: Sequence[str], bos: str | None, eos: str | None
) -> Tokenizer:
    trained.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in marks])
    if bos is not None:
        trained.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0",
            pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
            special_tokens=[(bos, trained.token_to_id(bos))],
        )
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bos is not None,
        "clean_up_tokenization_spaces": False,
    }
    if bos is not None:
        config["bos_token"] = bos
    if eos is not None:
        config["eos_token"] = config["pad_token"] = eos
    spec = layout.merged(json.loads(trained.to_str()), config, {})
    return Tokenizer(spec, config=config)
