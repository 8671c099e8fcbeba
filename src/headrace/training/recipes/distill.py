"""A student, a teacher of the same vocabulary and chats -> the student tuned towards the teacher.

Logit distillation over what the assistant says in the chats; on a share of the steps over what the
student itself answers to the same prompts (on-policy, GKD: arXiv 2306.13649). The teacher's
distribution is compared token by token, so the two must share a tokenizer; from any other teacher,
ask for answers (`headrace train answers`) and tune on them (`headrace train sft`).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headrace.config import EngineSettings
from headrace.data import records, sources
from headrace.data.corpus import Mixture, batches
from headrace.data.pack import PackedBatch, TokenRow, pack
from headrace.errors import CheckpointError, DataError
from headrace.model import checkpoint
from headrace.model.decoder import Decoder
from headrace.tokens import Tokenizer
from headrace.training import card, compute, evaluate, loop, recipe, state
from headrace.training.distill.stored import DistillStored, store
from headrace.training.distill.tasks import Distill as DistillTask
from headrace.training.log import Logs
from headrace.training.objectives.divergence import Divergence
from headrace.training.parallel import ALONE
from headrace.training.policy.rollouts import Asking, Completion, Sampler, roll_out
from headrace.training.policy.twin import twin
from headrace.training.recipe import Compute, Resume, Rows, Updates
from headrace.training.recipes import base
from headrace.training.recipes.policy import Open, alone
from headrace.training.supervise import Supervisor
from headrace.training.watch import Event, Prepared, Watch, observed

_STAGE = "distill"


@dataclass(frozen=True, kw_only=True, slots=True)
class Distill:
    """Distillation over logits."""

    updates: Updates = field(
        default_factory=lambda: Updates(steps=200, lr=2e-5, warmup_steps=10, schedule="cosine")
    )
    rows: Rows = field(
        default_factory=lambda: Rows(per_step=32, row_tokens=2048, batch_tokens=4096)
    )
    beta: float = 0.0
    """0 = forward KL, 1 = reverse KL, between = Jensen-Shannon; see `objectives.divergence`."""
    temperature: float = 1.0
    """Of both distributions while they are compared."""
    text: float = 0.0
    """The share of the chats' own cross entropy in the loss, on steps that are not on-policy."""
    on_policy: float = 0.0
    """The share of steps on the student's own answers (GKD's lambda)."""
    max_tokens: int = 256
    """Of such an answer."""
    teacher_top_k: int = 0
    """0 = the teacher runs in every step; else so many of its best tokens at each position are
    computed once, before the first step, and kept in OUT/teacher.safetensors."""
    teacher_dtype: str = "auto"
    """auto | float32 | bfloat16 | float16; auto = as the teacher is stored."""
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    held_out_one_in: int = 20
    """One conversation in so many is never trained on; 0 = all are."""
    evaluate_every_steps: int = 50


def train(
    plan: Distill,
    *,
    model: Path,
    teacher: Path,
    data: Path,
    open_sampler: Open,
    out: Path,
    resume: Resume = Resume.ASK,
    tensorboard: bool = False,
) -> Iterator[Event]:
    """Tune the student into `out`; yields what happens.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; `resume` goes on from the checkpoint that was written.
        CheckpointError: The two do not share a vocabulary.
        DataError: A conversation that cannot be trained on, or none that fits a row.
    """
    _check(plan)
    alone("distill")
    device = compute.place(plan.compute, ALONE)
    resuming = state.admit(out / "checkpoints", resume)
    logs = Logs(out, tensorboard=tensorboard)
    out.mkdir(parents=True, exist_ok=True)
    start = base.read(model)
    start.decoder.to(device)
    strong = _teacher(teacher, start, plan.teacher_dtype)
    chats = _chats(plan, start, data)
    yield Prepared(
        parameters=sum(param.numel() for param in start.decoder.parameters()),
        trained=sum(p.numel() for p in start.decoder.parameters() if p.requires_grad),
        facts={
            "of the teacher": sum(param.numel() for param in strong.decoder.parameters()),
            "conversations": len(chats.rows),
            "too long and left out": chats.too_long,
        },
    )
    card.note_data(out, data, records=len(chats.rows))
    mixture = Mixture(rows=chats.rows, per_step=plan.rows.per_step, seed=plan.seed)
    sampler = (
        open_sampler(twin(start.decoder), base.end_ids(start), EngineSettings(kernels="torch"))
        if plan.on_policy
        else None
    )
    compute.wrap(start.decoder, plan.compute)
    kind = Divergence(beta=plan.beta, temperature=plan.temperature)
    rows_hash = recipe.rows_hash(chats.rows)
    fingerprint = recipe.fingerprint(
        plan,
        start.loaded.fingerprint,
        strong.fingerprint,
        start.template.fingerprint,
        rows_hash,
    )
    config = {**recipe.resolved(plan), "teacher": str(teacher)}
    if plan.teacher_top_k:
        kept = store(
            strong.decoder,
            chats.rows,
            k=plan.teacher_top_k,
            temperature=plan.temperature,
            max_tokens=plan.rows.batch_tokens,
            path=out / "teacher.safetensors",
            key=f"{strong.fingerprint}/{rows_hash}/{plan.teacher_top_k}/{plan.temperature}",
        )
        trainee: loop.Trainee[Any] = loop.Trainee(
            decoder=start.decoder,
            task=DistillStored(kind, text=plan.text),
            batches=lambda step: kept.batches(
                mixture.indices(step), max_tokens=plan.rows.batch_tokens
            ),
            fingerprint=fingerprint,
            config=config,
        )
    else:
        trainee = loop.Trainee(
            decoder=start.decoder,
            task=DistillTask(strong.decoder, kind, text=plan.text),
            batches=_batches(plan, mixture, sampler),
            fingerprint=fingerprint,
            config=config,
        )
    held_out = chats.held_out

    def scores() -> dict[str, float]:
        assert held_out is not None
        apart = _divergence(start.decoder, DistillTask(strong.decoder, kind), held_out.batches)
        return {**asdict(evaluate.score(start.decoder, held_out)), "divergence": apart}

    watch = Watch(every_steps=plan.evaluate_every_steps, score=scores if held_out else None)
    with loop.stop_on_signal() as should_stop:
        reports = loop.run(
            trainee,
            _STAGE,
            plan.updates,
            directory=out / "checkpoints",
            resume=resuming,
            should_stop=should_stop,
        )
        yield from observed(reports, watch, logs)
    logs.close()
    yield base.publish(start, start.decoder, out)


def is_on_policy(plan: Distill, step: int) -> bool:
    """Whether a step is on the student's own answers: decided by (seed, step) alone."""
    digest = hashlib.sha256(f"{plan.seed}/on-policy/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < plan.on_policy


def prompt_ids(row: TokenRow) -> tuple[int, ...]:
    """What stands before the row's last answer, the generation prompt included."""
    last = int(np.flatnonzero(row.weights)[-1])
    before = np.flatnonzero(row.weights[:last] == 0)
    return tuple(row.ids[: int(before[-1]) + 1].tolist())


def answered(completion: Completion) -> TokenRow:
    """A completion as a row, its answer supervised."""
    return TokenRow(
        ids=np.array([*completion.prompt_ids, *completion.ids], np.int32),
        weights=np.repeat(
            np.array([0, 1], np.float32), [len(completion.prompt_ids), len(completion.ids)]
        ),
    )


def _batches(
    plan: Distill, mixture: Mixture, sampler: Sampler | None
) -> Callable[[int], Sequence[PackedBatch]]:
    max_tokens = plan.rows.batch_tokens
    asking = Asking(group=1, max_tokens=plan.max_tokens)

    def of(step: int) -> Sequence[PackedBatch]:
        if sampler is None or not is_on_policy(plan, step):
            return batches([mixture], step, max_tokens=max_tokens)
        prompts = [prompt_ids(row) for row in mixture.take(step)]
        seed = (plan.seed << 40) + step * mixture.per_step
        rows = [answered(one) for one in roll_out(sampler, prompts, asking, seed=seed)]
        return pack(sorted(rows, key=lambda row: -len(row.ids)), max_tokens=max_tokens)

    return of


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chats:
    rows: Sequence[TokenRow]
    held_out: evaluate.HeldOut | None
    too_long: int


def _chats(plan: Distill, start: base.Base, data: Path) -> _Chats:
    supervisor = Supervisor.of(start.tokenizer, start.template)
    longest = min(plan.rows.row_tokens, start.decoder.context_tokens, plan.rows.batch_tokens)
    room = longest - plan.max_tokens if plan.on_policy else longest
    rows: list[TokenRow] = []
    held: list[TokenRow] = []
    too_long = 0
    for chat in records.chats(data):
        row = supervisor.row(chat)
        if len(row.ids) - 1 > longest or len(prompt_ids(row)) > room:
            too_long += 1
        elif plan.held_out_one_in and sources.is_held_out(chat.id, one_in=plan.held_out_one_in):
            held.append(row)
        else:
            rows.append(row)
    if not rows:
        raise DataError(
            f"{data}: {too_long} conversations are longer than {longest} tokens, or leave no room "
            f"for max_tokens {plan.max_tokens}, and {len(held)} are held out; none is left to "
            "train on"
        )
    held_out = None
    if held:
        held_out = evaluate.HeldOut(
            batches=pack(held, max_tokens=plan.rows.batch_tokens),
            target_bytes=evaluate.target_bytes(held, start.tokenizer, without=None),
        )
    return _Chats(rows=rows, held_out=held_out, too_long=too_long)


def _teacher(path: Path, start: base.Base, dtype: str) -> checkpoint.Checkpoint:
    loaded = checkpoint.load(path, dtype=dtype, device=start.decoder.norm.weight.device)
    own, theirs = start.decoder.config.vocab_size, loaded.config.vocab_size
    if own != theirs or Tokenizer.load(path).fingerprint != start.tokenizer.fingerprint:
        raise CheckpointError(
            f"the teacher {path} has another tokenizer ({theirs} tokens, the student {own}), so "
            "their distributions are not over the same things; distil from its answers: headrace "
            "train answers, then headrace train sft"
        )
    loaded.decoder.requires_grad_(False)
    return loaded


def _divergence(decoder: Decoder, task: DistillTask, held_out: Sequence[PackedBatch]) -> float:
    total = weight = 0.0
    for batch in held_out:
        loss = task.measure(decoder, batch)
        total, weight = total + float(loss.sum), weight + loss.weight
    return total / weight


def _check(plan: Distill) -> None:
    for name in ("text", "on_policy"):
        if not 0 <= getattr(plan, name) <= 1:
            raise DataError(f"{name} {getattr(plan, name)} is a share; give a number from 0 to 1")
    if plan.teacher_top_k and plan.on_policy:
        raise DataError(
            f"teacher_top_k {plan.teacher_top_k} keeps what the teacher says of the chats, and "
            f"on_policy {plan.on_policy} asks it about answers that nobody knows yet; set one to 0"
        )
