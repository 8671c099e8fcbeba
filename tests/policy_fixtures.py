"""A tiny policy's engine, prompts and a reward it can learn: shared by the tests of roll-outs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headrace.config import EngineSettings
from headrace.engine.rollouts import RolloutEngine
from headrace.model.decoder import Decoder
from headrace.training.policy.experience import (
    Advantage,
    Collector,
    GroupRelative,
    Question,
    Uses,
)
from headrace.training.policy.rewards import Reward
from headrace.training.policy.rollouts import Asking
from training_fixtures import VOCAB

EOS = 7
GROUP = 4


def spell(ids: Sequence[int]) -> str:
    """Ids as text, without a tokenizer."""
    return " ".join(map(str, ids))


def low_ids(answer: str, record: Any) -> float:
    """The share of ids below the record's bound."""
    ids = [int(word) for word in answer.split()]
    return sum(id < record["bound"] for id in ids) / len(ids)


def questions(count: int = 6) -> list[Question]:
    """Prompts of unequal length."""
    return [
        Question(
            prompt_ids=tuple((3 * n + k) % VOCAB for k in range(2 + n % 3)),
            record={"bound": 20, "place": n},
        )
        for n in range(count)
    ]


def engine(decoder: Decoder) -> RolloutEngine:
    settings = EngineSettings(kernels="torch", block_tokens=4, kv_cache_bytes=1 << 20)
    return RolloutEngine(decoder, eos_ids=(EOS,), settings=settings)


def collector(decoder: Decoder, advantage: Advantage | None = None, **changes: Any) -> Collector:
    """Four prompts a generation, of which each has a group of completions."""
    made = Collector(
        decoder=decoder,
        sampler=engine(decoder),
        questions=questions(),
        rewards=[Reward(name="low_ids", function=low_ids)],
        spell=spell,
        asking=Asking(group=GROUP, max_tokens=8),
        uses=Uses(prompts=4, batch_tokens=60),
        advantage=advantage or GroupRelative(group=GROUP),
    )
    return replace(made, **changes)
