"""A checkpoint directory or a tokenizer file → the one dict form of `layout`, whatever the format.

tokenizer.json is taken as it is; SentencePiece and tiktoken files are told apart by content, since
both are called `tokenizer.model`. Beside them, tokenizer_config.json, special_tokens_map.json and
added_tokens.json say which tokens are special.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from headrace.errors import TokenizerError
from headrace.tokens import layout, rank_file, sentencepiece_file

_RANKS = re.compile(rb"\A[A-Za-z0-9+/]+=* [0-9]+\r?\n")
_NAMES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "qwen.tiktoken",
)


class TokenizerFiles(NamedTuple):
    """What the files of a checkpoint say about its tokenizer."""

    spec: layout.Json
    config: Mapping[str, Any]


def read(path: Path) -> TokenizerFiles:
    """Read a directory or a file.

    Raises:
        TokenizerError: Nothing readable is there.
    """
    if path.is_dir():
        candidates = [path / name for name in _NAMES] + sorted(path.glob("*.tiktoken"))
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise TokenizerError(
                f"{path} has no tokenizer: looked for {', '.join(_NAMES)}, *.tiktoken"
            )
    elif path.is_file():
        file = path
    else:
        raise TokenizerError(
            f"{path} does not exist; give a checkpoint directory or a tokenizer file"
        )
    config = {**read_json(file.parent / "special_tokens_map.json")}
    config |= {
        key: value
        for key, value in read_json(file.parent / "tokenizer_config.json").items()
        if value is not None or key not in config
    }
    extra = {
        content: number
        for content, number in read_json(file.parent / "added_tokens.json").items()
        if isinstance(number, int)
    }
    if file.suffix == ".json":
        spec = read_json(file)
        if not isinstance(spec.get("model"), dict):
            raise TokenizerError(f"{file} is not a tokenizer.json: it has no `model`")
        return TokenizerFiles(layout.merged(spec, config, extra), config)
    data = file.read_bytes()
    if _RANKS.match(data):
        spec = rank_file.spec_of(
            data,
            pattern=rank_file.PATTERNS[rank_file.guess(file.name, size_hint=data.count(b"\n"))],
            special=extra,
        )
    else:
        converted = sentencepiece_file.convert(data, name=str(file))
        spec = converted.spec
        config = {**converted.config, **{key: v for key, v in config.items() if v is not None}}
    return TokenizerFiles(layout.merged(spec, config, extra), config)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"cannot read {path}: {error}") from error
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value
