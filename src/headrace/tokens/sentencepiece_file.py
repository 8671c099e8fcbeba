"""A SentencePiece `.model` (a protocol buffer) → the dict form of a BPE or Unigram tokenizer.

The few fields that matter are read from the wire format directly (sentencepiece_model.proto of
google/sentencepiece), so that reading one needs no library; the library is the tests' oracle. BPE
merges are not stored: every split of a piece into two pieces is a merge, ordered by the score of
the whole.

One deviation, of the `tokenizers` library: where a model normalizes (nmt_nfkc; Llama, Mistral and
Gemma do not), a combining mark after a character that is itself mapped ("ﬁ" + acute) is dropped.
"""

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from headrace.errors import TokenizerError
from headrace.tokens import layout
from headrace.tokens.decoding import METASPACE

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_UNIGRAM, _BPE = 1, 2
# The lattice of a Unigram model would match the text "<0x0A>" with the byte token of that name.
BYTE_NAME_BREAK: layout.Json = {
    "type": "Split",
    "pattern": {"Regex": "<(?=0x[0-9A-F]{2}>)"},
    "behavior": "MergedWithPrevious",
    "invert": False,
}


class Converted(NamedTuple):
    """A tokenizer and the special tokens that its file names."""

    spec: layout.Json
    config: dict[str, Any]


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


@dataclass(slots=True)
class _Model:
    pieces: list[_Piece] = field(default_factory=list[_Piece])
    kind: int = _UNIGRAM
    byte_fallback: bool = False
    charsmap: bytes = b""
    dummy_prefix: bool = True
    squeeze: bool = True
    suffix: bool = False
    bos: int = 1
    eos: int = 2


def convert(data: bytes, *, name: str) -> Converted:
    """Convert the content of a `.model` file.

    Raises:
        TokenizerError: Not a SentencePiece model, or one of words or characters.
    """
    try:
        model = _parse(data)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise TokenizerError(f"{name} is neither a SentencePiece model nor a rank file") from error
    if not model.pieces or model.kind not in (_UNIGRAM, _BPE) or model.suffix:
        raise TokenizerError(f"{name} is not a SentencePiece model of type BPE or Unigram")
    unknown = next((n for n, piece in enumerate(model.pieces) if piece.kind == _UNKNOWN), None)
    if unknown is None:
        raise TokenizerError(f"{name} has no unknown piece")
    config = _config(model)
    build = _bpe if model.kind == _BPE else _unigram
    decoders: list[layout.Json] = [
        {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    spec: layout.Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            layout.added_token(n, piece.text, special=piece.kind != _USER_DEFINED)
            for n, piece in enumerate(model.pieces)
            if piece.kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ],
        "normalizer": {"type": "Sequence", "normalizers": list(_normalizers(model))},
        "pre_tokenizer": BYTE_NAME_BREAK
        if model.kind == _UNIGRAM and model.byte_fallback
        else None,
        "post_processor": layout.begins_with(config.get("bos_token"), model.bos),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": build(model, unknown),
    }
    return Converted(spec, config)


def _bpe(model: _Model, unknown: int) -> layout.Json:
    score = {piece.text: piece.score for piece in model.pieces if piece.kind in (_NORMAL, _UNUSED)}
    user = {piece.text for piece in model.pieces if piece.kind == _USER_DEFINED}
    known = score.keys() | user
    merges = [
        (-value, at, text[:at], text[at:])
        for text, value in score.items()
        for at in range(1, len(text))
        if text[:at] in known and text[at:] in known
    ]
    merges.sort(key=lambda merge: merge[:2])
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[unknown].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.text: number for number, piece in enumerate(model.pieces)},
        "merges": [[left, right] for _, _, left, right in merges],
    }


def _unigram(model: _Model, unknown: int) -> layout.Json:
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [[piece.text, piece.score] for piece in model.pieces],
        "byte_fallback": model.byte_fallback,
    }


def _normalizers(model: _Model) -> Iterator[layout.Json]:
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode()
        yield {"type": "Precompiled", "precompiled_charsmap": charsmap}
    if model.squeeze:
        # SentencePiece squeezes spaces only, after its map has made every white space one.
        yield {"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""}
        yield {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    if model.dummy_prefix:
        yield {"type": "Prepend", "prepend": METASPACE}
    yield {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}


def _config(model: _Model) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, number in (("bos_token", model.bos), ("eos_token", model.eos)):
        if 0 <= number < len(model.pieces) and model.pieces[number].kind == _CONTROL:
            config[key] = model.pieces[number].text
    config["add_bos_token"] = "bos_token" in config
    return config


def _parse(data: bytes) -> _Model:
    model = _Model()
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            model.pieces.append(
                _Piece(_text(piece.get(1, b"")), _float(piece.get(2)), int(piece.get(3, _NORMAL)))
            )
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
            model.kind = int(trainer.get(3, _UNIGRAM))
            model.suffix = bool(trainer.get(24, 0))
            model.byte_fallback = bool(trainer.get(35, 0))
            model.bos = _signed(trainer.get(41, 1))
            model.eos = _signed(trainer.get(42, 2))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
            charsmap = normalizer.get(2, b"")
            model.charsmap = charsmap if isinstance(charsmap, bytes) else b""
            model.dummy_prefix = bool(normalizer.get(3, 1))
            model.squeeze = bool(normalizer.get(4, 1))
    return model


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (number, value) pairs of a protocol-buffer message; raises IndexError on nonsense."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise IndexError(f"wire type {wire}")
        if at + size > len(data):
            raise IndexError("cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("varint too long")


def _signed(value: int | bytes) -> int:
    number = int(value) if isinstance(value, int) else 0
    return number - (1 << 64) if number >> 63 else number


def _text(value: int | bytes) -> str:
    if not isinstance(value, bytes):
        raise IndexError("a piece is not a string")
    return value.decode()


def _float(value: int | bytes | None) -> float:
    return struct.unpack("<f", value)[0] if isinstance(value, bytes) else 0.0
