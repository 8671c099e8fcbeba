"""The files of sentence-transformers → how a checkpoint's hidden states become one vector.

`modules.json` names the steps (Transformer, Pooling, Normalize), `1_Pooling/config.json` the
pooling, `sentence_bert_config.json` the longest input, `config_sentence_transformers.json` the
prompts. A directory without `modules.json` is pooled by the mean and not normalized, as
sentence-transformers does. Invariant: a step or a mode that is not implemented is refused by its
name. Loads no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from headrace.errors import CheckpointError, UnsupportedModel
from headrace.model.encoder_config import EncoderConfig
from headrace.model.files import read_json

MEAN, CLS = "mean", "cls"

_OLD_MODES = {
    "pooling_mode_cls_token": CLS,
    "pooling_mode_mean_tokens": MEAN,
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_LENGTH_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceConfig:
    """What lies around an encoder."""

    pooling: str = MEAN
    """mean | cls"""
    normalize: bool = False
    max_tokens: int = 512
    """Longest input, its marks counted."""
    lower: bool = False
    """Texts are lowered before they are tokenized."""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name -> what is put before a text."""
    default_prompt: str = ""
    """Name of the prompt of requests that name none."""


def read_sentences(directory: Path, config: EncoderConfig) -> SentenceConfig:
    """Read a checkpoint directory.

    Raises:
        CheckpointError: A malformed file; UnsupportedModel names a step that is not implemented.
    """
    normalize, pooling = False, MEAN
    modules = _modules(directory)
    for kind, folder in modules:
        if kind == "Normalize":
            normalize = True
        elif kind == "Pooling":
            pooling = _pooling(directory / folder / "config.json", config)
        elif kind != "Transformer":
            raise UnsupportedModel(
                f"{directory / 'modules.json'}: the step {kind} is not supported; supported are "
                "Transformer, Pooling, Normalize"
            )
    lengths = _first_file(directory, _LENGTH_FILES) if modules else {}
    prompts, default = _prompts(directory)
    return SentenceConfig(
        pooling=pooling,
        normalize=normalize,
        max_tokens=_max_tokens(directory, lengths, config),
        lower=lengths.get("do_lower_case") is True,
        prompts=prompts,
        default_prompt=default,
    )


def _modules(directory: Path) -> list[tuple[str, str]]:
    path = directory / "modules.json"
    if not path.is_file():
        return []
    try:
        steps = json.loads(path.read_bytes())
        found = [(str(step["type"]).rpartition(".")[2], str(step["path"])) for step in steps]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a list of modules: {error!r}") from error
    for _, folder in found:
        if folder and Path(folder).name != folder:
            raise CheckpointError(f"{path}: {folder!r} is not a plain folder name")
    return found


def _pooling(path: Path, config: EncoderConfig) -> str:
    said = read_json(path)
    given: object = said.get("pooling_mode")
    if given is None:
        given = [mode for key, mode in _OLD_MODES.items() if said.get(key)] or [MEAN]
    modes = [given] if isinstance(given, str) else cast("list[object]", given)
    if modes not in ([MEAN], [CLS]):
        shown = ", ".join(str(mode) for mode in modes)
        raise UnsupportedModel(f"{path}: pooling by {shown} is not supported, only mean or cls")
    if said.get("include_prompt", True) is not True:
        raise UnsupportedModel(f"{path}: include_prompt false is not supported")
    width = said.get("embedding_dimension", said.get("word_embedding_dimension"))
    if width is not None and width != config.hidden_size:
        raise CheckpointError(
            f"{path} pools {width} dimensions where config.json has {config.hidden_size}"
        )
    return str(modes[0])


def _max_tokens(directory: Path, lengths: Mapping[str, Any], config: EncoderConfig) -> int:
    said: object = lengths.get("max_seq_length")
    if said is None:
        path = directory / "tokenizer_config.json"
        said = read_json(path).get("model_max_length") if path.is_file() else None
    if said is None or (isinstance(said, float) and said > config.max_tokens):
        return config.max_tokens  # transformers writes 1e30 where a tokenizer has no limit
    if isinstance(said, bool) or not isinstance(said, int) or said < 3:
        raise CheckpointError(f"{directory}: the longest input {said!r} is not a number of tokens")
    return min(said, config.max_tokens)


def _prompts(directory: Path) -> tuple[dict[str, str], str]:
    path = directory / "config_sentence_transformers.json"
    if not path.is_file():
        return {}, ""
    said = read_json(path)
    found: object = said.get("prompts") or {}
    prompts = cast("dict[str, object]", found) if isinstance(found, dict) else {"": 0}
    if not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{path}: prompts are not a table of texts")
    # sentence-transformers writes empty prompts for `query` and `document` where a model has none.
    named = {name: str(text) for name, text in prompts.items() if text}
    default = said.get("default_prompt_name") or ""
    if default and default not in prompts:
        raise CheckpointError(f"{path}: default_prompt_name {default!r} is not among its prompts")
    return named, str(default) if default in named else ""


def _first_file(directory: Path, names: tuple[str, ...]) -> dict[str, Any]:
    found = next((directory / name for name in names if (directory / name).is_file()), None)
    return {} if found is None else read_json(found)
