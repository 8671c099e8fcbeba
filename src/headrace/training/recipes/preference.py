"""A model and preferences -> the model that answers as preferred, or one that scores answers.

    plan = dpo()                                     # or orpo(), kto(), reward()
    for event in train(plan, model=..., data=..., out=...): ...

`loss` holds the method's constants, everything else is as in `recipes.sft`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from headrace.model import adapters
from headrace.model.adapters import Adapter
from headrace.model.decoder import Decoder
from headrace.model.reward import RewardModel, with_padding
from headrace.training import card, compute, loop, recipe, state
from headrace.training.log import Logs
from headrace.training.objectives.dpo import DpoSettings
from headrace.training.objectives.kto import KtoSettings
from headrace.training.objectives.orpo import OrpoSettings
from headrace.training.objectives.reward import RewardSettings
from headrace.training.parallel import ALONE
from headrace.training.recipe import Compute, Resume, Rows, Updates
from headrace.training.recipes import base
from headrace.training.recipes.preference_methods import Method, Setting, prepare
from headrace.training.task import Task
from headrace.training.watch import Event, Prepared, Published, Watch, observed

S = TypeVar("S", DpoSettings, OrpoSettings, KtoSettings, RewardSettings)
_STAGES = {DpoSettings: "dpo", OrpoSettings: "orpo", KtoSettings: "kto", RewardSettings: "reward"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference(Generic[S]):
    """Tuning on preferences."""

    loss: S
    updates: Updates
    """`steps` 0 = as many as `epochs` asks for."""
    rows: Rows = field(
        default_factory=lambda: Rows(per_step=32, row_tokens=2048, batch_tokens=8192)
    )
    """`per_step` counts pairs (of KTO, answers); `batch_tokens` must hold both sides of a pair."""
    epochs: float = 1.0
    adapter: Adapter = field(default_factory=Adapter)
    """A fresh one changes nothing, so that the reference is the model that it is put on."""
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    held_out_one_in: int = 20
    """One record in so many is never trained on; 0 = all are."""
    evaluate_every_steps: int = 50
    samples: int = 3
    """Held-out prompts that are answered when the model is scored; a reward model answers none."""
    sample_tokens: int = 64


def dpo() -> Preference[DpoSettings]:
    """The DPO family; the learning rate is for whole models of billions of parameters."""
    return Preference(loss=DpoSettings(), updates=_updates(1e-6))


def orpo() -> Preference[OrpoSettings]:
    """ORPO, which needs no tuned model to begin with."""
    return Preference(loss=OrpoSettings(), updates=_updates(8e-6))


def kto() -> Preference[KtoSettings]:
    """KTO, for answers that were judged one by one."""
    return Preference(loss=KtoSettings(), updates=_updates(1e-6))


def reward() -> Preference[RewardSettings]:
    """A reward model: one score a conversation."""
    return Preference(loss=RewardSettings(), updates=_updates(1e-5))


def _updates(lr: float) -> Updates:
    return Updates(steps=0, lr=lr, warmup_steps=10, schedule="cosine")


def train(
    plan: Preference[S],
    *,
    model: Path,
    data: Path,
    out: Path,
    resume: Resume = Resume.ASK,
    tensorboard: bool = False,
) -> Iterator[Event]:
    """Tune the model into `out`; yields what happens.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; `resume` goes on from the checkpoint that was written.
        DataError: A record that cannot be trained on, or none that can.
    """
    device = compute.place(plan.compute, ALONE)
    resuming = state.admit(out / "checkpoints", resume)
    logs = Logs(out, tensorboard=tensorboard)
    base.foresee(
        model,
        plan.adapter,
        rows=plan.rows,
        updates=plan.updates,
        compute=plan.compute,
        device=device.type,
    )
    start = base.read(model, plan.adapter, seed=plan.seed)
    out.mkdir(parents=True, exist_ok=True)  # not for a model that is not there
    start.decoder.to(device)
    # Before the reference is asked, so that it is rounded as the policy is.
    compute.wrap(start.decoder, plan.compute)
    method = prepare(
        plan.loss,
        Setting(
            base=start,
            data=data,
            out=out,
            rows=plan.rows,
            seed=plan.seed,
            held_out_one_in=plan.held_out_one_in,
            precision=plan.compute.precision,
        ),
    )
    card.note_data(out, data, records=method.trained)
    updates = base.with_steps(
        plan.updates, epochs=plan.epochs, rows=method.trained, per_step=plan.rows.per_step
    )
    plan = replace(plan, updates=updates)
    trainee = loop.Trainee(
        decoder=start.decoder,
        task=method.task,
        batches=method.batches,
        fingerprint=recipe.fingerprint(
            plan,
            start.loaded.fingerprint,
            start.tokenizer.fingerprint,
            start.template.fingerprint,
            recipe.rows_hash(method.rows),
        ),
        config=recipe.resolved(plan),
        beside=method.head,
    )
    yield Prepared(
        parameters=sum(param.numel() for param in start.decoder.parameters()),
        trained=sum(param.numel() for _, param in trainee.named_parameters()),
        facts=method.facts,
    )
    watch = Watch(
        every_steps=plan.evaluate_every_steps,
        score=_scorer(start.decoder, method.task, method.held_out),
        sample=lambda: base.answers(
            start, method.prompts[: plan.samples], max_tokens=plan.sample_tokens
        ),
    )
    with loop.stop_on_signal() as should_stop:
        reports = loop.run(
            trainee,
            _STAGES[type(plan.loss)],
            plan.updates,
            directory=out / "checkpoints",
            resume=resuming,
            should_stop=should_stop,
        )
        yield from observed(reports, watch, logs)
    logs.close()
    yield _publish(start, method, out)


def _scorer(
    decoder: Decoder, task: Task[Any], held_out: Callable[[], Sequence[Any]] | None
) -> Callable[[], Mapping[str, float]] | None:
    if held_out is None:
        return None

    @torch.no_grad()
    def score() -> Mapping[str, float]:
        sums: dict[str, float] = {}
        weight = 0.0
        for batch in held_out():
            loss = task.loss(decoder, batch)
            weight += loss.weight
            for name, value in {"loss": float(loss.sum), **loss.metrics}.items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: value / weight for name, value in sums.items()}

    return score


def _publish(start: base.Base, method: Method, out: Path) -> Published:
    if method.head is None:
        return base.publish(start, start.decoder, out)
    end_id = start.tokenizer.eos_id
    assert end_id is not None  # or there would be no rows
    config = start.loaded.config
    if adapters.wrappers(start.decoder):
        config = base.baked(start, start.decoder, out)
    made = RewardModel(
        decoder=start.decoder,
        head=method.head,
        config=with_padding(config, end_id),
    )
    made.save(
        out / "model",
        dtype=start.loaded.config.dtype,
        beside=base.carried(start),
        replace_existing=True,
    )
    return base.published(out / "model")
