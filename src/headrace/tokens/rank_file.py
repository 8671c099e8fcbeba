"""A tiktoken rank file (one `base64-bytes rank` a line) → the dict form of a byte-level BPE.

tiktoken merges whichever neighbours' concatenation has the lowest rank, so every split of a token
into two tokens is a merge of that token's rank; a piece that is a token as a whole is never
merged (`ignore_merges`). Source: tiktoken's `_educational.py` and `src/lib.rs`; exact against the
library in the oracle tests.
"""

import base64
import binascii
from collections.abc import Mapping

from headrace.errors import TokenizerError
from headrace.tokens import layout
from headrace.tokens.decoding import CHAR_OF

_LETTERS_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LETTERS_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

# Oniguruma reads `{1,3}+` as a repeated group, so the possessive forms of tiktoken's own patterns
# are written without their `+`: what follows cannot match where they would have given back.
PATTERNS: Mapping[str, str] = {
    "cl100k": _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama3": _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?[{_LETTERS_UPPER}]*[{_LETTERS_LOWER}]+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_LETTERS_UPPER}]+[{_LETTERS_LOWER}]*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Split pattern by the name of the encoding that uses it."""


def guess(name: str, *, size_hint: int) -> str:
    """The encoding whose split pattern a rank file needs, by file name, else by number of ranks."""
    for known in ("cl100k", "o200k", "qwen", "llama3"):
        if known in name.lower():
            return known
    sizes = {100_256: "cl100k", 199_998: "o200k", 128_000: "llama3", 151_643: "qwen"}
    known = sizes.get(size_hint)
    if known is None:
        raise TokenizerError(
            f"{name} has {size_hint} ranks and no known name, so its split pattern is unknown; "
            f"put one of {', '.join(PATTERNS)} into the file's name or give the pattern"
        )
    return known


def spec_of(data: bytes, *, pattern: str, special: Mapping[str, int]) -> layout.Json:
    """Convert the content of a rank file.

    Args:
        data: The file.
        pattern: The regular expression that splits text before merging.
        special: Special tokens and their ids, beyond the ranks.

    Raises:
        TokenizerError: A line that is not base64 and a number, or a token twice.
    """
    ranks = _parse(data)
    text_of = {token: "".join(CHAR_OF[byte] for byte in token) for token in ranks}
    merges = [
        (rank, at, token[:at], token[at:])
        for token, rank in ranks.items()
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
    merges.sort(key=lambda merge: merge[:2])
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            layout.added_token(n, c) for c, n in sorted(special.items(), key=lambda i: i[1])
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {text_of[token]: rank for token, rank in ranks.items()},
            "merges": [[text_of[left], text_of[right]] for _, _, left, right in merges],
        },
    }


def _parse(data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            value = int(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(
                f"line {number} of the rank file is not `base64 rank`: {line[:60]!r}"
            ) from error
        if token in ranks or not token:
            raise TokenizerError(
                f"line {number} of the rank file repeats or empties a token: {line[:60]!r}"
            )
        ranks[token] = value
    return ranks
