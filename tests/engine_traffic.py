"""What the engine's tests share: a pool that remembers its writes, a clock, tiny models, twins.

`PoolModel` is a model whose next token is a function of the tokens that it reads back through the
block tables, so a block that was lost, shared wrongly or overwritten shows as a wrong token.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch

from headrace.config import EngineSettings
from headrace.engine.blocks import BlockManager
from headrace.engine.core import EngineCore
from headrace.engine.request import EngineRequest, RowResult, Sequence, StopFactory
from headrace.engine.sampler import History, Sampled, SampleRow, prompt_logprobs, sample
from headrace.engine.scheduler import Events, Plan, Scheduler
from headrace.engine.stacks import eager
from headrace.model.attend import Packed
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.types import FinishReason, Priority, SamplingParams, TokenLogprob

torch.set_num_threads(1)  # models this small only lose by sharing their work out

VOCAB = 61
EOS = 7


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def request(
    request_id: str,
    prompt: tuple[int, ...] | list[int] | range,
    *,
    salt: str = "",
    deadline_s: float | None = None,
    eos_ids: tuple[int, ...] = (),
    priority: Priority = Priority.INTERACTIVE,
    **sampling: Any,
) -> EngineRequest:
    """An `EngineRequest` with seed 0 and temperature 0 unless told."""
    given: dict[str, Any] = {"seed": 0, "temperature": 0.0, **sampling}
    params = SamplingParams(**given)
    return EngineRequest(
        id=request_id,
        prompt=tuple(prompt),
        sampling=params,
        salt=salt,
        deadline_s=deadline_s,
        eos_ids=eos_ids,
        priority=priority,
    )


def next_token(tokens: list[int], *, seed: int, choice: int) -> int:
    """The fake model: any token may follow, and every token read decides which."""
    return zlib.crc32(repr((tokens, seed, choice)).encode()) % VOCAB


@dataclass
class PoolModel:
    """Executes plans on a dictionary of slots."""

    block_tokens: int
    slots: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])

    def slot(self, sequence: Sequence, position: int) -> int:
        block, offset = divmod(position, self.block_tokens)
        return sequence.blocks[block] * self.block_tokens + offset

    def execute(self, plan: Plan) -> dict[Sequence, RowResult]:
        written: set[int] = set()
        for sequence, rows in plan.rows.items():
            start = sequence.computed
            tokens = sequence.tokens(start, start + rows)
            assert len(tokens) == rows > 0
            for position, token in enumerate(tokens, start):
                slot = self.slot(sequence, position)
                assert slot not in written, "two rows of a step write one slot"
                written.add(slot)
                self.slots[slot] = (position, token)
        results: dict[Sequence, RowResult] = {}
        for sequence, rows in plan.rows.items():
            stop = sequence.computed + rows
            read = [self.slots[self.slot(sequence, position)] for position in range(stop)]
            assert [position for position, _ in read] == list(range(stop))
            tokens = [token for _, token in read]
            assert tokens == sequence.tokens(0, stop), "the pool holds something else"
            prompt = sequence.request.prompt
            scores: tuple[TokenLogprob, ...] = ()
            if sequence.scores_prompt:
                first = max(sequence.computed, len(sequence.prompt_scores)) + 1
                scores = tuple(score(tokens[:at], prompt[at]) for at in range(first, stop + 1)
                               if at < len(prompt))  # fmt: skip
            results[sequence] = RowResult(prompt_scores=scores)
            if sequence.samples and stop == len(sequence):
                seed = sequence.request.sampling.seed or 0
                token = next_token(tokens, seed=seed, choice=sequence.index)
                results[sequence] = RowResult(prompt_scores=scores, token=token)
        return results


def score(before: list[int], token: int) -> TokenLogprob:
    """The fake model's log-probability of a prompt token."""
    return TokenLogprob(token=token, logprob=-float(zlib.crc32(repr(before).encode()) % 1000))


def expected(asked: EngineRequest, max_tokens: int, *, choice: int) -> list[int]:
    """What the fake model answers alone: the educational twin of the scheduler."""
    tokens, size = list(asked.prompt), len(asked.prompt)
    while len(tokens) - size < max_tokens:
        tokens.append(next_token(tokens, seed=asked.sampling.seed or 0, choice=choice))
        if tokens[-1] in asked.end_ids and len(tokens) - size > asked.sampling.min_tokens:
            break
    return tokens[size:]


def make_scheduler(
    *,
    blocks: int = 32,
    block_tokens: int = 4,
    context_tokens: int = 64,
    clock: Callable[[], float] | None = None,
    watch_stops: StopFactory | None = None,
    **settings: Any,
) -> tuple[Scheduler, PoolModel]:
    scheduler = Scheduler(
        BlockManager(blocks=blocks, block_tokens=block_tokens),
        settings=EngineSettings(block_tokens=block_tokens, **settings),
        context_tokens=context_tokens,
        domain=("model", "adapter"),
        watch_stops=watch_stops,
        clock=clock or Clock(),
    )
    return scheduler, PoolModel(block_tokens=block_tokens)


def run_step(scheduler: Scheduler, model: PoolModel, *, budget: int = 16) -> Events:
    plan = scheduler.plan(budget)
    assert plan.rows or not scheduler.has_work, "work, but nothing planned"
    assert plan.total <= budget
    return scheduler.commit(plan, model.execute(plan))


def run_all(scheduler: Scheduler, model: PoolModel, *, budget: int = 16) -> Events:
    events: Events = []
    for _ in range(100_000):
        if not scheduler.has_work:
            return events
        events += run_step(scheduler, model, budget=budget)
        scheduler.check_integrity()
    raise AssertionError("the scheduler never came to an end")


# --- real, tiny models ------------------------------------------------------------------------


@cache
def tiny_decoder(family: str) -> Decoder:
    """A random decoder whose logits are far apart, so that rounding does not choose tokens."""
    config = ModelConfig(
        family=family,
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=96,
        qk_norm=family == "qwen3",
        windows=(5, None) if family == "mistral" else (),
        initializer_range=0.3,
    )
    decoder = Decoder(config)
    decoder.init_weights(3)
    return decoder


def make_core(
    family: str = "qwen3",
    *,
    blocks: int = 64,
    block_tokens: int = 4,
    clock: Callable[[], float] | None = None,
    **settings: Any,
) -> EngineCore:
    decoder = tiny_decoder(family)
    config = decoder.config
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    engine = EngineSettings(
        block_tokens=block_tokens,
        kv_cache_bytes=blocks * block_tokens * token_bytes,
        **settings,
    )
    built = eager(decoder, engine)
    return EngineCore(
        built.stack, engine, blocks=built.blocks, fingerprint=family, clock=clock or Clock()
    )


@dataclass(frozen=True)
class Twin:
    """One choice as the slow loop makes it."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: FinishReason


@cache
def twin(family: str, asked: EngineRequest, choice: int) -> Twin:
    """The educational twin: the whole sequence again for each token, no cache, no batch."""
    decoder = tiny_decoder(family)
    tokens, size = list(asked.prompt), len(asked.prompt)
    sampling = replace(asked.sampling, logprobs=0)
    limit = sampling.max_tokens
    assert limit is not None
    logprobs: list[float] = []
    finish = FinishReason.LENGTH
    while len(tokens) - size < limit and finish is FinishReason.LENGTH:
        history = History.of(sampling, asked.prompt)
        for token in tokens[size:]:
            if history is not None:
                history.push(token)
        row = SampleRow(
            sampling=sampling,
            seed=asked.sampling.seed or 0,
            choice=choice,
            position=len(tokens) - size,
            history=history,
            end_ids=asked.end_ids,
        )
        outcome = sample(packed_logits(decoder, tokens)[-1:], [row])[0]
        assert isinstance(outcome, Sampled)
        assert outcome.logprob is not None
        if outcome.token in asked.end_ids and len(tokens) - size >= sampling.min_tokens:
            finish = FinishReason.STOP
        tokens.append(outcome.token)
        logprobs.append(outcome.logprob.logprob)
    return Twin(tokens=tuple(tokens[size:]), logprobs=tuple(logprobs), finish=finish)


def packed_logits(decoder: Decoder, tokens: list[int]) -> torch.Tensor:
    """Logits of every row of one sequence, contiguous."""
    with torch.inference_mode():
        ids_T = torch.tensor(tokens)
        attend = Packed(torch.zeros(len(tokens), dtype=torch.int64))
        return decoder.logits(decoder.hidden(ids_T, torch.arange(len(tokens)), attend))


def twin_prompt_logprobs(family: str, asked: EngineRequest) -> list[TokenLogprob]:
    logits_TV = packed_logits(tiny_decoder(family), list(asked.prompt))
    k = asked.sampling.prompt_logprobs or 0
    return prompt_logprobs(logits_TV[:-1], asked.prompt[1:], k=k)
