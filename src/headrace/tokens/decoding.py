"""Ids → bytes → text, one token at a time, equal at every prefix to decoding the prefix at once.

A token is a fixed run of bytes; text is the UTF-8 decoding of the runs, less the space that
SentencePiece puts before the first word. Both are left-to-right machines with a few bytes of
state, so streaming costs O(1) a token and `Tokenizer.decode` is the same machine run once.

Bytes that are not UTF-8: byte-level BPE gives one U+FFFD per maximal invalid subpart (Rust's
`from_utf8_lossy`, Unicode 3.9), byte fallback one per byte (the SentencePiece library).
"""

import codecs
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from headrace.errors import TokenizerError

METASPACE = "▁"


class Lead(StrEnum):
    """What becomes of the space that an encoder put before the first word."""

    KEEP = "keep"
    ONE_SPACE = "one_space"  # one space, wherever it comes from
    FIRST_TOKEN = "first_token"  # every metaspace of the first token


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How pieces of the vocabulary spell bytes."""

    byte_level: bool
    byte_fallback: bool = False
    lead: Lead = Lead.KEEP
    continuing: str = ""
    """WordPiece: what a piece begins with that continues a word; others begin one, after a space.
    The text comes back as it was normalized, with a space around every mark of punctuation."""

    @staticmethod
    def of(spec: Mapping[str, Any]) -> "Decoding":
        """Read the `decoder` of a tokenizer.json.

        Raises:
            TokenizerError: A decoder that no language model here uses.
        """
        model = spec.get("model")
        if isinstance(model, Mapping) and model.get("type") == "WordPiece":
            prefix = str(model.get("continuing_subword_prefix") or "##")
            return Decoding(byte_level=False, lead=Lead.ONE_SPACE, continuing=prefix)
        decoder = spec.get("decoder")
        parts = _parts(decoder)
        kinds = [part["type"] for part in parts]
        if kinds == ["ByteLevel"]:
            return Decoding(byte_level=True)
        if kinds == ["Metaspace"]:
            never = (
                parts[0].get("prepend_scheme") == "never"
                or parts[0].get("add_prefix_space") is False
            )
            return Decoding(byte_level=False, lead=Lead.KEEP if never else Lead.FIRST_TOKEN)
        if kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
            strips = [part for part in parts if part["type"] == "Strip"]
            replaces = [part for part in parts if part["type"] == "Replace"]
            spaces = [{"String": METASPACE}]
            if (
                all(p["pattern"] in spaces and p["content"] == " " for p in replaces)
                and len(strips) <= 1
                and all(p["content"] == " " and (p["start"], p["stop"]) == (1, 0) for p in strips)
            ):
                return Decoding(
                    byte_level=False,
                    byte_fallback="ByteFallback" in kinds,
                    lead=Lead.ONE_SPACE if strips else Lead.KEEP,
                )
        raise TokenizerError(
            f"decoder {kinds or decoder!r} is not supported; headrace reads byte-level BPE "
            "(ByteLevel), SentencePiece (Metaspace), byte fallback and WordPiece"
        )

    def piece_bytes(self, piece: str) -> bytes:
        """The bytes that a piece of the model's vocabulary (not an added token) spells."""
        if self.byte_level:
            try:
                return bytes(BYTE_OF[char] for char in piece)
            except KeyError:
                return piece.encode()
        if self.continuing:
            begins = not piece.startswith(self.continuing)
            return (f" {piece}" if begins else piece.removeprefix(self.continuing)).encode()
        if self.byte_fallback and len(piece) == 6 and piece.startswith("<0x") and piece[5] == ">":
            return bytes.fromhex(piece[3:5])
        return piece.replace(METASPACE, " ").encode()


class Vocabulary(Protocol):
    """What a detokenizer needs of a tokenizer."""

    @property
    def decoding(self) -> Decoding: ...
    @property
    def vocab_size(self) -> int: ...
    def token_bytes(self, token: int) -> bytes: ...
    def is_special(self, token: int) -> bool: ...


class Detokenizer:
    """Turns ids into text as they arrive; holds back only bytes of an unfinished character.

    Invariant: what all `push`es and one `flush` returned is `tokenizer.decode(ids)`, wherever the
    ids were cut. An id beyond the vocabulary (a padding row of the model's head) is no text.
    """

    def __init__(
        self, tokenizer: Vocabulary, *, skip_special: bool = True, keep: Collection[int] = ()
    ) -> None:
        """Start at the beginning of a text.

        Args:
            tokenizer: Spells the ids.
            skip_special: Special tokens are no text.
            keep: Special tokens that are text nevertheless (the mark that opens a tool call).
        """
        self._tokenizer = tokenizer
        self._skip = skip_special
        self._keep = frozenset(keep)
        self._lead = tokenizer.decoding.lead
        self._each_byte = tokenizer.decoding.byte_fallback
        errors = "surrogateescape" if self._each_byte else "replace"
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, ids: Sequence[int]) -> str:
        """The text that `ids` complete; empty while a character is unfinished."""
        tokenizer = self._tokenizer
        size = tokenizer.vocab_size
        pieces: list[bytes] = []
        for token in ids:
            if token >= size or (
                self._skip and token not in self._keep and tokenizer.is_special(token)
            ):
                continue
            piece = tokenizer.token_bytes(token)
            if self._lead is Lead.FIRST_TOKEN:
                self._lead = Lead.KEEP
                piece = piece.replace(b" ", b"")
            pieces.append(piece)
        return self._text(self._utf8.decode(b"".join(pieces)))

    def flush(self) -> str:
        """The end of the text: replacement characters for bytes that never became a character."""
        return self._text(self._utf8.decode(b"", final=True))

    def _text(self, text: str) -> str:
        if text and self._lead is Lead.ONE_SPACE:
            self._lead = Lead.KEEP
            text = text.removeprefix(" ")
        # surrogateescape yields one of these per undecodable byte and never for decodable ones
        return text.translate(_REPLACED) if self._each_byte and not text.isascii() else text


def _parts(decoder: Any) -> list[Mapping[str, Any]]:
    if not isinstance(decoder, Mapping):
        return []
    if decoder.get("type") == "Sequence":
        return [part for inner in decoder["decoders"] for part in _parts(inner)]
    return [decoder]


def _byte_alphabet() -> dict[str, int]:
    # GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    rest = [byte for byte in range(256) if chr(byte) not in table]
    return table | {chr(0x100 + index): byte for index, byte in enumerate(rest)}


BYTE_OF = _byte_alphabet()
CHAR_OF = {byte: char for char, byte in BYTE_OF.items()}
_REPLACED = dict.fromkeys(range(0xDC80, 0xDD00), "\ufffd")
