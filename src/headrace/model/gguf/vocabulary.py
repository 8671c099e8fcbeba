"""A byte-level BPE's files -> the tokenizer part of a GGUF file.

llama.cpp knows split patterns by name only and guesses nothing: `tokenizer.ggml.pre` is found here
by comparing the pattern itself, so that a tokenizer that headrace trained is named and not hashed.
Invariant: a tokenizer that llama.cpp would split otherwise is refused.

Source: llama.cpp src/llama-vocab.cpp, `llm_tokenizer_bpe` and the list of `tokenizer_pre`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.errors import TokenizerError
from headrace.model.files import Peek
from headrace.tokens import ChatTemplate, Tokenizer, formats, layout
from headrace.tokens.rank_file import PATTERNS

if TYPE_CHECKING:
    from gguf import GGUFWriter

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_NAMES: Mapping[tuple[str, bool], str] = {
    # (pattern, pieces that are tokens as a whole are not merged) -> llama.cpp's name
    (PATTERNS["qwen"], False): "qwen2",
    (PATTERNS["llama3"], True): "llama-bpe",
    (PATTERNS["llama3"], False): "dbrx",
    (PATTERNS["o200k"], False): "gpt-4o",
    (_GPT2, False): "gpt-2",
}
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What goes into the file."""

    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    """A second token that ends an answer."""
    pad_id: int | None
    unknown_id: int | None
    adds_bos: bool
    template: str | None


def read(directory: Path, seen: Peek) -> Vocabulary:
    """The vocabulary of a checkpoint, as many tokens as its embedding has rows.

    Raises:
        TokenizerError: Not a byte-level BPE that llama.cpp knows, or of more tokens than rows.
    """
    from gguf import TokenType

    spec = formats.read(directory).spec
    tokenizer = Tokenizer.load(directory)
    pre = pre_tokenizer(spec)
    rows = seen.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise TokenizerError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens and the model only "
            f"{rows} rows; they do not belong together"
        )
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types: list[int] = [TokenType.UNUSED] * rows
    for piece, number in layout.vocabulary(spec).items():
        tokens[number], types[number] = piece, TokenType.NORMAL
    for token in spec["added_tokens"]:
        number = int(token["id"])
        tokens[number] = str(token["content"])
        types[number] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    ends = _ends(seen, tokenizer)
    unknown = spec["model"].get("unk_token")
    return Vocabulary(
        pre=pre,
        tokens=tokens,
        types=types,
        merges=[
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in spec["model"]["merges"]
        ],
        bos_id=tokenizer.bos_id if tokenizer.bos_id is not None else seen.config.bos_token_id,
        eos_id=ends[0] if ends else None,
        eot_id=ends[1] if len(ends) > 1 else None,
        pad_id=seen.config.pad_token_id,
        unknown_id=None if unknown is None else tokenizer.token_id(unknown),
        adds_bos=tokenizer.adds_bos,
        template=_template(directory),
    )


def write(writer: "GGUFWriter", vocabulary: Vocabulary) -> None:
    """Put it."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for put, number in (
        (writer.add_bos_token_id, vocabulary.bos_id),
        (writer.add_eos_token_id, vocabulary.eos_id),
        (writer.add_eot_token_id, vocabulary.eot_id),
        (writer.add_pad_token_id, vocabulary.pad_id),
        (writer.add_unk_token_id, vocabulary.unknown_id),
    ):
        if number is not None:
            put(number)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(False)
    if vocabulary.template is not None:
        writer.add_chat_template(vocabulary.template)


def pre_tokenizer(spec: Mapping[str, Any]) -> str:
    """llama.cpp's name for how this tokenizer splits text.

    Raises:
        TokenizerError: It knows none.
    """
    model = spec["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = f"{model.get('type')}{' with byte fallback' if model.get('byte_fallback') else ''}"
        raise TokenizerError(
            f"GGUF: the tokenizer is {kind}; only byte-level BPE can be exported, such as "
            "`headrace tokens train` makes"
        )
    normalizer = spec.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise TokenizerError(
            f"GGUF: the tokenizer normalizes text by {normalizer.get('type')}, which llama.cpp "
            "does not"
        )
    pattern = _pattern(spec.get("pre_tokenizer"))
    name = _NAMES.get((pattern, bool(model.get("ignore_merges")))) if pattern else None
    if name is None:
        known = ", ".join(sorted(_NAMES.values()))
        raise TokenizerError(
            f"GGUF: llama.cpp has no name for this tokenizer's split pattern ({pattern!r:.120}); "
            f"it has {known}"
        )
    return name


def _pattern(pre: Mapping[str, Any] | None) -> str | None:
    """The regular expression of a pre-tokenizer that is one split and bytes, and nothing else."""
    steps = [] if pre is None else pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    if [step["type"] for step in steps] == ["ByteLevel"]:
        plain = steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space", True)
        return _GPT2 if plain else None
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, level = steps
    usual = split.get("behavior") == "Isolated" and not split.get("invert")
    usual &= not level.get("add_prefix_space", True) and not level.get("use_regex", True)
    return split["pattern"].get("Regex") if usual else None


def _ends(seen: Peek, tokenizer: Tokenizer) -> list[int]:
    """What ends an answer: the tokenizer's own end first, where the model stops at it too."""
    ends = list(seen.eos_ids)
    own = tokenizer.eos_id
    if own is not None and (own in ends or not ends):
        ends = [own, *(end for end in ends if end != own)]
    return ends


def _template(directory: Path) -> str | None:
    has_file = any((directory / name).is_file() for name in _TEMPLATE_FILES)
    config = formats.read_json(directory / "tokenizer_config.json")
    if not has_file and not config.get("chat_template"):
        return None
    return ChatTemplate.load(directory).sources["default"]
