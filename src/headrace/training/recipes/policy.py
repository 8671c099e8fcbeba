"""A model, prompts and rewards -> the model tuned on its own answers, by GRPO or PPO.

Both sample by an engine over the very parameters that are trained (`Open` makes it; `headrace.app`
knows how), judge by rewards that code can vouch for, and differ in what makes rewards advantages.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from headrace.config import EngineSettings
from headrace.data import records, sources
from headrace.errors import ConfigError, DataError
from headrace.model.decoder import Decoder
from headrace.tokens import Tokenizer, render
from headrace.training import card, compute, loop, recipe, state
from headrace.training.log import Logs
from headrace.training.objectives.grpo import Average, GrpoTerms
from headrace.training.objectives.policy import Clip
from headrace.training.objectives.ppo import PpoTerms
from headrace.training.parallel import ALONE
from headrace.training.policy.estimates import Scale
from headrace.training.policy.experience import (
    Advantage,
    Collector,
    Experience,
    GroupRelative,
    Question,
    ThroughTime,
    Uses,
)
from headrace.training.policy.rewards import Reward, reward, scores
from headrace.training.policy.rollouts import Asking, Completion, Sampler, roll_out
from headrace.training.policy.tasks import Grpo as GrpoTask
from headrace.training.policy.tasks import Ppo as PpoTask
from headrace.training.policy.tasks import ValueHead
from headrace.training.policy.twin import frozen, twin
from headrace.training.recipe import Compute, Resume, Updates
from headrace.training.recipes import base
from headrace.training.supervise import Supervisor
from headrace.training.watch import Event, Prepared, Watch, observed
from headrace.types import TextPart

Open = Callable[[Decoder, Sequence[int], EngineSettings], Sampler]
"""(decoder, ids that end an answer, sizes) -> an engine over the decoder's own parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RollOuts:
    """How answers are sampled and how often they are used."""

    prompts: int = 8
    """A generation."""
    group: int = 8
    """Answers of each prompt."""
    max_tokens: int = 256
    """Of an answer."""
    temperature: float = 1.0
    minibatches: int = 1
    """Steps that one pass over a generation makes."""
    epochs: int = 1
    """Passes over a generation."""
    batch_tokens: int = 4096
    """A forward pass holds at most this many tokens."""
    mask_truncated: bool = False
    """Answers that were cut off teach nothing."""
    max_running: int = 128
    """Sequences that the engine decodes at once."""
    kv_cache_bytes: int = 0
    """0 = a quarter of the free memory."""

    @property
    def asking(self) -> Asking:
        return Asking(group=self.group, max_tokens=self.max_tokens, temperature=self.temperature)

    @property
    def uses(self) -> Uses:
        return Uses(
            prompts=self.prompts,
            minibatches=self.minibatches,
            epochs=self.epochs,
            batch_tokens=self.batch_tokens,
            mask_truncated=self.mask_truncated,
        )

    @property
    def engine(self) -> EngineSettings:
        """As the engine takes it."""
        return EngineSettings(
            kernels="torch", max_running=self.max_running, kv_cache_bytes=self.kv_cache_bytes
        )


def _updates() -> Updates:
    # No spikes: the loss of a policy is about 0 whenever it stands where it sampled, and anything
    # but 0 right after; its level says nothing about a step's health.
    return Updates(steps=200, lr=1e-6, warmup_steps=10, schedule="constant", spike_sigmas=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grpo:
    """Group-relative policy optimisation."""

    updates: Updates = field(default_factory=_updates)
    rollouts: RollOuts = field(default_factory=RollOuts)
    average: Average = "dapo"
    """Over what the loss is a mean; see `objectives.grpo`."""
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    level: Literal["token", "sequence"] = "token"
    """sequence = one ratio an answer (GSPO)."""
    scale: Scale = "group"
    """By whose standard deviation advantages are divided."""
    kl: float = 0.0
    """Weight of the divergence from the model at the start; 0 = none, and no second model."""
    entropy: float = 0.0
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    held_out_one_in: int = 20
    """One prompt in so many is never trained on, and scored by greedy answers; 0 = all are."""
    held_out_max: int = 64
    evaluate_every_steps: int = 20

    @property
    def clip(self) -> Clip:
        return Clip(epsilon_low=self.epsilon_low, epsilon_high=self.epsilon_high, level=self.level)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ppo:
    """Proximal policy optimisation, the value head on the policy's own hidden states."""

    updates: Updates = field(default_factory=_updates)
    rollouts: RollOuts = field(
        default_factory=lambda: RollOuts(prompts=32, group=1, minibatches=4, epochs=2)
    )
    epsilon: float = 0.2
    value: float = 0.1
    """Weight of the value loss."""
    value_range: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    kl: float = 0.05
    """Times log(policy / model at the start), taken off each token's reward; 0 = none."""
    whiten: bool = True
    """Advantages of a generation are brought to mean 0 and variance 1."""
    entropy: float = 0.0
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    held_out_one_in: int = 20
    """One prompt in so many is never trained on, and scored by greedy answers; 0 = all are."""
    held_out_max: int = 64
    evaluate_every_steps: int = 20

    @property
    def clip(self) -> Clip:
        return Clip(epsilon_low=self.epsilon, epsilon_high=self.epsilon)


def train(
    plan: Grpo | Ppo,
    *,
    model: Path,
    prompts: Path,
    rewards: Sequence[str],
    open_sampler: Open,
    out: Path,
    resume: Resume = Resume.ASK,
    tensorboard: bool = False,
) -> Iterator[Event]:
    """Tune the model into `out`; yields what happens.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; `resume` goes on from the checkpoint that was written.
        DataError: A bad prompt, none that fits, or a reward that raises or is no number.
        ConfigError: A reward that cannot be had.
    """
    if not rewards:
        raise DataError("no reward is given, so nothing can be learned; name at least one")
    judges = [reward(spec) for spec in rewards]
    name = "grpo" if isinstance(plan, Grpo) else "ppo"
    alone(name)
    device = compute.place(plan.compute, ALONE)
    resuming = state.admit(out / "checkpoints", resume)
    logs = Logs(out, tensorboard=tensorboard)
    out.mkdir(parents=True, exist_ok=True)
    start = base.read(model)
    start.decoder.to(device)
    asked = questions(prompts, start, plan.rollouts, one_in=plan.held_out_one_in)
    yield Prepared(
        parameters=sum(param.numel() for param in start.decoder.parameters()),
        trained=sum(p.numel() for p in start.decoder.parameters() if p.requires_grad),
        facts={
            "prompts": len(asked.train),
            "held-out prompts": len(asked.held_out),
            "too long and left out": asked.too_long,
        },
    )
    card.note_data(out, prompts, records=len(asked.train))
    method = _method(plan, start.decoder)
    sampler = open_sampler(twin(start.decoder), base.end_ids(start), plan.rollouts.engine)
    # As it is before a checkpoint is loaded: the model that the run began with.
    reference = frozen(start.decoder) if plan.kl else None
    for model_ in (start.decoder, reference):
        if model_ is not None:
            compute.wrap(model_, plan.compute)
    collector = Collector(
        decoder=start.decoder,
        sampler=sampler,
        questions=asked.train,
        rewards=judges,
        spell=speller(start.tokenizer),
        asking=plan.rollouts.asking,
        uses=plan.rollouts.uses,
        advantage=method.advantage,
        reference=reference,
        seed=plan.seed,
    )
    experience = Experience(collector.collect, plan.rollouts.uses)
    trainee = loop.Trainee(
        decoder=start.decoder,
        task=method.task,
        batches=experience.batches,
        beside=method.advantage.head,
        memory=experience,
        fingerprint=recipe.fingerprint(
            plan,
            start.loaded.fingerprint,
            start.tokenizer.fingerprint,
            start.template.fingerprint,
            _questions_hash(asked.train),
            *rewards,
        ),
        config={**recipe.resolved(plan), "rewards": list(rewards)},
    )
    exam = _Exam(collector, asked.held_out[: plan.held_out_max])
    watch = Watch(
        every_steps=plan.evaluate_every_steps,
        score=exam.scores if exam.questions else None,
        sample=exam.samples if exam.questions else None,
    )
    with loop.stop_on_signal() as should_stop:
        reports = loop.run(
            trainee,
            name,
            plan.updates,
            directory=out / "checkpoints",
            resume=resuming,
            should_stop=should_stop,
        )
        yield from observed(reports, watch, logs)
    logs.close()
    yield base.publish(start, start.decoder, out)


def alone(method: str) -> None:
    """Refuse to be one of many processes.

    Raises:
        ConfigError: torchrun started this one.
    """
    if torch.distributed.is_torchelastic_launched():
        raise ConfigError(
            f"{method} samples by an engine in its own process, over whole parameters, and runs in "
            "one; start it without torchrun"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Method:
    task: GrpoTask | PpoTask
    advantage: Advantage


def _method(plan: Grpo | Ppo, decoder: Decoder) -> _Method:
    temperature = plan.rollouts.temperature
    if isinstance(plan, Grpo):
        terms = GrpoTerms(clip=plan.clip, average=plan.average, kl=plan.kl, entropy=plan.entropy)
        return _Method(
            task=GrpoTask(terms, temperature=temperature),
            advantage=GroupRelative(group=plan.rollouts.group, scale=plan.scale),
        )
    head = ValueHead(decoder.config.hidden_size).to(decoder.norm.weight.device)
    ppo = PpoTerms(
        clip=plan.clip, value=plan.value, value_range=plan.value_range, entropy=plan.entropy
    )
    return _Method(
        task=PpoTask(head, ppo, temperature=temperature),
        advantage=ThroughTime(
            head=head, gamma=plan.gamma, lam=plan.lam, kl=plan.kl, whiten=plan.whiten
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Prompts as ids, those for training apart from those for scoring."""

    train: Sequence[Question]
    held_out: Sequence[Question]
    too_long: int


def questions(path: Path, start: base.Base, rollouts: RollOuts, *, one_in: int) -> Asked:
    """Read and render the prompts.

    Rewards read `id`, `messages` (where all are text), `prompt` (the last one's text) and the
    line's rest.

    Raises:
        DataError: A bad line, no prompt that leaves room for an answer, or a template or tokenizer
            that cannot say where an answer begins and ends.
    """
    Supervisor.of(start.tokenizer, start.template)
    room = min(start.decoder.context_tokens, rollouts.batch_tokens) - rollouts.max_tokens
    train: list[Question] = []
    held: list[Question] = []
    too_long = 0
    for prompt in records.prompts(path):
        rendered = render(
            start.tokenizer,
            start.template,
            prompt.messages,
            tools=prompt.tools,
            add_generation_prompt=True,
        )
        if len(rendered.ids) > room:
            too_long += 1
            continue
        record = {"id": prompt.id, "prompt": prompt.messages[-1].text, **prompt.extra}
        if all(isinstance(part, TextPart) for m in prompt.messages for part in m.parts):
            record["messages"] = [{"role": str(m.role), "content": m.text} for m in prompt.messages]
        question = Question(prompt_ids=tuple(rendered.ids), record=record)
        is_held = bool(one_in) and sources.is_held_out(prompt.id, one_in=one_in)
        (held if is_held else train).append(question)
    if not train:
        raise DataError(
            f"{path}: {too_long} prompts have more than {room} tokens, which is what "
            f"rollouts.max_tokens {rollouts.max_tokens} leaves of the context and of "
            f"rollouts.batch_tokens, and {len(held)} are held out; none is left to train on"
        )
    return Asked(train=train, held_out=held, too_long=too_long)


def speller(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    """Ids -> the text of an answer; ids beyond the tokenizer's own, which pad a model's vocabulary,
    spell nothing."""
    return lambda ids: tokenizer.decode([token for token in ids if token < tokenizer.vocab_size])


def _questions_hash(asked: Sequence[Question]) -> str:
    text = json.dumps([[q.prompt_ids, dict(q.record)] for q in asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Exam:
    """Held-out prompts, answered greedily."""

    collector: Collector
    questions: Sequence[Question]

    def scores(self) -> dict[str, float]:
        """The mean of each reward and of their sum."""
        completions = self._answers(self.questions)
        spelled = [self.collector.spell(one.ids) for one in completions]
        judges: Sequence[Reward] = self.collector.rewards
        each = scores(judges, spelled, [self.questions[c.prompt].record for c in completions])
        total = each @ np.array([judge.factor for judge in judges])
        found = {"reward": float(total.mean())}
        for judge, column in zip(judges, each.T, strict=True):
            found[f"reward_{judge.name}"] = float(column.mean())
        return found

    def samples(self) -> Iterator[tuple[str, str]]:
        """(prompt, answer) of the first three."""
        chosen = self.questions[:3]
        for completion in self._answers(chosen):
            answer = self.collector.spell(completion.ids)
            prompt = self.collector.spell(chosen[completion.prompt].prompt_ids)
            yield prompt, answer + (" …" if completion.truncated else "")

    def _answers(self, asked: Sequence[Question]) -> list[Completion]:
        asking = Asking(group=1, max_tokens=self.collector.asking.max_tokens, greedy=True)
        prompts = [question.prompt_ids for question in asked]
        return roll_out(self.collector.sampler, prompts, asking, seed=0)
