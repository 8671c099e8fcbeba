"""A reward model's directory <-> a decoder with a scalar head: conversations in, scores out.

The format is transformers' `ForSequenceClassification` with one label, so that what is saved here
loads there with the same scores, and the other way round. As there, the score is the head's value
at the last token that is not the padding token, even where a conversation happens to end with it.

Legend: T packed tokens, S conversations, D model width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import safe_open
from torch import Tensor, nn

from headrace.errors import CheckpointError, DataError
from headrace.model import checkpoint
from headrace.model.attend import Packed
from headrace.model.config import ARCHITECTURES, ModelConfig, classifier_of
from headrace.model.decoder import Decoder, Linear
from headrace.model.files import read_json, read_tensors

_SCORE = "score.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModel:
    """A decoder and the head that scores a hidden state."""

    decoder: Decoder
    head: nn.Linear
    config: ModelConfig

    def save(
        self,
        path: Path,
        *,
        dtype: str = "auto",
        beside: Mapping[str, bytes] = MappingProxyType({}),
        replace_existing: bool = False,
    ) -> None:
        """Write a directory that transformers, and `load`, read; as `checkpoint.save`.

        Raises:
            CheckpointError: As `checkpoint.save`.
        """
        checkpoint.save(
            self.decoder,
            self.config,
            path,
            dtype=dtype,
            score_1D=self.head.weight.detach(),
            beside=beside,
            replace_existing=replace_existing,
        )

    @torch.no_grad()
    def scores(self, conversations: Sequence[Sequence[int]]) -> Tensor:
        """The score of each conversation of ids, float32 `[S]`, in one forward pass.

        Raises:
            DataError: A conversation without tokens.
        """
        at = [scored_position(ids, self.config.pad_token_id) for ids in conversations]
        sizes = torch.tensor([len(ids) for ids in conversations])
        device = self.head.weight.device
        ids_T = torch.tensor([token for ids in conversations for token in ids], device=device)
        pos_T = torch.cat([torch.arange(int(size)) for size in sizes]).to(device)
        doc_T = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        hidden_TD = self.decoder.hidden(ids_T, pos_T, Packed(doc_T))
        rows_S = (sizes.cumsum(0) - sizes + torch.tensor(at)).to(device)
        return self.head(hidden_TD[rows_S].to(self.head.weight.dtype)).squeeze(1).float()


def fresh_head(config: ModelConfig, *, seed: int, dtype: torch.dtype) -> nn.Linear:
    """An untrained head, normal(0, `initializer_range`) as transformers begins it."""
    head = Linear(config.hidden_size, 1, bias=False, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(0.0, config.initializer_range, generator=generator)
    return head


def load(path: Path, *, dtype: str = "auto", device: torch.device | str = "cpu") -> RewardModel:
    """Load a directory of `ForSequenceClassification` with one label.

    Raises:
        CheckpointError: Another architecture or number of labels, or as `checkpoint.load`.
    """
    hf = read_json(path / "config.json")
    family = str(hf.get("model_type"))
    wanted = [classifier_of(family)] if family in ARCHITECTURES else []
    if not wanted or hf.get("architectures") != wanted:
        raise CheckpointError(
            f"{path} is no reward model: its architectures are {hf.get('architectures')}; "
            "one is trained by `headrace train reward`"
        )
    body = {**hf, "architectures": [ARCHITECTURES[family]], "tie_word_embeddings": True}
    config = ModelConfig.from_hf(body)
    stored = read_tensors(path)
    score = stored.pop(_SCORE, None)
    if score is None or score.shape != (1, config.hidden_size):
        found = "none" if score is None else str(list(score.shape))
        raise CheckpointError(
            f"{path} is no reward model: {_SCORE} is {found}, not [1, {config.hidden_size}]"
        )
    chosen, target = checkpoint.choose_dtype(dtype, stored), torch.device(device)
    decoder = checkpoint.assemble(path, config, stored, dtype=chosen, device=target)
    head = Linear(config.hidden_size, 1, bias=False, dtype=chosen, device=target)
    with safe_open(score.file, framework="pt") as tensors, torch.no_grad():
        head.weight.copy_(tensors.get_tensor(_SCORE))
    return RewardModel(decoder=decoder, head=head, config=config)


def scored_position(ids: Sequence[int], pad_id: int | None) -> int:
    """Where a conversation is scored: its last token that is not padding (the first, if all are).

    Raises:
        DataError: No tokens.
    """
    if not ids:
        raise DataError("a conversation without tokens cannot be scored; drop it")
    return next((n for n in range(len(ids) - 1, -1, -1) if ids[n] != pad_id), 0)


def with_padding(config: ModelConfig, pad_id: int) -> ModelConfig:
    """The config with a padding token, without which transformers scores no batches."""
    return config if config.pad_token_id is not None else replace(config, pad_token_id=pad_id)
