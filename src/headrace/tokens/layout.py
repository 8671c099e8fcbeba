"""The dict form of a tokenizer (`tokenizer.json`) and its variants that headrace encodes with.

tokenizer.json + tokenizer_config.json → one dict → JSON of three `tokenizers.Tokenizer`s:

- `recognising`: control tokens are found in the text (for a template's own text);
- `plain`: every control token has an unguessable name in vocabulary and added tokens alike, so that
  no text whatsoever can spell it (for everything else);
- `plain, inner`: the same for text that does not begin the sequence (Metaspace `first`).

Invariant: ids never change between the variants; only what text can reach them does.
"""

import copy
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from headrace.errors import TokenizerError

Json: TypeAlias = dict[str, Any]

# Marks that templates and parsers give a meaning to although they are not flagged special.
_MARK = re.compile(
    r"<\|[^<>|]*\|>|</?(?:think|tool_call|tool_response|tools|tool_calls|function|arg_key|arg_value)>"
    r"|\[/?[A-Z_]+\]"
)


def is_control(token: Mapping[str, Any]) -> bool:
    """Whether an added token steers the model: flagged special, or a mark of templates."""
    return bool(token.get("special")) or _MARK.fullmatch(str(token["content"])) is not None


def content_of(token: object) -> str | None:
    """The text of a token in a config file, where it is a string or an AddedToken's dict."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def merged(spec: Json, config: Mapping[str, Any], extra: Mapping[str, int]) -> Json:
    """`spec` with the added tokens that other files of the checkpoint name, and with no truncation.

    Args:
        spec: The content of tokenizer.json.
        config: The content of tokenizer_config.json and special_tokens_map.json.
        extra: The content of added_tokens.json.
    """
    spec = dict(spec)
    spec["truncation"] = spec["padding"] = None  # nothing is cut or padded unasked
    vocab = vocabulary(spec)
    by_content: dict[str, Json] = {}
    for token in spec.get("added_tokens") or []:
        by_content[str(token["content"])] = dict(token)
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        for key, token in decoder.items():
            if (content := content_of(token)) is not None and content not in by_content:
                by_content[content] = added_token(int(key), content) | dict(token)
    for content, number in extra.items():
        by_content.setdefault(content, added_token(number, content, special=False))
    for content in named_tokens(config):
        if content in by_content:
            by_content[content]["special"] = True
        elif content in vocab:
            by_content[content] = added_token(vocab[content], content)
    spec["added_tokens"] = sorted(by_content.values(), key=lambda token: token["id"])
    return spec


def added_token(number: int, content: str, *, special: bool = True) -> Json:
    """An entry of `added_tokens`, matched in the raw text."""
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def begins_with(bos: str | None, number: int) -> Json | None:
    """A post-processor that puts `bos` before a text, for whoever else reads the file."""
    if bos is None:
        return None
    token: Json = {"SpecialToken": {"id": bos, "type_id": 0}}
    text: Json = {"Sequence": {"id": "A", "type_id": 0}}
    second: Json = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [token, text],
        "pair": [token, text, second],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }


def named_tokens(config: Mapping[str, Any]) -> Iterable[str]:
    """The special tokens that a tokenizer_config.json names by role, in any of its three places."""
    for key, value in config.items():
        if key.endswith("_token") and (content := content_of(value)) is not None:
            yield content
        elif key in ("additional_special_tokens", "extra_special_tokens"):
            values = value.values() if isinstance(value, Mapping) else value or ()
            yield from (content for item in values if (content := content_of(item)) is not None)


def vocabulary(spec: Json) -> dict[str, int]:
    """The model's own pieces, without the added tokens."""
    try:
        vocab = spec["model"]["vocab"]
        if isinstance(vocab, Mapping):
            return {str(piece): int(number) for piece, number in vocab.items()}
        return {str(entry[0]): number for number, entry in enumerate(vocab)}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TokenizerError(f"the tokenizer has no readable model.vocab: {error!r}") from error


def recognising(spec: Json) -> str:
    """JSON of the tokenizer that finds control tokens in its text and adds none by itself."""
    return json.dumps(spec | {"post_processor": None}, ensure_ascii=False)


def plain(spec: Json, *, inner: bool) -> str:
    """JSON of the tokenizer that no text can make say a control token."""
    spec = copy.copy(spec) | {"post_processor": None}
    nonce = secrets.token_hex(16)
    renamed = {
        str(token["content"]): f"{nonce}:{token['id']}"
        for token in spec["added_tokens"]
        if is_control(token)
    }
    spec["added_tokens"] = [
        token | {"content": renamed.get(str(token["content"]), token["content"])}
        for token in spec["added_tokens"]
    ]
    model = spec["model"] = dict(spec["model"])
    if isinstance(model["vocab"], Mapping):
        model["vocab"] = {renamed.get(p, p): number for p, number in model["vocab"].items()}
    else:
        model["vocab"] = [[renamed.get(entry[0], entry[0]), entry[1]] for entry in model["vocab"]]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if model.get("merges"):
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [
            list(pair)
            for pair in pairs
            if pair[0] not in renamed and pair[1] not in renamed and "".join(pair) not in renamed
        ]
    if inner:
        spec["pre_tokenizer"] = _never_first(spec.get("pre_tokenizer"))
    return json.dumps(spec, ensure_ascii=False)


def depends_on_position(spec: Json) -> bool:
    """Whether the beginning of a sequence is split otherwise than the rest of it."""
    return _never_first(spec.get("pre_tokenizer")) != spec.get("pre_tokenizer")


def _never_first(pre_tokenizer: Any) -> Any:
    if not isinstance(pre_tokenizer, Mapping):
        return pre_tokenizer
    if pre_tokenizer.get("type") == "Sequence":
        return {
            **pre_tokenizer,
            "pretokenizers": [_never_first(p) for p in pre_tokenizer["pretokenizers"]],
        }
    if pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") == "first":
        return {**pre_tokenizer, "prepend_scheme": "never"}
    return pre_tokenizer
