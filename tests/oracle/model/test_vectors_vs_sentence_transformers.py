"""Whole vectors against sentence-transformers: random checkpoints, and MiniLM's real weights."""

from pathlib import Path

import pytest
import torch

import encoders
from headrace.engine.inputs import InputEncoder
from headrace.model.encoder_checkpoint import load_encoder
from headrace.model.vectors import EagerEncoder, Vectors
from headrace.tokens import Tokenizer
from headrace.types import EmbedRequest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

REAL = [
    "Who wrote the Norwegian national anthem?",
    "",
    "naïve café — déjà vu, ☃ and 中文 too",
    "A headrace is the channel that brings water to the mill wheel. " * 20,
    "tokenization of unbelievably-long compound wordforms, e.g. antidisestablishmentarianism",
]


def _ours(directory: Path, texts: list[str], prompt: str = "") -> torch.Tensor:
    loaded = load_encoder(directory, dtype="float32")
    encoder = InputEncoder(
        Tokenizer.load(directory), loaded.sentences, vocab_size=loaded.config.vocab_size
    )
    request = EmbedRequest(model="m", inputs=tuple(texts), prompt=prompt, truncate=True)
    return Vectors(EagerEncoder(loaded.encoder), loaded.sentences)(encoder.encode(request).inputs)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", None])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_random_checkpoints(
    tmp_path: Path, family: str, pooling: str | None, normalize: bool
) -> None:
    prompts = None if pooling is None else {"query": "query: ", "passage": "what is: "}
    directory = encoders.make(
        tmp_path / "m", family, pooling=pooling, normalize=normalize, prompts=prompts, max_tokens=40
    )
    oracle = encoders.sentence_transformer(directory)
    texts = encoders.texts(12, most_words=60)
    for prompt in ("", *(prompts or ())):
        wanted = torch.tensor(oracle.encode(texts, prompt_name=prompt or None))
        found = _ours(directory, texts, prompt)
        assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


def test_minilm_itself() -> None:
    directory = encoders.minilm()
    wanted = torch.tensor(encoders.sentence_transformer(directory).encode(REAL))
    found = _ours(directory, REAL)
    assert (found - wanted).abs().max() <= 1e-5
    assert torch.cosine_similarity(found, wanted).min() >= 0.999999
