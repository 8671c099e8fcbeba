"""Text ⇄ ids, for every tokenizer format, on one `tokenizers.Tokenizer`.

Invariants: `encode` never yields a control token, whatever the text; nothing is truncated; a
prompt begins with at most one BOS; `decode` is the concatenation of its tokens' bytes. The formats
become one in `formats`; the source of the rules on BOS is transformers' tokenizer_config.json.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from headrace.errors import InvalidParameter, TokenizerError
from headrace.tokens import layout
from headrace.tokens.decoding import Decoding, Detokenizer
from headrace.tokens.formats import read


class Piece(NamedTuple):
    """A token and the characters of the text that it came from."""

    token: int
    start: int
    end: int


class Marks(NamedTuple):
    """What the tokenizer's own template puts around a single text."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class Tokenizer:
    """One vocabulary. Immutable and safe to share between threads."""

    bos_id: int | None
    """Begins a prompt where the model wants one."""
    eos_id: int | None
    """Ends an answer."""
    adds_bos: bool
    """Whether a raw prompt begins with `bos_id`."""
    vocab_size: int
    """One more than the largest id."""
    special: Mapping[str, int]
    """Tokens flagged special: no text of the answer."""
    controls: Mapping[str, int]
    """`special` and the marks of templates and tool calls (`<think>`): never encoded from text."""
    config: Mapping[str, Any]
    """The checkpoint's tokenizer_config.json."""
    decoding: Decoding

    def __init__(self, spec: layout.Json, *, config: Mapping[str, Any] | None = None) -> None:
        """Take the content of a tokenizer.json and of the tokenizer_config.json beside it.

        Raises:
            TokenizerError: `tokenizers` does not accept it, or its ids are inconsistent.
        """
        self.config = dict(config or {})
        self.decoding = Decoding.of(spec)
        self._spec = spec
        added: list[Mapping[str, Any]] = spec["added_tokens"]
        self._recognising = _build(layout.recognising(spec))
        for token in added:
            found = self._recognising.token_to_id(token["content"])
            if found != token["id"]:
                raise TokenizerError(
                    f"added token {token['content']!r} has id {token['id']} in the file but the "
                    f"vocabulary gives it {found}"
                )
        self._plain = _build(layout.plain(spec, inner=False))
        self.special = {str(token["content"]): token["id"] for token in added if token["special"]}
        self.controls = {str(t["content"]): t["id"] for t in added if layout.is_control(t)}
        self._special_ids = frozenset(self.special.values())
        self._control_ids = frozenset(self.controls.values())
        self._added = {token["id"]: str(token["content"]) for token in added}
        self.vocab_size = (
            max(self._recognising.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        )
        self.bos_id = self._named("bos_token")
        self.eos_id = self._named("eos_token")
        self.adds_bos = self._adds_bos()
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a checkpoint directory, or one tokenizer file of any format.

        Raises:
            TokenizerError: Nothing readable is there; the message names what was looked for.
        """
        files = read(path)
        return cls(files.spec, config=files.config)

    def save(self, directory: Path, *, chat_template: str | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers loads too.

        Args:
            directory: Made where it is absent.
            chat_template: Jinja source, written beside as chat_template.jinja.
        """
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._spec, ensure_ascii=False, indent=1)
        (directory / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        text = json.dumps(dict(self.config), ensure_ascii=False, indent=2)
        (directory / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        if chat_template is not None:
            (directory / "chat_template.jinja").write_text(chat_template, encoding="utf-8")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides ids, in hexadecimal."""
        rules = [self._spec, self.bos_id, self.eos_id, self.adds_bos]
        canonical = json.dumps(rules, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text from anywhere: special-token strings in it are ordinary text; no BOS."""
        return self._plain.encode(encodable(text), add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, on all cores."""
        batch = [encodable(text) for text in texts]
        encoded = self._plain.encode_batch_fast(batch, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    @cached_property
    def marks(self) -> Marks:
        """Ids around a single text, as encoders want them ([CLS] and [SEP])."""
        whole = _build(json.dumps(self._spec, ensure_ascii=False))
        encoding = whole.encode("a", add_special_tokens=True)
        flags = encoding.special_tokens_mask
        begins = next((at for at, flag in enumerate(flags) if not flag), len(flags))
        ends = next((at for at in range(len(flags), begins, -1) if not flags[at - 1]), begins)
        return Marks(before=tuple(encoding.ids[:begins]), after=tuple(encoding.ids[ends:]))

    def encode_control(self, text: str) -> list[int]:
        """Ids of a text that its author may steer the model with; no BOS."""
        return self._recognising.encode(encodable(text), add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt: control tokens are recognised, and exactly one BOS begins it where
        the model wants one, whether or not the text began with it already.
        """
        ids = self.encode_control(text)
        if not self.adds_bos:
            return ids
        begins = next((at for at, token in enumerate(ids) if token != self.bos_id), len(ids))
        assert self.bos_id is not None
        return [self.bos_id, *ids[begins:]]

    def pieces(self, text: str) -> list[Piece]:
        """`encode_control` with the characters each token came from."""
        encoding = self._recognising.encode(encodable(text), add_special_tokens=False)
        return _located(encoding, 0)

    def plain_pieces(self, text: str, *, offset: int = 0) -> list[Piece]:
        """`encode` of a run of text that begins at character `offset` of a sequence."""
        first = offset == 0 or not layout.depends_on_position(self._spec)
        tokenizer = self._plain if first else self._plain_inner
        return _located(tokenizer.encode(encodable(text), add_special_tokens=False), offset)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InvalidParameter: An id outside the vocabulary.
        """
        for token in ids:
            self._check(token)
        stream = Detokenizer(self, skip_special=skip_special)
        return stream.push(ids) + stream.flush()

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token spells; empty for an id that the vocabulary leaves out."""
        data = self._bytes.get(token)
        if data is None:
            self._check(token)
            added = self._added.get(token)
            if added is not None:
                data = added.encode()
            else:
                piece = self._recognising.id_to_token(token)
                data = b"" if piece is None else self.decoding.piece_bytes(piece)
            self._bytes[token] = data
        return data

    @cached_property
    def longest_token_bytes(self) -> int:
        """Of any token: a text of n bytes has at least n / this many tokens."""
        return max(1, *(len(self.token_bytes(token)) for token in range(self.vocab_size)))

    def token_id(self, piece: str) -> int | None:
        """The id of a piece as the vocabulary writes it."""
        return self._recognising.token_to_id(piece)

    def is_special(self, token: int) -> bool:
        """Whether the token is flagged special."""
        return token in self._special_ids

    def is_control(self, token: int) -> bool:
        """Whether the token is one that `encode` never yields."""
        return token in self._control_ids

    @cached_property
    def added_tokens(self) -> tuple[Mapping[str, Any], ...]:
        """The entries of tokenizer.json's added_tokens."""
        return tuple(self._spec["added_tokens"])

    @cached_property
    def _plain_inner(self) -> tokenizers.Tokenizer:
        return _build(layout.plain(self._spec, inner=True))

    def _check(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise InvalidParameter(
                f"token id {token} is outside the vocabulary; ids are 0 to {self.vocab_size - 1}"
            )

    def _named(self, key: str) -> int | None:
        content = layout.content_of(self.config.get(key))
        return None if content is None else self._recognising.token_to_id(content)

    def _adds_bos(self) -> bool:
        """Where the post-processor does it, as transformers has it, or the config asks for it."""
        wanted = self.config.get("add_bos_token") is True
        if self._spec.get("post_processor") is not None:
            whole = _build(json.dumps(self._spec, ensure_ascii=False))
            ids = whole.encode("", add_special_tokens=True).ids
            if self.bos_id is None and ids and self.is_special(ids[0]) and ids[0] != self.eos_id:
                self.bos_id = ids[0]
            wanted |= bool(ids) and ids[0] == self.bos_id
        return wanted and self.bos_id is not None


def encodable(text: str) -> str:
    """The text itself.

    Raises:
        InvalidParameter: It has a lone surrogate, which no encoding can carry.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidParameter(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}; send valid Unicode"
        ) from None
    return text


def _located(encoding: tokenizers.Encoding, offset: int) -> list[Piece]:
    return [
        Piece(token, start + offset, end + offset)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
    ]


def _build(text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises the bare class
        raise TokenizerError(f"the tokenizer is not readable: {error}") from error
